"""Files of vectors: rows of floats in .npy, .safetensors, .npz, Parquet and tars of .npy.

What can be mapped into memory is (.npy, .safetensors, the members of a tar), so that a row costs
the pages it lies on. A .npz file is unpacked whole, a Parquet file by row group, one at a time.
"""

import abc
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from typing_extensions import override

from saekit.core.border import ordinary, reading
from saekit.core.errors import DataError, FormatError, MissingExtraError, nearest
from saekit.core.npz import NUMBERS, TEXT, Header, npy_header, npz_headers, read_npz
from saekit.data.table_files import check_unpacked

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Shard(abc.ABC):
    """Some of the rows: ``[n, width]`` of one float type.

    Attributes:
        path: of its file; None: it is in memory.
        key: of the tensor, array or column in the file; "" where there is one alone.
        n: rows.
        width: of a row.
        dtype: as "float32".
    """

    path: Path | None = None
    key: str = ""
    n: int
    width: int
    dtype: str

    @property
    def name(self) -> str:
        """What it is called in messages."""
        where = "the vectors" if self.path is None else str(self.path)
        return f"`{self.key}` of {where}" if self.key else where

    @abc.abstractmethod
    def take(self, rows: Int[Tensor, "m"]) -> Tensor:
        """Return some rows, ascending, ``[m, width]``, in their own type."""


@final
class Held(Shard):
    """Rows that are in memory, or mapped into it."""

    def __init__(self, values: Tensor, path: Path | None = None, key: str = ""):
        self.path, self.key, self._values = path, key, values
        self.n, self.width = values.shape
        self.dtype = str(values.dtype).removeprefix("torch.")

    @override
    def take(self, rows: Int[Tensor, "m"]) -> Tensor:
        return self._values[rows]


@final
class _Mapped(Shard):
    """The array of a .npy file."""

    def __init__(self, path: Path, head: Header):
        where = str(path)
        head.check_size(path.stat().st_size, where)
        self.path = path
        self.n, self.width = _two_axes(head.shape, where)
        self.dtype = _float_of(head, where)
        self._values = np.memmap(
            path, head.dtype, "r", head.length, head.shape, "F" if head.fortran else "C"
        )

    @override
    def take(self, rows: Int[Tensor, "m"]) -> Tensor:
        return _native(self._values[rows.numpy()])


class _Member(NamedTuple):
    """An array in a tar: where its data begin, and its head."""

    at: int
    head: Header


@final
class _Tar(Shard):
    """The .npy members of a tar: rows one each, or several."""

    def __init__(self, path: Path, key: str | None):
        self.path, self.key = path, key or ""
        members = _members(path, key)
        first = members[0].head
        self.dtype = _float_of(first, self.name)
        self.width = first.shape[-1] if first.shape else 0
        for member in members:
            shape = member.head.shape
            if not 1 <= len(shape) <= 2 or shape[-1] != self.width or member.head.fortran:
                raise DataError(
                    f"{path} must hold vectors of one width; it has shapes {list(first.shape)} and "
                    f"{list(shape)}. Write each sample as [width] or [rows, width]."
                )
            if (dtype := _float_of(member.head, self.name)) != self.dtype:
                raise _mixed(self.name, self.dtype, dtype)
        rows = [1 if len(m.head.shape) == 1 else m.head.shape[0] for m in members]
        self._ends = np.cumsum(rows)
        self._members = members
        self.n = int(self._ends[-1])
        self._bytes = np.memmap(path, np.uint8, "r")

    @override
    def take(self, rows: Int[Tensor, "m"]) -> Tensor:
        wanted = rows.numpy()
        which = np.searchsorted(self._ends, wanted, side="right")
        out = np.empty((len(wanted), self.width), self._members[0].head.dtype)
        for place, (row, i) in enumerate(zip(wanted.tolist(), which.tolist(), strict=True)):
            at, head = self._members[i]
            begin = row - (int(self._ends[i - 1]) if i else 0)
            size = self.width * head.width
            line = self._bytes[at + begin * size : at + (begin + 1) * size]
            out[place] = line.view(head.dtype)
        return _native(out)


@final
class _Npz(Shard):
    """One array of a .npz file, unpacked when it is used."""

    path: Path

    def __init__(self, path: Path, key: str | None):
        heads = npz_headers(path, NUMBERS + TEXT)
        wide = {n: h.shape for n, h in heads.items() if h.kind == "f" and len(h.shape) == 2}
        self.path, self.key = path, _chosen(key, wide, list(heads), str(path))
        self.n, self.width = _two_axes(heads[self.key].shape, self.name)
        self.dtype = _float_of(heads[self.key], self.name)

    @override
    def take(self, rows: Int[Tensor, "m"]) -> Tensor:
        return _kept.get(self, 0, self._read)[rows]

    def _read(self) -> Tensor:
        return _native(read_npz(self.path, NUMBERS, self.key)[self.key])


@final
class _Parquet(Shard):
    """A column of lists of floats, read by row group."""

    path: Path

    def __init__(self, path: Path, key: str | None):
        arrow, parquet = _arrow()
        ordinary(path)
        with reading(path, "Parquet"), parquet.ParquetFile(path) as file:
            check_unpacked(file, path)
            listed = {
                f.name: f.type
                for f in file.schema_arrow
                if _is_list(f.type, arrow) and arrow.types.is_floating(f.type.value_type)
            }
            self.path, self.key = path, _chosen(key, listed, file.schema_arrow.names, str(path))
            kind = listed.get(self.key)
            if kind is None:
                raise DataError(
                    f"{self.name} must hold lists of floats; it holds "
                    f"{file.schema_arrow.field(self.key).type}. Name another column with `key`."
                )
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            first = next(file.iter_batches(batch_size=1, columns=[self.key]), None)
            value = None if first is None else first.column(0)[0].as_py()
        self.dtype = {"halffloat": "float16", "float": "float32", "double": "float64"}[
            str(kind.value_type)
        ]
        self.width = len(value or [])
        self._ends = np.cumsum([0, *groups])
        self.n = int(self._ends[-1])

    @override
    def take(self, rows: Int[Tensor, "m"]) -> Tensor:
        group = np.searchsorted(self._ends, rows.numpy(), side="right") - 1
        parts = []
        for i in np.unique(group).tolist():
            whole = _kept.get(self, i, lambda i=i: self._read(i))
            parts.append(whole[rows[torch.from_numpy(group == i)] - int(self._ends[i])])
        return torch.cat(parts) if parts else torch.empty(0, self.width)

    def _read(self, group: int) -> Tensor:
        arrow, parquet = _arrow()
        with reading(self.path, "Parquet"), parquet.ParquetFile(self.path) as file:
            column = file.read_row_group(group, columns=[self.key]).column(0).combine_chunks()
            column = column.chunk(0) if isinstance(column, arrow.ChunkedArray) else column
            if column.null_count:
                raise DataError(
                    f"{self.name} has {column.null_count:,} rows without a vector in row group "
                    f"{group}. Leave them out."
                )
            values = column.flatten()
            lengths = arrow.compute.list_value_length(column).to_numpy(zero_copy_only=False)
            if (lengths != self.width).any():
                row = int((lengths != self.width).argmax())
                raise DataError(
                    f"{self.name} has vectors of width {self.width} and, in row "
                    f"{int(self._ends[group]) + row:,}, of {int(lengths[row])}. Make them equal."
                )
            if values.null_count:
                raise DataError(f"{self.name} has vectors with missing numbers. Leave them out.")
            flat = values.to_numpy(zero_copy_only=False).reshape(-1, self.width)
            n = int(self._ends[group + 1] - self._ends[group])
            if len(flat) != n:
                raise FormatError(
                    f"{self.path} is damaged: row group {group} has {len(flat):,} rows, and {n:,} "
                    f"by its head. Fetch or write it again."
                )
        return _native(flat)


class _LastRead:
    """The last thing that was unpacked: rows are asked for file by file."""

    def __init__(self) -> None:
        self._place: tuple[Shard, int] | None = None
        self._value = torch.empty(0)

    def get(self, shard: Shard, part: int, read: Callable[[], Tensor]) -> Tensor:
        if self._place != (shard, part):
            self._place, self._value = None, torch.empty(0)  # before the next is unpacked
            self._value = read()
            self._place = (shard, part)
        return self._value


_kept = _LastRead()


def open_shard(path: Path, key: str | None) -> Shard:
    """Return the rows of a file, without reading them.

    Args:
        path: its suffix is one of `READERS`.
        key: the tensor, array, column or member, where the file has several.

    Raises:
        DataError: it holds no rows of floats, or no such name.
        FormatError: it is damaged.
        MissingExtraError: it is Parquet and pyarrow is not installed.
    """
    shard = READERS[path.suffix.lower()](path, key)
    if not shard.n or not shard.width:
        raise DataError(
            f"{shard.name} is empty: it has {shard.n} rows of width {shard.width}. Leave it out."
        )
    return shard


def _npy(path: Path, key: str | None) -> Shard:
    ordinary(path)
    with reading(path, "a .npy file"), path.open("rb") as file:
        return _Mapped(path, npy_header(file, str(path)))


def _safetensors(path: Path, key: str | None) -> Shard:
    from safetensors import safe_open

    ordinary(path)
    with reading(path, "safetensors"), safe_open(path, framework="pt") as file:
        names = list(file.keys())
        wide = {n: s for n in names if len(s := file.get_slice(n).get_shape()) == 2}
        name = _chosen(key, wide, names, str(path))
        values = file.get_tensor(name)  # mapped: a page is read when a row on it is
    where = f"`{name}` of {path}"
    _two_axes(tuple(values.shape), where)
    if values.dtype not in FLOATS:
        raise _not_floats(where, str(values.dtype).removeprefix("torch."))
    return Held(values, path, name)


READERS: dict[str, Callable[[Path, str | None], Shard]] = {
    ".npy": _npy,
    ".safetensors": _safetensors,
    ".npz": _Npz,
    ".parquet": _Parquet,
    ".tar": _Tar,
}


def _members(path: Path, key: str | None) -> list[_Member]:
    """Return the arrays of a tar that are meant, in their order."""
    ordinary(path)
    with reading(path, "a tar of .npy files"), tarfile.open(path, "r:") as file:
        entries = [e for e in file if e.isreg() and e.name.endswith(".npy")]
        # A sample of a webdataset is several files that differ after the first dot.
        kinds = sorted({_kind(e.name) for e in entries})
        if key is None and len(kinds) > 1:
            raise DataError(
                f"{path} has members of several kinds: {', '.join(kinds[:8])}. Name one with `key`."
            )
        if key is not None and key not in kinds:
            raise _no_such(key, kinds, str(path))
        if not entries:
            raise DataError(f"{path} has no .npy member. Give a tar that has.")
        found = []
        with path.open("rb") as opened:
            for entry in entries:
                if key is not None and _kind(entry.name) != key:
                    continue
                opened.seek(entry.offset_data)
                where = f"`{entry.name}` in {path}"
                head = npy_header(opened, where)
                head.check_size(entry.size, where)
                found.append(_Member(entry.offset_data + head.length, head))
        return found


def _kind(name: str) -> str:
    """Return what a member of a webdataset is, as "emb" of "shard/0001.emb.npy"."""
    return name.rpartition("/")[2].partition(".")[2].removesuffix("npy").removesuffix(".")


def _chosen(key: str | None, fitting: Iterable[str], names: list[str], where: str) -> str:
    """Return the name that is meant: the one that was given, or the only one that fits."""
    if key is not None:
        if key not in names:
            raise _no_such(key, names, where)
        return key
    found = list(fitting)
    if len(found) == 1:
        return found[0]
    what = f"several: {', '.join(found[:8])}" if found else f"none, of {', '.join(names[:8])}"
    raise DataError(f"{where} should hold one table of floats; it has {what}. Name it with `key`.")


def _no_such(key: str, names: list[str], where: str) -> DataError:
    return DataError(
        f"{where} has nothing called `{key}`; it has {', '.join(names[:8]) or 'nothing'}."
        f"{nearest(key, names)}"
    )


def _two_axes(shape: tuple[int, ...], where: str) -> tuple[int, int]:
    if len(shape) != 2:
        raise DataError(f"{where} must have the shape [rows, width]; it has {list(shape)}.")
    return shape[0], shape[1]


def _float_of(head: Header, where: str) -> str:
    if head.kind != "f":
        raise _not_floats(where, str(head.dtype))
    return f"float{8 * head.width}"


def _not_floats(where: str, dtype: str) -> DataError:
    return DataError(f"{where} must hold floats; it holds {dtype}. Convert it to float32.")


def _mixed(where: str, one: str, other: str) -> DataError:
    return DataError(f"{where} has numbers of {one} and of {other}. Write all in one type.")


def _native(values: np.ndarray) -> Tensor:
    """Return an array as a tensor, in this machine's byte order."""
    return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("=")))


def _is_list(kind: Any, arrow: Any) -> bool:
    types = arrow.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    return pyarrow, pyarrow.parquet
