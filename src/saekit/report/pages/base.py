"""The contract of a page of a study: a folder that a command left goes in, blocks come out.

The library of a folder lists every study that one of these finds. A page reads tables and computes
nothing that takes time; its figures are blocks, which the browser draws.
"""

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import saekit.report.pages as package
from saekit.core.border import reading
from saekit.core.errors import SaekitError
from saekit.core.registry import Registry
from saekit.core.result import Table
from saekit.data import table_files
from saekit.report.blocks import Block, text


class Page(abc.ABC):
    """One kind of folder that a study leaves."""

    name: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str]

    @abc.abstractmethod
    def find(self, folder: Path) -> bool:
        """Tell whether a folder is of this kind, by the names of its files and their heads."""

    @abc.abstractmethod
    def blocks(self, folder: Path) -> list[Block]:
        """Return what a folder of this kind holds.

        Raises:
            SaekitError: a file is damaged.
        """

    def paper(self, folder: Path) -> list[Block]:
        """Return what is for print: every figure and table of the page, unless a page says less.

        Raises:
            SaekitError: a file is damaged.
        """
        return self.blocks(folder)


registry = Registry[Page]("page", package, of_studies="pages")


def kind_of(folder: Path, notes: list[str] | None = None) -> str | None:
    """Return which kind of page a folder has; None: none.

    A folder in which a file that would tell is damaged has none.

    Args:
        folder: to look into.
        notes: gets a sentence for each file that is damaged, where there is no page.
    """
    unread = []
    for name in registry.names():
        try:
            with reading(folder, f"a folder for the page `{name}`"):
                if registry.get(name)().find(folder):
                    return name
        except SaekitError as error:
            unread.append(str(error))
    if notes is not None:
        notes += dict.fromkeys(unread)
    return None


def described(name: str, folder: Path, called: str = "") -> dict[str, Any]:
    """Return a study as a library lists it: kind, title, about.

    Args:
        name: the kind.
        folder: of the study.
        called: what the title calls it; "": by the folder's name.

    Raises:
        UnknownNameError: there is no such kind.
    """
    page = registry.get(name)
    return {"kind": name, "title": f"{page.title}: {called or folder.name}", "about": page.about}


def payload(name: str, folder: Path, called: str = "") -> dict[str, Any]:
    """Return a page, JSON-ready: kind, title, about, blocks.

    A file that is damaged is told in place of the blocks.

    Args:
        name: the kind.
        folder: of the study.
        called: what the title calls it; "": by the folder's name.

    Raises:
        UnknownNameError: there is no such kind.
    """
    page = registry.get(name)()
    try:
        with reading(folder, f"a folder for the page `{name}`"):
            found = page.blocks(folder)
    except SaekitError as error:
        found = [text(str(error), title="A file could not be read")]
    return described(name, folder, called) | {"blocks": found}


def read(stem: Path, units: Mapping[str, str] | None = None) -> Table:
    """Return a table on disk with its numbers as numbers, None where a cell is empty.

    Args:
        stem: path of the table without its ending.
        units: of its columns, which CSV does not keep.

    Raises:
        FormatError: there is none, or it is damaged.
    """
    columns = table_files.columns(table_files.find(stem))
    return Table(columns=columns, units={k: v for k, v in (units or {}).items() if k in columns})


def only(table: Table, names: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of these that a table has, with what they are called."""
    return {name: label for name, label in names.items() if name in table.columns}


def numbers(values: list[Any]) -> list[float]:
    """Return the numbers among some cells."""
    return [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
