"""Reading large files of tensors in the order of memory that saekit keeps them in.

Encoders are kept by latent: `W_enc` has shape ``[d_in, d_sae]`` and its columns are contiguous. A
file that has them by dimension is read some rows at a time into its place, and so are numbers of 16
bits, so that a file and its copy are never held together.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saekit.core.files import read_tensors

PART_BYTES = 2**24  # read at once
_LOW = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def read_weights(path: Path, columns: Collection[str] = ()) -> dict[str, Tensor]:
    """Read a safetensors file; numbers of 16 bits become float32, exactly.

    Args:
        path: the file.
        columns: names of matrices ``[d_in, d_sae]``, to be kept by their columns.

    Raises:
        FormatError: it is missing or damaged.
    """
    tensors = read_tensors(path)  # checked; mapped, so that only what is used takes memory
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        head = json.loads(file.read(length))
        for name, tensor in tensors.items():
            turned = name in columns and tensor.ndim == 2
            if head[name]["dtype"] in _LOW and (turned or tensor.dtype != torch.float32):
                first = 8 + length + head[name]["data_offsets"][0]
                tensors[name] = _raised(file, first, head[name]["dtype"], tensor.shape, turned)
    return tensors


def _raised(file: Any, first: int, kind: str, shape: torch.Size, turned: bool) -> Tensor:
    """Return a tensor as float32, read a part of its rows at a time."""
    out = torch.empty(*reversed(shape)).t() if turned else torch.empty(shape)
    rows = out if out.ndim else out[None]
    width = _LOW[kind].itemsize * max(rows[:1].numel(), 1)
    file.seek(first)
    for part in rows.split(max(PART_BYTES // width, 1)):
        data = bytearray(len(part) * width)
        file.readinto(data)
        if data:
            part.copy_(torch.frombuffer(data, dtype=_LOW[kind]).view(part.shape))
    return out
