"""Journal: what of a run is done, so that a killed one goes on where it was.

Each unit of work is one file, written whole or not at all; the run's settings are beside them, and
a run with other settings refuses to go on with it.
"""

import io
import sys
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import read_object, replace_with, write_json
from saekit.core.lock import claimed
from saekit.core.npz import read_npz
from saekit.core.parts import check_empty

SETTINGS = "run.json"


def holds_a_run(folder: Path) -> ConfigError:
    """Return what is said of a folder that holds a run, which is not to be gone on with."""
    return ConfigError(
        f"{folder} holds a run. Go on with it with --resume, or choose another --out."
    )


def begun_with(
    path: Path, settings: Mapping[str, Any], *, resume: bool, aside: Container[str] = ()
) -> dict[str, Any] | None:
    """Return what a run in a folder was begun with; None where the folder is free.

    Args:
        path: the file in the folder that holds the settings.
        settings: which the run must have been begun with.
        resume: whether a folder that holds a run may be gone on with.
        aside: settings that may differ.

    Raises:
        ConfigError: the folder is in use, or holds a run with other settings.
    """
    folder = path.parent
    if not path.exists():
        check_empty(folder)
        return None
    if not resume:
        raise holds_a_run(folder)
    before = read_object(path)
    names = sorted(name for name in {*before, *settings} if name not in aside)
    if changed := [name for name in names if before.get(name) != settings.get(name)]:
        raise ConfigError(
            f"The run in {folder} has other settings ({', '.join(changed)}). Give the same ones, "
            f"or choose another --out."
        )
    return before


class Journal:
    """The finished units of a run, whose folder is claimed for as long as this object is there.

    Args:
        folder: of the run.
        settings: what decides its numbers, JSON-ready.
        resume: whether a folder that holds units may be gone on with.

    Raises:
        ConfigError: the folder is in use, or holds a run with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool):
        self.folder = folder
        # Ends with the last reference to it, and so after all that the run writes.
        self._claim = claimed(
            folder, "saekit locality", f"What is measured is in {folder}; --resume goes on with it."
        )
        self._claim.__enter__()
        if begun_with(folder / SETTINGS, settings, resume=resume) is None:
            write_json(folder / SETTINGS, dict(settings))

    def get(self, unit: str) -> dict[str, np.ndarray] | None:
        """Return what a unit gave, or None where it is still to be done.

        A damaged file is told on stderr and counts as not there: the unit is measured again, with
        the same numbers, and its file is replaced.
        """
        path = self._path(unit)
        if not path.exists():
            return None
        try:
            return read_npz(path, kinds="fiubU")
        except FormatError as error:
            sys.stderr.write(f"warning   {error} It is measured again.\n")
            return None

    def put(self, unit: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Record a unit as done."""
        replace_with(self._path(unit), archive(arrays))

    def _path(self, unit: str) -> Path:
        return self.folder / "journal" / f"{unit}.npz"


def archive(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return arrays as the bytes of an npz file; the same arrays give the same bytes."""
    out = io.BytesIO()
    if bad := [k for k, v in arrays.items() if np.asarray(v).dtype.hasobject]:
        raise TypeError(f"{bad} hold objects; only numbers and text are written")
    np.savez(out, **arrays)  # type: ignore[arg-type] - a name may not be that of an argument
    return out.getvalue()
