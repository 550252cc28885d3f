"""Read GGUF files: their settings, and their tensors as float32."""

import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from saekit.core.errors import FormatError

Bytes = UInt8[np.ndarray, "blocks bytes"]
Values = Float32[np.ndarray, "blocks weights"]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# Type codes of settings and their codes in `struct`.
_SCALARS = dict(zip([0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12], "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9


class Tensor(NamedTuple):
    """Where a tensor lies in the file, and how it is packed."""

    shape: tuple[int, ...]  # slowest axis first, as numpy has it
    kind: str  # a name in `BLOCKS`
    offset: int  # bytes from the beginning of the file


class GGUF:
    """The settings and tensors of a GGUF file.

    Args:
        data: the whole file.

    Raises:
        FormatError: it is not GGUF, is cut short, or packs a tensor in an unknown way.

    Source:
        The GGUF specification, github.com/ggml-org/ggml docs/gguf.md, versions 2 and 3.
    """

    def __init__(self, data: bytes | memoryview):
        self._data = memoryview(data)
        try:
            self.settings, self.tensors = _parse(self._data)
        except struct.error as error:
            raise FormatError(f"The GGUF file is cut short: {error}. Fetch it again.") from error

    def tensor(self, name: str) -> Float32[np.ndarray, "..."]:
        """Return a tensor, unpacked.

        Raises:
            FormatError: there is no such tensor, or the file ends inside it.
        """
        if name not in self.tensors:
            raise FormatError(f"The GGUF file has no tensor `{name}`.")
        shape, kind, offset = self.tensors[name]
        block = BLOCKS[kind]
        n_bytes = math.prod(shape) // block.weights * block.n_bytes
        if offset + n_bytes > len(self._data):
            raise FormatError(f"The GGUF file ends inside tensor `{name}`. Fetch it again.")
        raw = np.frombuffer(self._data, np.uint8, n_bytes, offset)
        return block.unpack(raw.reshape(-1, block.n_bytes)).reshape(shape)


class Block(NamedTuple):
    """A way of packing weights: so many in so many bytes."""

    weights: int
    n_bytes: int
    unpack: Callable[[Bytes], Values]


def _f32(raw: Bytes) -> Values:
    return raw.view("<f4").astype(np.float32)


def _f16(raw: Bytes) -> Values:
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def _bf16(raw: Bytes) -> Values:
    # bfloat16 is the upper half of a float32.
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _halves(raw: UInt8[np.ndarray, "blocks 16"]) -> UInt8[np.ndarray, "blocks 32"]:
    """Return the low four bits of every byte, then the high four."""
    return np.concatenate([raw & 15, raw >> 4], axis=1)


def _fifth_bits(raw: UInt8[np.ndarray, "blocks 4"]) -> UInt8[np.ndarray, "blocks 32"]:
    """Return bit 4 of each of 32 weights, at its place."""
    return np.unpackbits(raw, axis=1, bitorder="little") << 4


def _q4_0(raw: Bytes) -> Values:
    return _f16(raw[:, :2]) * (_halves(raw[:, 2:]).astype(np.float32) - 8)


def _q4_1(raw: Bytes) -> Values:
    return _f16(raw[:, :2]) * _halves(raw[:, 4:]).astype(np.float32) + _f16(raw[:, 2:4])


def _q5_0(raw: Bytes) -> Values:
    whole = _halves(raw[:, 6:]) | _fifth_bits(raw[:, 2:6])
    return _f16(raw[:, :2]) * (whole.astype(np.float32) - 16)


def _q5_1(raw: Bytes) -> Values:
    whole = _halves(raw[:, 8:]) | _fifth_bits(raw[:, 4:8])
    return _f16(raw[:, :2]) * whole.astype(np.float32) + _f16(raw[:, 2:4])


def _q8_0(raw: Bytes) -> Values:
    return _f16(raw[:, :2]) * raw[:, 2:].view(np.int8).astype(np.float32)


BLOCKS = {
    "F32": Block(1, 4, _f32),
    "F16": Block(1, 2, _f16),
    "BF16": Block(1, 2, _bf16),
    "Q4_0": Block(32, 18, _q4_0),
    "Q4_1": Block(32, 20, _q4_1),
    "Q5_0": Block(32, 22, _q5_0),
    "Q5_1": Block(32, 24, _q5_1),
    "Q8_0": Block(32, 34, _q8_0),
}
_KINDS = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 30: "BF16"}


class _Cursor:
    """Reads values one after another."""

    def __init__(self, data: memoryview):
        self.data, self.at = data, 0

    def scalar(self, code: int) -> Any:
        form = "<" + _SCALARS[code]
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self) -> str:
        size = self.scalar(10)
        if self.at + size > len(self.data):
            raise struct.error("a string goes past the end")
        self.at += size
        return bytes(self.data[self.at - size : self.at]).decode("utf-8", "surrogateescape")

    def value(self, code: int) -> Any:
        if code == _STRING:
            return self.text()
        if code == _ARRAY:
            item, count = self.scalar(4), self.scalar(10)
            return [self.value(item) for _ in range(count)]
        if code not in _SCALARS:
            raise FormatError(f"The GGUF file has a setting of unknown type {code}.")
        return self.scalar(code)


def _parse(data: memoryview) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if bytes(data[:4]) != _MAGIC:
        raise FormatError(f"Not a GGUF file: it begins with {bytes(data[:4])!r}, not {_MAGIC!r}.")
    cursor = _Cursor(data)
    cursor.at = len(_MAGIC)
    version, n_tensors, n_settings = cursor.scalar(4), cursor.scalar(10), cursor.scalar(10)
    if version not in _VERSIONS:
        raise FormatError(f"GGUF version {version} is not known; versions 2 and 3 are.")
    settings: dict[str, Any] = {}
    for _ in range(n_settings):
        key = cursor.text()
        settings[key] = cursor.value(cursor.scalar(4))
    places = []
    for _ in range(n_tensors):
        name = cursor.text()
        axes = [cursor.scalar(10) for _ in range(cursor.scalar(4))]
        places.append((name, tuple(reversed(axes)), cursor.scalar(4), cursor.scalar(10)))
    alignment = settings.get("general.alignment", 32)
    base = -(-cursor.at // alignment) * alignment
    tensors = {}
    for name, shape, code, offset in places:
        if code not in _KINDS:
            raise FormatError(
                f"Tensor `{name}` is packed in GGUF type {code}; types that can be read are "
                f"{', '.join(BLOCKS)}. Use a file quantised to one of these."
            )
        tensors[name] = Tensor(shape, _KINDS[code], base + offset)
    return settings, tensors
