"""Published results as flat arrays of numbers, and checks of what goes into them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from saekit.core.errors import FormatError

# What describes the machine that made a file and is of no use on another.
MACHINE = ("plots_dir", "host")


class PublishedFile(NamedTuple):
    """What one file of results holds, whichever generation wrote it.

    Args:
        kind: "entropy_comparison", "entropy_vs_context_len", "feature_token_influence",
            "token_vector_influence", "feature_sparsity", "correlations",
            "feature_level_entropies" or "tensor".
        generation: "M", "H" or "S"; "" where the kind has one schema.
        arrays: numbers, by the names that `saekit.studies.locality.published.dataset` documents.
        info: what is not numbers: ``summary``, ``config`` and the like, as in the file.
        notes: what a reader should know, as a count that does not fit.
    """

    kind: str
    generation: str
    arrays: dict[str, np.ndarray]
    info: dict[str, Any]
    notes: tuple[str, ...] = ()


def numbers(value: Any, path: Path, what: str, ndim: int | None = None) -> np.ndarray:
    """Return numbers as an array.

    Raises:
        FormatError: they are not numbers, not of one shape, or of another number of axes.
    """
    try:
        array = value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    except ValueError as error:
        raise FormatError(f"`{what}` in {path} has rows of several lengths.") from error
    if not array.size and array.dtype.kind == "O":
        array = array.astype(np.float64)
    if array.dtype.kind not in "fiub":
        raise FormatError(f"`{what}` in {path} must be numbers; it is {array.dtype}.")
    if ndim is not None and array.ndim != ndim:
        raise FormatError(
            f"`{what}` in {path} must have {ndim} axes; it has shape {list(array.shape)}."
        )
    return array


def jagged(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of any lengths one after another, and where each starts (and the last ends)."""
    starts = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    return np.concatenate(rows) if len(rows) else np.zeros(0, np.float32), starts


def plain(value: Any, path: Path, what: str) -> Any:
    """Return a value as JSON can hold it: numbers of numpy and tensors become lists and numbers.

    Raises:
        FormatError: it holds anything else.
    """
    if isinstance(value, dict):
        kept = {str(k): v for k, v in value.items() if k not in MACHINE}
        return {k: plain(v, path, f"{what}.{k}") for k, v in kept.items()}
    if isinstance(value, list | tuple):
        return [plain(v, path, what) for v in value]
    if isinstance(value, np.ndarray | torch.Tensor | np.generic):
        return numbers(value, path, what).tolist()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise FormatError(f"`{what}` in {path} is {type(value).__name__}, not numbers or text.")


def field(raw: Any, name: str, kind: type, path: Path) -> Any:
    """Return an entry of a published dictionary.

    Raises:
        FormatError: it is missing or of another type.
    """
    if not isinstance(raw, dict) or not isinstance(raw.get(name), kind):
        found = type(raw.get(name)).__name__ if isinstance(raw, dict) else type(raw).__name__
        raise FormatError(f"{path} must have `{name}` ({kind.__name__}); it has {found}.")
    return raw[name]
