"""Tables on disk, as CSV or as Parquet: the same numbers in either.

A table has a STEM, a path without ending; `STEM.csv` or `STEM.parquet` is its file, never both.
"""

import csv
import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from saekit.core.border import ordinary, reading
from saekit.core.errors import (
    FormatError,
    MissingExtraError,
    SaekitError,
    UnknownNameError,
    nearest,
)
from saekit.core.files import replace_with
from saekit.core.result import Table
from saekit.core.text import from_cell

FORMATS = ("csv", "parquet")
_WORDS = {"True": True, "False": False}
_NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]{0,307})(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?|inf)")
BATCH_ROWS = 4096  # of a Parquet file in memory at once
# What is unpacked of a Parquet file: this many times its size, or so many bytes.
MOST_RATIO, LEAST_UNPACKED = 1000, 2**28


def check(kind: str) -> None:
    """Refuse a format that cannot be written here, before there is anything to write.

    Raises:
        UnknownNameError: it is none of `FORMATS`.
        MissingExtraError: Parquet is wanted and pyarrow is not installed.
    """
    if kind not in FORMATS:
        raise UnknownNameError(
            f"Tables are written as {' or '.join(FORMATS)}; got {kind!r}.{nearest(kind, FORMATS)}"
        )
    if kind == "parquet":
        _parquet()


def write(table: Table, stem: Path, kind: str = "csv") -> Path:
    """Write a table and return its file; one in the other format is taken away.

    In Parquet a column has one type, None and NaN are null, and units are kept as the fields'
    metadata.

    Args:
        table: the rows.
        stem: path without ending.
        kind: of `FORMATS`.

    Raises:
        UnknownNameError: it is none of `FORMATS`.
        MissingExtraError: Parquet is wanted and pyarrow is not installed.
        FormatError: a column holds values of several kinds, which Parquet has not.
    """
    check(kind)
    path = write_file(table, _file(stem, kind))
    for other in FORMATS:
        if other != kind:
            _file(stem, other).unlink(missing_ok=True)
    return path


def write_file(table: Table, path: Path) -> Path:
    """Write a table to one file, whose ending says the format, and touch no other.

    Raises:
        UnknownNameError: the ending is none of `FORMATS`.
        MissingExtraError: Parquet is wanted and pyarrow is not installed.
        FormatError: a column holds values of several kinds, which Parquet has not.
    """
    check_file(path)
    if path.suffix == ".csv":
        table.write_csv(path)
    else:
        replace_with(path, _bytes(table, path))
    return path


def check_file(path: Path) -> None:
    """Refuse a file that no table can be written to, before there is anything to write.

    Raises:
        UnknownNameError: its ending is none of `FORMATS`.
        MissingExtraError: it is Parquet and pyarrow is not installed.
    """
    if path.suffix not in [f".{kind}" for kind in FORMATS]:
        raise UnknownNameError(
            f"The file of a table ends in .{' or .'.join(FORMATS)}; got {path.name!r}."
        )
    check(path.suffix[1:])


def has(stem: Path) -> bool:
    """Tell whether a table has a file."""
    return any(_file(stem, kind).is_file() for kind in FORMATS)


def find(stem: Path) -> Path:
    """Return the file of a table.

    Raises:
        FormatError: there is none, or one in each format.
    """
    if not has(stem):
        raise FormatError(f"There is no table {stem.name}.csv or .parquet in {stem.parent}.")
    there = [path for kind in FORMATS if (path := _file(stem, kind)).is_file()]
    if len(there) > 1:
        raise FormatError(
            f"{stem.parent} has both {there[0].name} and {there[1].name}, which may differ. Take "
            f"one away."
        )
    return there[0]


def rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a table's file, each value as it is written in CSV; "" where none is.

    Raises:
        FormatError: the file is missing or damaged, or its ending is none of the formats'.
        MissingExtraError: it is Parquet and pyarrow is not installed.
    """
    if path.suffix == ".csv":
        yield from _csv_rows(path)
    elif path.suffix == ".parquet":
        for record in _records(path):
            yield {name: "" if v is None else str(v) for name, v in record.items()}
    else:
        raise FormatError(f"A table ends in .csv or .parquet; got {path.name}.")


def columns(path: Path) -> dict[str, list[Any]]:
    """Return the columns of a table's file, in either format, with their numbers as numbers.

    Raises: as `rows`.
    """
    found = list(rows(path))
    return {name: typed([row[name] for row in found]) for name in (found[0] if found else ())}


def typed(cells: Sequence[str]) -> list[Any]:
    """Return the cells of a column as what was written there; None where one is empty.

    They are numbers, or true and false, where all of them are, as saekit writes them; else they are
    text, each as it stands: a column of names may have 1_000, 007 or nan among them.
    """
    there = [cell for cell in cells if cell]
    if all(cell in _WORDS for cell in there):
        return [_WORDS[cell] if cell else None for cell in cells]
    if all(map(_NUMBER.fullmatch, there)):
        return [_number(cell) if cell else None for cell in cells]
    return [cell or None for cell in cells]


def _number(cell: str) -> int | float:
    return int(cell) if cell.lstrip("-").isdigit() else float(cell)


def read(path: Path) -> Table:
    """Return a Parquet table with the types and units that it was written with.

    Raises:
        FormatError: it is missing, damaged, or not Parquet.
        MissingExtraError: pyarrow is not installed.
    """
    with reading(path, "a table in Parquet"), _opened(path) as file:
        schema, found = file.schema_arrow, file.read()
        units = {f.name: f.metadata[b"unit"].decode() for f in schema if f.metadata}
        return Table(columns={name: found[name].to_pylist() for name in schema.names}, units=units)


def _file(stem: Path, kind: str) -> Path:
    return stem.with_name(f"{stem.name}.{kind}")


def _csv_rows(path: Path) -> Iterator[dict[str, str]]:
    ordinary(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if None in row or None in row.values():
                    raise FormatError(
                        f"{path} has a row of another length than its head. Mend it, or make the "
                        f"table again."
                    )
                yield {name: from_cell(cell) for name, cell in row.items()}
    except FileNotFoundError as error:
        raise FormatError(f"There is no file {path}.") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise FormatError(
            f"{path} is not CSV in UTF-8: {error}. Mend it, or make the table again."
        ) from error


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with _opened(path) as file:
        batches = file.iter_batches(BATCH_ROWS)
        while True:
            with reading(path, "a table in Parquet"):
                batch = next(batches, None)
                records = [] if batch is None else batch.to_pylist()
            if batch is None:
                break
            yield from records


def check_unpacked(file: Any, path: Path) -> None:
    """Refuse a Parquet file that says it unpacks to far more than its size.

    Args:
        file: `pyarrow.parquet.ParquetFile`.
        path: its path, for the message.

    Raises:
        FormatError: it does.
    """
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    unpacked = sum(group.total_byte_size for group in groups)
    limit = max(LEAST_UNPACKED, MOST_RATIO * path.stat().st_size)
    if not 0 <= unpacked <= limit:
        raise FormatError(
            f"{path} has {path.stat().st_size:,} bytes and claims to unpack to {unpacked:,}; at "
            f"most {limit:,} are unpacked of such a file."
        )


def _opened(path: Path) -> Any:
    pa, pq = _parquet()
    ordinary(path)
    try:
        file = pq.ParquetFile(pa.OSFile(os.fsencode(path)))  # bytes: no name need be UTF-8
        check_unpacked(file, path)
        return file
    except FileNotFoundError as error:
        raise FormatError(f"There is no file {path}.") from error
    except SaekitError:
        raise
    except Exception as error:  # of Arrow's, of Python's, of the file system's
        raise FormatError(
            f"{path} is damaged or is not Parquet: {error}. Fetch or make it again."
        ) from error


def _bytes(table: Table, path: Path) -> bytes:
    pa, pq = _parquet()
    fields, arrays = [], []
    for name, values in table.columns.items():
        plain = [None if isinstance(v, float) and math.isnan(v) else v for v in values]
        try:
            arrays.append(pa.array(plain))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise FormatError(
                f"Column `{name}` of {path.name} holds values of several kinds: {error}. Write "
                f"it as csv."
            ) from error
        unit = {"unit": table.units[name]} if name in table.units else None
        fields.append(pa.field(name, arrays[-1].type, metadata=unit))
    out = io.BytesIO()
    whole = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    pq.write_table(whole, out, compression="zstd")
    return out.getvalue()


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    return pyarrow, pyarrow.parquet
