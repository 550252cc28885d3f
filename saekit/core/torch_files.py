"""The one place that reads files of torch.save, and only through its restricted loader.

Such a file is a program for a stack machine. The restricted loader runs none of its calls but
those that make tensors, plain containers and what is allowed by name here; it never imports
anything.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from saekit.core.errors import FormatError

Allowed = Any  # a class or function, or a pair of it and the name a file has for it


def read_restricted(path: Path, allowed: Sequence[Allowed] = ()) -> Any:
    """Return what a file of torch.save holds, on the CPU.

    Args:
        path: the file.
        allowed: what it may make beside tensors and plain containers.

    Raises:
        FormatError: it is missing or damaged, or asks for anything else; nothing of it ran.
    """
    if not path.is_file():
        raise FormatError(f"There is no file {path}.")
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged program may fail in any way
        # torch's own words advise to switch its safety off; of them only the name is kept
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        wants = f" It asks for {asked[1]}." if asked else f" ({type(error).__name__})"
        raise FormatError(
            f"{path} is damaged, or asks for more than tensors and numbers, which saekit never "
            f"runs.{wants}"
        ) from error


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors by name that a file of torch.save holds.

    Raises:
        FormatError: it is missing or damaged, or holds anything else.
    """
    found = read_restricted(path)
    if not isinstance(found, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in found.items()
    ):
        raise FormatError(f"{path} must hold tensors by name; it holds {_shape_of(found)}.")
    return dict(found)


def _shape_of(value: Any) -> str:
    if isinstance(value, dict):
        odd = [k for k, v in value.items() if not isinstance(v, torch.Tensor)]
        return f"also `{odd[0]}`, which is {type(value[odd[0]]).__name__}" if odd else "other keys"
    return type(value).__name__
