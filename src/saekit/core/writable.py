"""Whether a folder can be written, found out before the work and not after it."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from saekit.core.errors import ConfigError, ResourceError


def check_ending(path: Path, endings: Sequence[str], what: str) -> None:
    """Refuse a file of a wrong ending, which may be another thing that is there already.

    Args:
        path: of the file that is to be written, over what is there.
        endings: that it may have, as ".html".
        what: it is, as "A page".

    Raises:
        ConfigError: it ends in something else.
    """
    if path.suffix.lower() not in endings:
        raise ConfigError(f"{what} is a file ending in {' or '.join(endings)}; got {path}.")


def check_writable(path: Path, *, as_folder: bool = False) -> None:
    """Refuse a place that nothing can be written to. Nothing is left there.

    Args:
        path: a folder or a file, there or to be made.
        as_folder: it will be a folder, so that a file there is in the way.

    Raises:
        ConfigError: a file is in the way.
        ResourceError: the disk refuses: it is read-only, or belongs to somebody else.
    """
    path = path.expanduser().absolute()
    if as_folder and path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file, and a folder is to be made there. Choose another.")
    try:
        if path.is_file():
            if not os.access(path, os.W_OK):
                raise PermissionError(13, "it may not be written")
            return
        place = path
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise ConfigError(
                f"{path} cannot be made: {place} is a file. Choose another place, or move it away."
            )
        # The only sure test, for a disk may be read-only whatever the permissions say.
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ResourceError(
            f"{path} cannot be written: {error.strerror or error}. Choose another folder, or "
            f"change its permissions."
        ) from error
