"""Write tensors by name as a file that `torch.load` reads, without torch.save and its pickler.

The layout is that of torch.save since 1.6: a zip of a program for a stack machine and of the bytes
of each tensor. `saekit.core.torch_files` describes and reads it.
"""

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from saekit.core.errors import FormatError
from saekit.core.files import replace_with

_STORAGES = {
    torch.float64: "DoubleStorage",
    torch.float32: "FloatStorage",
    torch.float16: "HalfStorage",
    torch.int64: "LongStorage",
    torch.int32: "IntStorage",
    torch.bool: "BoolStorage",
}
_CPU, _NO_GRAD, _NO_HOOKS = b"X\x03\x00\x00\x00cpu", b"\x89", b"ccollections\nOrderedDict\n)R"


def write_state(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name, whole or not at all.

    Raises:
        FormatError: a tensor is of a type that is not written.
    """
    program, parts = [b"\x80\x02}"], {}
    for key, (name, tensor) in enumerate(tensors.items()):
        if tensor.dtype not in _STORAGES:
            known = ", ".join(str(d).removeprefix("torch.") for d in _STORAGES)
            raise FormatError(f"`{name}` is {tensor.dtype}; torch files are written of {known}.")
        plain = tensor.detach().cpu().contiguous()
        program += [_text(name), _tensor(str(key), plain), b"s"]  # s: put it into the dictionary
        parts[f"data/{key}"] = plain.numpy().tobytes()
    parts = {"data.pkl": b"".join(program) + b".", "byteorder": b"little", **parts}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, data in (parts | {"version": b"3\n"}).items():
            file.writestr(f"archive/{name}", data)
    replace_with(path, buffer.getvalue())


def _tensor(key: str, tensor: Tensor) -> bytes:
    """Return the instructions that make a tensor of the bytes under a key."""
    kind = b"ctorch\n" + _STORAGES[tensor.dtype].encode() + b"\n"
    storage = _group(_text("storage"), kind, _text(key), _CPU, _number(tensor.numel())) + b"Q"
    size, stride = (_group(*map(_number, axes)) for axes in (tensor.shape, tensor.stride()))
    made = _group(storage, _number(0), size, stride, _NO_GRAD, _NO_HOOKS)
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + made + b"R"


def _group(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)
