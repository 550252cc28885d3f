"""A shard: one safetensors file, each tensor of it checked at its first use."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saekit.core.border import ordinary, parsed_json, reading
from saekit.core.errors import FormatError
from saekit.core.files import replace_with

_HEADER = "header"  # the name its checksum goes by; no tensor has it
_DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "I32": torch.int32,
    "I64": torch.int64,
}


class ShardRecord(NamedTuple):
    """What the manifest says of a shard."""

    file: str
    first_row: int
    n_rows: int
    n_kept: int  # tokens that count at every site, by the rule the cache was written with
    n_bytes: int
    sha256: dict[str, str]  # by tensor, and that of the header
    max_abs: dict[str, float]  # by site, act units

    @property
    def end_row(self) -> int:
        """The row after its last."""
        return self.first_row + self.n_rows


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, dict[str, str]]:
    """Write a shard, whole or not at all; return its bytes and checksums.

    Raises:
        ResourceError: the disk is full or refuses it; nothing was left.
    """
    from safetensors.torch import save

    data = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    view = memoryview(data)
    first, parts = _layout(data)
    sums = {_HEADER: hashlib.sha256(view[:first]).hexdigest()}
    for name, part in parts.items():
        begin, end = part["data_offsets"]
        sums[name] = hashlib.sha256(view[first + begin : first + end]).hexdigest()
    replace_with(path, data)
    return len(data), sums


class MappedShard:
    """A shard in the pages of its file: what is not read is not loaded.

    Args:
        path: the file.
        record: what it should be.
        remedy: what to do where it is not, for the message.

    Raises:
        FormatError: it is missing, cut short, or its header is damaged.
    """

    def __init__(self, path: Path, record: ShardRecord, remedy: str):
        self.path, self.record, self.remedy = path, record, remedy
        got = ordinary(path) if path.exists() else -1
        if got != record.n_bytes:
            came = "is missing" if got < 0 else f"has {got:,} bytes"
            raise FormatError(f"{path} {came}; {record.n_bytes:,} bytes were written. {remedy}")
        with reading(path, "activations"):
            self._map(path, got)

    def _map(self, path: Path, size: int) -> None:
        # A private mapping: readable, shared with the page cache, and never written back.
        self._bytes = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        self._checked: dict[str, Tensor] = {}
        head = self._bytes[: 8 + _header_bytes(self._bytes[:8].numpy().tobytes())]
        self._check(_HEADER, head)
        self._first, self._parts = _layout(head.numpy().tobytes())

    def part(self, name: str) -> Tensor:
        """Return a tensor of the shard, which no one may change.

        Raises:
            FormatError: its bytes are not those that were written.
        """
        if name not in self._checked:
            with reading(self.path, "activations"):
                spec = self._parts[name]
                begin, end = spec["data_offsets"]
                raw = self._bytes[self._first + begin : self._first + end]
                self._check(name, raw)
                self._checked[name] = raw.view(_DTYPES[spec["dtype"]]).view(spec["shape"])
        return self._checked[name]

    def check(self) -> None:
        """Compare everything with its checksum.

        Raises:
            FormatError: something is not what was written.
        """
        for name in self._parts:
            self.part(name)

    def _check(self, name: str, raw: Tensor) -> None:
        if hashlib.sha256(raw.numpy().data).hexdigest() != self.record.sha256.get(name):
            rows = f"rows {self.record.first_row:,} to {self.record.end_row - 1:,}"
            raise FormatError(
                f"{self.path} ({rows}) is damaged: `{name}` is not what was written. {self.remedy}"
            )


def _header_bytes(data: bytes) -> int:
    return int.from_bytes(data[:8], "little")


def _layout(data: bytes) -> tuple[int, dict[str, Any]]:
    """Return where tensors begin, and where each lies from there."""
    first = 8 + _header_bytes(data)
    parts = parsed_json(data[8:first], "the head of a shard")
    parts.pop("__metadata__", None)
    return first, parts
