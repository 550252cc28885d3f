"""Tables that lie next to an index and have one row a latent: further columns of it."""

import contextlib
from collections.abc import Iterator
from glob import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from saekit.core.border import reading
from saekit.core.errors import SaekitError
from saekit.data import table_files
from saekit.hub.index_manifest import INSIDE

TABLES = "analysis"  # what the folder of tables of a run is called


class SideColumn(NamedTuple):
    """A column of a table next to an index."""

    table: str  # its name, without the ending
    name: str
    unit: str
    values: np.ndarray | list[str | None]  # numbers with NaN, or text with None; by latent
    file: Path


def tables_folder(index: Path) -> Path:
    """Return the folder of tables of an index.

    It is RUN/analysis for the index of a run, and RUN/analysis/SITE for that of a site. An index
    that was put elsewhere has a folder next to it: two of them may lie side by side.
    """
    if index.name == INSIDE:
        return index.with_name(TABLES)
    if index.parent.name == INSIDE:
        return index.parent.with_name(TABLES) / index.name
    return index.with_name(f"{index.name}-{TABLES}")


def side_columns(index: Path, d_sae: int) -> tuple[list[SideColumn], list[str]]:
    """Return the columns of every table with one row a latent, and what of them cannot be read.

    Tables of several rows a latent, or of none, are left alone: they answer other questions. So is
    a file that a link outside of the run's folder stands for.

    Args:
        index: its folder.
        d_sae: latents.

    Returns:
        The columns, and a sentence for each table that is left out because it cannot be read.
    """
    found: list[SideColumn] = []
    notes: list[str] = []
    try:
        stems = sorted({path.with_suffix("") for path in _tables(index)})
    except OSError as error:
        return [], [f"No table of {tables_folder(index)} is read: {error.strerror}."]
    for stem in stems:
        try:
            with reading(stem, "a table of latents"):
                found += list(_columns(table_files.find(stem), d_sae))
        except SaekitError as error:
            made = " or ".join(sorted(p.name for p in stem.parent.glob(f"{escape(stem.name)}.*")))
            notes.append(
                f"The table {stem.parent.name}/{made} is left out, its columns with it: {error} "
                f"Make it again, or move it away."
            )
    return found, notes


def stamp(index: Path) -> tuple[tuple[str, int, int], ...]:
    """Return what changes when a table that lies next to an index does.

    Args:
        index: its folder.
    """
    found = []
    with contextlib.suppress(OSError):  # it went away this moment, or may not be read
        for path in _tables(index):
            there = path.stat()
            found.append((path.name, there.st_mtime_ns, there.st_size))
    return tuple(sorted(found))


def _tables(index: Path) -> Iterator[Path]:
    folder = tables_folder(index)
    if not folder.is_dir():
        return
    ours, run = {f".{kind}" for kind in table_files.FORMATS}, folder.parent.resolve()
    for path in folder.iterdir():
        if path.suffix in ours and path.is_file() and path.resolve().is_relative_to(run):
            yield path


def _columns(path: Path, d_sae: int) -> Iterator[SideColumn]:
    rows: dict[int, dict[str, str]] = {}
    for row in table_files.rows(path):
        word = row.get("latent", "")
        if not word.isdecimal() or int(word) >= d_sae or int(word) in rows:
            return
        rows[int(word)] = row
    if not rows:
        return
    units = table_files.read(path).units if path.suffix == ".parquet" else {}
    for name in next(iter(rows.values())):
        if name != "latent":
            cells = [rows[i][name] if i in rows else "" for i in range(d_sae)]
            yield SideColumn(path.stem, name, units.get(name, ""), _values(cells), path)


def _values(cells: list[str]) -> np.ndarray | list[str | None]:
    """Return numbers, where every cell is one, or text."""
    truth = {"True": "1", "False": "0", "": "nan"}
    try:
        return np.array([float(truth.get(cell, cell)) for cell in cells])
    except ValueError:
        return [cell or None for cell in cells]


def named(columns: list[SideColumn], taken: list[str]) -> tuple[dict[str, SideColumn], list[str]]:
    """Return columns by the names that they go by: their own where nothing else has it.

    Args:
        columns: of the tables.
        taken: names that the index has.

    Returns:
        The columns, and a sentence for each that is left out because another is called so even
        with the name of its table.
    """
    plain = [column.name for column in columns]
    found: dict[str, SideColumn] = {}
    notes: list[str] = []
    for column in columns:
        alone = column.name not in taken and plain.count(column.name) == 1
        name = column.name if alone else f"{column.table}.{column.name}"
        if name in found or name in taken:
            notes.append(
                f"The column {column.name} of {column.file.parent.name}/{column.file.name} is left "
                f"out: another is called {name}. Rename it in the table."
            )
            continue
        found[name] = column
    return found, notes
