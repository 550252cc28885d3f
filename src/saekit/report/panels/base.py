"""The contract of a panel: files next to an SAE and a latent go in, blocks come out.

A page asks for the panels of a latent and draws what comes back; it knows no list of them. A panel
reads files that commands left and computes nothing that takes time: it loads no model and no
weights, and answers within 100 ms.
"""

import abc
import functools
import os
import shlex
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from typing_extensions import override

import saekit.report.panels as package
from saekit.core.border import ordinary, reading
from saekit.core.errors import FormatError, SaekitError, UnknownNameError
from saekit.core.held import Held
from saekit.core.registry import Registry
from saekit.core.text import from_cell
from saekit.data import table_files
from saekit.report.blocks import Block, missing, text

if TYPE_CHECKING:
    from saekit.analysis.index_folder import Index

EVIDENCE = "SAEKIT_EVIDENCE"  # folders of results that are not next to their SAE
KEPT_BYTES = 2**25  # of files that are held as they were read
T = TypeVar("T")


class Panel(abc.ABC):
    """One kind of evidence about a latent."""

    name: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str]

    @abc.abstractmethod
    def blocks(self, run: Path, index: "Index", latent: int) -> list[Block] | None:
        """Return what there is about a latent; None where an SAE has no such evidence.

        Where evidence could be made and is not there yet, return `report.blocks.missing`, which
        names the command.

        Args:
            run: the folder of the SAE.
            index: its index; of one site where several share the SAE.
            latent: 0 to index.d_sae - 1.

        Raises:
            SaekitError: a file is damaged.
        """


class Measured(Panel):
    """Evidence in tables with a row a latent, each in a folder of its own next to the SAE."""

    tables: ClassVar[tuple[str, ...]]  # patterns of their paths, as of `found`
    column: ClassVar[str] = "latent"  # that holds the numbers of latents
    lacking: ClassVar[str]  # said where there is a table, and no row of the latent
    command: ClassVar[str]  # that measures it, with {run} and {latent}

    @abc.abstractmethod
    def of_row(self, path: Path, run: Path, row: dict[str, str], latent: int) -> list[Block]:
        """Return what one table says of a latent."""

    def without(self, run: Path, latent: int) -> list[Block]:
        """Return what is known of a latent that no table has."""
        return []

    @override
    def blocks(self, run: Path, index: "Index", latent: int) -> list[Block] | None:
        made: list[Block] = []
        is_measured = False
        for path in found(run, self.tables):
            is_measured = True
            if (row := row_of(path.with_suffix(""), latent, self.column)) is not None:
                made += self.of_row(path, run, row, latent)
        made = made or self.without(run, latent)
        if not made and is_measured:
            made = [missing(self.lacking, self.command.format(run=quoted(run), latent=latent))]
        return made or None


registry = Registry[Panel]("panel", package, of_studies="panels")


def every(run: Path, index: "Index", latent: int) -> dict[str, dict[str, Any]]:
    """Return the panels that have something to say of a latent, in the order of their names."""
    made = {name: payload(name, run, index, latent) for name in registry.names()}
    return {name: panel for name, panel in made.items() if panel is not None}


def payload(name: str, run: Path, index: "Index", latent: int) -> dict[str, Any] | None:
    """Return a panel of a latent, JSON-ready: name, title, about, blocks; None: nothing to show.

    A file that is damaged is told in the panel's place: the other panels are shown all the same.

    Raises:
        UnknownNameError: there is no such panel or no such latent.
    """
    if not 0 <= latent < index.d_sae:
        raise UnknownNameError(
            f"There is no latent {latent}; this SAE has latents 0..{index.d_sae - 1}."
        )
    panel = registry.get(name)()
    try:
        with reading(run, f"an SAE with evidence for the panel `{name}`"):
            found = panel.blocks(run, index, latent)
    except SaekitError as error:
        found = [text(str(error), title="A file could not be read")]
    if not found:
        return None
    return {"name": name, "title": panel.title, "about": panel.about, "blocks": found}


def folders(run: Path) -> list[Path]:
    """Return where results about an SAE may lie: its own folder, and those of SAEKIT_EVIDENCE."""
    named = filter(None, os.environ.get(EVIDENCE, "").split(os.pathsep))
    return [run, *(Path(one).expanduser() for one in named)]


def found(run: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files about an SAE that match, those next to it first, in the order of their names.

    Args:
        run: the folder of the SAE.
        patterns: of a file's path below one of `folders`, as "locality*/*/manifest.json".
    """
    seen: set[Path] = set()
    for folder in folders(run):
        for path in sorted({p for pattern in patterns for p in _matching(folder, pattern)}):
            if path.is_file() and (real := path.resolve()) not in seen:
                seen.add(real)
                if real.is_relative_to(folder.resolve()):  # no link leads out of the folder
                    yield path


def _matching(folder: Path, pattern: str) -> list[Path]:
    """Return the paths below a folder that match, as `Path.glob` does.

    A folder is read again only when it was changed: each latent asks for a dozen patterns.
    """
    first, _, rest = pattern.partition("/")
    there = [path for path in _inside(folder) if fnmatchcase(path.name, first)]
    return [p for one in there for p in _matching(one, rest)] if rest else there


def _inside(folder: Path) -> tuple[Path, ...]:
    """Return what is in a folder; nothing, where there is none."""
    try:
        changed = folder.stat().st_mtime_ns
        # A change in the tick of the clock in which it was read would not be seen.
        is_settled = abs(time.time_ns() - changed) > 2 * 10**9
        return _listed(folder, changed) if is_settled else tuple(folder.iterdir())
    except OSError:
        return ()


@functools.lru_cache(maxsize=1024)
def _listed(folder: Path, *stamp: int) -> tuple[Path, ...]:
    return tuple(folder.iterdir())


def named(path: Path, run: Path) -> str:
    """Return a file as a panel's `source` names it: from the folder of the SAE on, if it is there.

    A page that is put on the web says nothing of the folders of the machine it was made on.
    """
    if path.is_relative_to(run):
        return path.relative_to(run).as_posix()
    return Path(*path.parts[-3:]).as_posix()


def kept(read: Callable[[Path], T], path: Path) -> T:
    """Return what `read` makes of a file, read again only when the file is another.

    What was read of the files used last is held, of `KEPT_BYTES` of files in all.
    """
    there = path.stat()
    state = (there.st_mtime_ns, there.st_size, there.st_ino)
    before = _kept.get((read, path))
    if before is not None and before[0] == state:
        return before[1]
    found = read(path)
    _kept.put((read, path), (state, found), there.st_size)
    return found


_kept = Held(KEPT_BYTES)


def row_of(stem: Path, latent: int, column: str = "latent") -> dict[str, str] | None:
    """Return the row of a latent in a table on disk; None where there is no table or no row.

    Args:
        stem: path of the table without its ending.
        latent: its number.
        column: that holds the numbers of latents.

    Raises:
        FormatError: the table is damaged.
    """
    return next(iter(rows_of(stem, latent, column)), None)


def rows_of(stem: Path, latent: int, column: str = "latent") -> list[dict[str, str]]:
    """Return the rows of a latent in a table on disk, with its cells as text.

    A table outside of the folder that a run has its results in, which a link there stands for,
    counts as missing.

    Raises:
        FormatError: the table is damaged.
    """
    if not table_files.has(stem):
        return []
    path = table_files.find(stem)
    if not path.resolve().is_relative_to(stem.parent.parent.resolve()):
        return []
    return kept(_ByLatent, path).rows(latent, column)


class _ByLatent:
    """A table whose rows are found by the number of a latent; CSV is taken apart row by row."""

    def __init__(self, path: Path):
        self._path = path
        self._lines: list[str] = []
        self._places: dict[str, dict[str, list[int]]] = {}
        if path.suffix == ".csv":
            ordinary(path)
            with reading(path, "CSV"):
                text = path.read_text(encoding="utf-8")
            if '"' not in text:  # then every line is a row, and a comma ends a cell
                self._lines = text.removesuffix("\n").split("\n")  # no other end
        self._rows = [] if self._lines else list(table_files.rows(path))

    def rows(self, latent: int, column: str) -> list[dict[str, str]]:
        places = self._of(column).get(str(latent), [])
        return [self._row(at) for at in places]

    def _of(self, column: str) -> dict[str, list[int]]:
        if column not in self._places:
            cells = (row.get(column, "") for row in self._rows)
            if self._lines:
                names = self._lines[0].split(",")
                at = names.index(column) if column in names else 0
                cells = (line.split(",", at + 1)[at] for line in self._lines[1:])
                if column not in names:
                    cells = iter(())
            places: dict[str, list[int]] = {}
            for i, cell in enumerate(cells):
                places.setdefault(cell, []).append(i)
            self._places[column] = places
        return self._places[column]

    def _row(self, at: int) -> dict[str, str]:
        if not self._lines:
            return self._rows[at]
        names, cells = (self._lines[i].split(",") for i in (0, at + 1))
        if len(names) != len(cells):
            raise FormatError(f"{self._path} has a row of another length than its head.")
        return {name: from_cell(cell) for name, cell in zip(names, cells, strict=True)}


def number(cell: str | None) -> float | None:
    """Return the number in a cell; None where it is empty."""
    return float(cell) if cell else None


def quoted(path: Path) -> str:
    """Return a path as a word of a command."""
    return shlex.quote(str(path))
