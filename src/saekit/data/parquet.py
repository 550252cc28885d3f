"""Parquet as arrays: columns of numbers, text, bytes and lists of numbers, a few rows at a time."""

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np

from saekit.core import parts
from saekit.core.border import ordinary, reading
from saekit.core.errors import FormatError, MissingExtraError
from saekit.data.table_files import check_unpacked


class Lists(NamedTuple):
    """A list of numbers in each row: row i holds ``values[starts[i]:starts[i + 1]]``."""

    values: np.ndarray
    starts: np.ndarray  # int64, one more than rows

    @staticmethod
    def of(rows: Sequence[Sequence[Any]], dtype: Any) -> "Lists":
        """Return lists from a list for each row."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        values = np.array([value for row in rows for value in row], dtype=dtype)
        return Lists(values, np.concatenate([[0], lengths.cumsum()]))

    @staticmethod
    def equal(values: np.ndarray) -> "Lists":
        """Return lists of one length, the rows of a matrix."""
        n, width = values.shape
        return Lists(np.ascontiguousarray(values).reshape(-1), np.arange(n + 1) * width)

    def __getitem__(self, row: Any) -> Any:  # a row, where a NamedTuple has its fields
        return self.values[self.starts[row] : self.starts[row + 1]]

    def part(self, begin: int, end: int) -> "Lists":
        """Return some consecutive rows."""
        starts = self.starts[begin : end + 1]
        return Lists(self.values[starts[0] : starts[-1]], starts - starts[0])


Values = np.ndarray | Lists | list[Any]


def check() -> None:
    """Refuse to begin where Parquet cannot be read or written.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    _arrow()


def write(
    path: Path,
    columns: Mapping[str, Values],
    *,
    ends: Iterable[int] | None = None,
    units: Mapping[str, str] | None = None,
) -> None:
    """Write columns as Parquet, zstd, to a file that is new.

    Of a file in groups the columns have no dictionaries, and statistics of the first column alone:
    in small groups they take a third of the file, and half the time of reading one.

    Args:
        path: the file.
        columns: by name; arrays, `Lists`, or lists of text or bytes (None where there is none).
        ends: where a group of rows ends that is read at once; None: one group.
        units: of columns that have one.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    pa, pq = _arrow()
    units = units or {}
    n = max((_length(values) for values in columns.values()), default=0)
    arrays = {name: _array(pa, values, 0, _length(values)) for name, values in columns.items()}
    fields = [
        pa.field(name, array.type, metadata={"unit": units[name]} if name in units else None)
        for name, array in arrays.items()
    ]
    whole = pa.Table.from_arrays(list(arrays.values()), schema=pa.schema(fields))
    how = {} if ends is None else {"use_dictionary": False, "write_statistics": [*arrays][:1]}
    # Bytes, here and below: no name of a folder need be UTF-8.
    with (
        pa.OSFile(os.fsencode(path), "wb") as file,
        pq.ParquetWriter(file, whole.schema, compression="zstd", compression_level=6, **how) as to,
    ):
        begin = 0
        for end in [n] if ends is None else ends:
            part = whole.slice(begin, end - begin)
            to.write_table(part, row_group_size=max(end - begin, 1))
            begin = end
    parts.sync(path)


@final
class ParquetFile:
    """A Parquet file that is read by groups of rows, from any thread.

    Args:
        path: the file.

    Raises:
        FormatError: it is missing, damaged, or not Parquet.
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, path: Path):
        pa, pq = _arrow()
        ordinary(path)
        self.path, self._lock = path, threading.Lock()
        with reading(path, "a Parquet file"):
            # Not mapped: to read on in a map whose file was cut meanwhile ends the process.
            self._file = pq.ParquetFile(pa.OSFile(os.fsencode(path)))
            check_unpacked(self._file, path)
            schema = self._file.schema_arrow
        self.names = list(schema.names)
        self.units = {f.name: f.metadata[b"unit"].decode() for f in schema if f.metadata}
        self.n_rows: int = self._file.metadata.num_rows
        self.n_groups: int = self._file.metadata.num_row_groups

    def group(self, number: int, names: Sequence[str] | None = None) -> dict[str, Values]:
        """Return the columns of one group of rows; text and bytes come as lists.

        Raises:
            FormatError: the file is damaged, or lacks one of the columns.
        """
        if not 0 <= number < self.n_groups:
            raise FormatError(f"{self.path} has no group {number}: it is damaged. Make it again.")
        with self._lock, reading(self.path, "a Parquet file"):
            # A group is read in a millisecond: handing it to other threads takes longer.
            found = self._file.read_row_group(number, self._known(names), use_threads=False)
            return self._values(found)

    def read(self, names: Sequence[str] | None = None) -> dict[str, Values]:
        """Return columns of every row.

        Raises:
            FormatError: the file is damaged, or lacks one of the columns.
        """
        with self._lock, reading(self.path, "a Parquet file"):
            found = self._values(self._file.read(self._known(names)))
        _arrow()[0].default_memory_pool().release_unused()  # as much again as what was read
        return found

    def _known(self, names: Sequence[str] | None) -> list[str]:
        if lacking := [name for name in names or () if name not in self.names]:
            raise FormatError(
                f"{self.path} has no column `{lacking[0]}`: it is damaged. Make it again."
            )
        return list(self.names if names is None else names)

    def _values(self, table: Any) -> dict[str, Values]:
        return {name: _numpy(table[name].combine_chunks()) for name in table.column_names}


def _length(values: Values) -> int:
    return len(values.starts) - 1 if isinstance(values, Lists) else len(values)


def _array(pa: Any, values: Values, begin: int, end: int) -> Any:
    if isinstance(values, Lists):
        part = values.part(begin, end)
        return pa.LargeListArray.from_arrays(
            pa.array(part.starts, pa.int64()), pa.array(part.values)
        )
    if isinstance(values, np.ndarray):
        return pa.array(values[begin:end], from_pandas=True)  # NaN is null
    kind = pa.binary() if any(isinstance(v, bytes) for v in values) else None
    if kind is None and all(v is None or isinstance(v, str) for v in values):
        kind = pa.string()
    return pa.array(values[begin:end], kind)


def _numpy(array: Any) -> Values:
    kind = str(array.type)
    if "list" in kind:
        starts = array.offsets.to_numpy()
        values = array.values.to_numpy(zero_copy_only=False)
        return Lists(values[starts[0] : starts[-1]], (starts - starts[0]).astype(np.int64))
    if kind.endswith(("string", "binary")):
        return array.to_pylist()
    if kind == "bool":
        return array.to_numpy(zero_copy_only=False)
    return array.to_numpy(zero_copy_only=False)


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "lm") from error
    return pyarrow, pyarrow.parquet
