"""What a command line can be refused for before anything is loaded, and what it replaced."""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from saekit.core.errors import MissingExtraError
from saekit.core.files import sha256_of
from saekit.core.registry import studies
from saekit.core.writable import check_writable

# Commands that make a folder, and where when none is named. Those of a study are in its own
# `commands`: MAKES is such a table, and NEEDS names the library that a command needs at its end,
# with the extra that brings it.
_FOLDERS = {
    "train": "runs",
    "fit": "runs",
    "sweep": "runs",
    "demo": "demo",
    "compare": "comparison",
    "cache write": "caches",
    "index": None,
    "cache import": None,
    "cache export": None,
    "convert": None,
    "pull": None,
}
# Commands that write into the folder that they are given, and which of their words names it.
_BESIDE_RUN = {"eval": 1, "index": 1, "report": 1, "analyse": 2}
# Files that come out the same from the same inputs; pages and results have times in them.
_PRODUCTS = frozenset({".csv", ".parquet", ".svg", ".pdf", ".png"})
_MOST_NAMED, _MOST_READ = 4, 2**26  # files named in a warning; bytes of one that is compared


def check_first(words: Sequence[str]) -> None:
    """Refuse a command that would fail at its end; name a file that it will write over.

    Args:
        words: of the command line, without the program's name.

    Raises:
        ConfigError: a file is where a folder would be made.
        ResourceError: the folder cannot be written.
        MissingExtraError: a library is not installed.
    """
    if {"-h", "--help"} & set(words):
        return
    command, folders, libraries = _tables(words)
    if command in libraries:
        library, extra = libraries[command]
        if importlib.util.find_spec(library) is None:
            raise MissingExtraError(library, extra)
    makes_folder = command in folders
    out = _value(words, "--out")
    if out is not None:
        check_writable(Path(out), as_folder=makes_folder)
        if Path(out).is_file():
            sys.stderr.write(f"warning   {out} is there and will be replaced\n")
    elif (there := _value(words, "--resume")) is not None and Path(there).is_dir():
        check_writable(Path(there))
    elif (at := _BESIDE_RUN.get(command)) and len(words) > at and Path(words[at]).is_dir():
        check_writable(Path(words[at]))
    elif makes_folder and (usual := folders[command]) is not None:
        check_writable(Path(usual), as_folder=True)


@contextlib.contextmanager
def replaced_told(words: Sequence[str]) -> Iterator[None]:
    """A context that names the figures and tables that a command replaced in its folder.

    One that comes out as it was, which is so from the same inputs, is not named, nor is what a
    command with `--resume` goes on with.

    Args:
        words: of the command line, without the program's name.
    """
    command, folders, _ = _tables(words)
    out = _value(words, "--out") or folders.get(command)
    before = {} if out is None or "--resume" in words else _products(Path(out))
    try:
        yield
    finally:
        now = {path: _told_by(path) for path in before if path.is_file()}
        names = [path.name for path, told in now.items() if told != before[path]]
        if names:
            more = len(names) - _MOST_NAMED
            said = ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
            sys.stderr.write(f"warning   replaced in {out}, where they had other numbers: {said}\n")


def _products(folder: Path) -> dict[Path, str]:
    """Return the figures and tables in a folder, with what tells their content."""
    if not folder.is_dir():
        return {}
    found = (path for path in sorted(folder.iterdir()) if path.suffix in _PRODUCTS)
    return {path: _told_by(path) for path in found if path.is_file()}


def _told_by(path: Path) -> str:
    there = path.stat()
    if there.st_size > _MOST_READ:
        return f"{there.st_size} {there.st_mtime_ns}"
    return sha256_of(path)


def _tables(words: Sequence[str]) -> tuple[str, dict[str, str | None], dict[str, tuple[str, str]]]:
    """Return the command that a line names, and what is known of it and its like."""
    head = words[0] if words else ""
    group = next((s for s in studies() if s.rpartition(".")[2] == head), None)
    if group is None:
        return " ".join(words[: 2 if head == "cache" else 1]), _FOLDERS, {}
    commands = importlib.import_module(f"{group}.commands")
    second = words[1] if len(words) > 1 else ""
    return second, getattr(commands, "MAKES", {}), getattr(commands, "NEEDS", {})


def _value(words: Sequence[str], option: str) -> str | None:
    for i, word in enumerate(words):
        if word == option and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None
