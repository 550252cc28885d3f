"""What a command line can be refused for before anything is loaded."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from saekit.core.errors import MissingExtraError
from saekit.core.writable import check_writable

# Commands that make a folder, and where when none is named.
_FOLDERS = {
    "train": "runs", "sweep": "runs", "demo": "demo", "cache write": "caches", "index": None,
    "cache import": None, "cache export": None, "convert": None, "layers merge": None,
    "truth make": "truths", "truth train": "runs", "locality convert": None,
    "locality release": None, "locality depth": None, "locality context": None,
    "locality dataset": None, "locality levels": None,
}  # fmt: skip
# Commands that write into the folder that they are given, and which of their words names it.
_BESIDE_RUN = {"eval": 1, "index": 1, "report": 1, "analyse": 2}
# Libraries that a command needs at its end, and the extra that brings each.
_LIBRARIES = {
    "layers figures": ("matplotlib", "figures"),
    "locality draw-depth": ("matplotlib", "figures"),
    "locality draw-events": ("matplotlib", "figures"),
    "locality sparsity": ("matplotlib", "figures"),
    "truth eval": ("scipy", "truth"),
    "truth calibrate": ("scipy", "truth"),
}


def check_first(words: Sequence[str]) -> None:
    """Refuse a command that would fail at its end.

    Args:
        words: of the command line, without the program's name.

    Raises:
        ConfigError: a file is where a folder would be made.
        ResourceError: the folder cannot be written.
        MissingExtraError: a library is not installed.
    """
    if {"-h", "--help"} & set(words):
        return
    command = " ".join(words[:2]) if words[:1] and words[0] in _GROUPS else "".join(words[:1])
    if command in _LIBRARIES:
        library, extra = _LIBRARIES[command]
        if importlib.util.find_spec(library) is None:
            raise MissingExtraError(library, extra)
    makes_folder = command in _FOLDERS
    out = _value(words, "--out")
    if out is not None:
        check_writable(Path(out), as_folder=makes_folder)
    elif (there := _value(words, "--resume")) is not None and Path(there).is_dir():
        check_writable(Path(there))
    elif (at := _BESIDE_RUN.get(command)) and len(words) > at and Path(words[at]).is_dir():
        check_writable(Path(words[at]))
    elif makes_folder and (usual := _FOLDERS[command]) is not None:
        check_writable(Path(usual), as_folder=True)


_GROUPS = ("cache", "layers", "locality", "truth")


def _value(words: Sequence[str], option: str) -> str | None:
    for i, word in enumerate(words):
        if word == option and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None
