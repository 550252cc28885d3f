"""What interventions found of some SAEs, from the results next to them."""

from collections.abc import Sequence
from pathlib import Path

from saekit.core.errors import FormatError
from saekit.core.folder_names import distinct_names
from saekit.core.result import Result
from saekit.hub.names import results_folder

CURVES = ("tpp", "scr")


def results_of(folders: Sequence[Path]) -> dict[str, list[Result]]:
    """Return the results of `tpp` and `scr` in the folders of SAEs, by name.

    Raises:
        FormatError: there is none.
    """
    names = distinct_names(folders)
    found: dict[str, list[Result]] = {}
    for name, folder in zip(names, folders, strict=True):
        files = [results_folder(folder) / "eval" / f"{one}.json" for one in CURVES]
        if there := [Result.read(file) for file in files if file.is_file()]:
            found[name] = there
    if not found:
        raise FormatError(
            f"There is no result of {' or '.join(CURVES)} in {', '.join(map(str, folders))}. Make "
            f"one with: saekit eval RUN --eval tpp"
        )
    return found
