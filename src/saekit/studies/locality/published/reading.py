"""The published locality data: what its files of torch.save hold, as flat arrays of numbers.

Three generations of one schema are read: those of the first code ("M"), of the experiments that
followed ("H"), and of the data set's own description ("S"). Nothing in a file is run: the reader
makes tensors, numpy arrays and plain containers, and refuses everything else.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saekit.core.border import reading
from saekit.core.errors import FormatError
from saekit.core.torch_files import read_torch
from saekit.studies.locality.published._flat import PublishedFile, numbers
from saekit.studies.locality.published._published_others import OTHERS, feature_levels, is_levels
from saekit.studies.locality.published._published_pairs import comparison, sweep

# The key that tells a kind, and what reads it.
KINDS: dict[str, Callable[[Mapping[str, Any], Path], PublishedFile]] = {
    "batch_results": comparison,
    "results_by_context_len": sweep,
    "results_by_batch_size": sweep,
    **OTHERS,
}


def read(path: Path) -> PublishedFile:
    """Return what a published ``.pt`` file holds.

    Raises:
        FormatError: it is damaged, asks for more than numbers, or is of no known kind.
    """
    with reading(path, "a published locality file"):
        return _known(read_torch(path), path)


def _known(raw: Any, path: Path) -> PublishedFile:
    """Return what was read, by the key that tells its kind."""
    if isinstance(raw, torch.Tensor | np.ndarray):
        return PublishedFile("tensor", "", {"tensor": numbers(raw, path, "tensor")}, {})
    if not isinstance(raw, dict):
        raise FormatError(f"{path} holds {type(raw).__name__}, which no published file does.")
    for key, make in KINDS.items():
        if key in raw:
            return make(raw, path)
    if is_levels(raw):
        return feature_levels(raw, path)
    raise FormatError(
        f"{path} has {', '.join(map(str, list(raw)[:8])) or 'nothing'}; a published file has one "
        f"of {', '.join(KINDS)}, layer_<N>."
    )
