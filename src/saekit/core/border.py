"""The border between given files and the package: what a file may be, how its faults are told.

Whatever a loader stumbles over in a file becomes a `FormatError` that names the file. Loaders say
what they know to be wrong in words of their own; `reading` is for all the rest.
"""

import functools
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from saekit.core.errors import FormatError, SaekitError

P = ParamSpec("P")
T = TypeVar("T")

JSON_BYTES = 2**28  # of one JSON file, or of one line of JSON lines
JSON_DEPTH = 64  # of lists and objects within each other
PART_BYTES = 2**24  # of an entry of a zip, read at once


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever goes wrong while `path` is read into a `FormatError` that names it.

    Args:
        path: the file or folder.
        what: what it is read as, such as "an SAE of sae_lens".

    Raises:
        FormatError: anything went wrong that was not said already.
    """
    try:
        yield
    except SaekitError:
        raise
    except FileNotFoundError as error:
        raise FormatError(f"There is no file {error.filename or path}.") from error
    except MemoryError as error:
        raise FormatError(f"{path} needs more memory than there is, read as {what}.") from error
    except Exception as error:  # a damaged file may surprise its loader in any way
        raise FormatError(
            f"{path} is damaged, or is not {what}: {type(error).__name__}: {_short(error)}"
        ) from error


@contextmanager
def details_of(name: str) -> Iterator[None]:
    """Turn whatever goes wrong while a result's details are read into a `FormatError`.

    Args:
        name: of the evaluation that the result is of.

    Raises:
        FormatError: anything went wrong that was not said already.
    """
    try:
        yield
    except SaekitError:
        raise
    except Exception as error:  # a file that somebody changed may surprise its reader in any way
        raise FormatError(
            f"The result of `{name}` does not hold what it should: {type(error).__name__}: "
            f"{_short(error)} Measure it again."
        ) from error


def bordered(what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Put `reading` around a loader whose first argument that is a path names what it reads."""

    def wrap(loader: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(loader)
        def inner(*args: P.args, **kwargs: P.kwargs) -> T:
            given = (a for a in (*args, *kwargs.values()) if isinstance(a, str | Path))
            with reading(Path(next(given)), what):
                return loader(*args, **kwargs)

        return inner

    return wrap


def ordinary(path: Path, most_bytes: int | None = None) -> int:
    """Return the size in bytes of an ordinary file, or of the one that a link leads to.

    A fifo or a device would be waited for without end.

    Raises:
        FormatError: it is missing, is no ordinary file, or is larger than `most_bytes`.
    """
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise FormatError(f"There is no file {path}.") from error
    except (OSError, ValueError) as error:
        raise FormatError(f"{str(path)!r} cannot be read: {_short(error)}") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a socket or a device"
        raise FormatError(f"{path} is {kind}; a file is expected there.")
    if not os.access(path, os.R_OK):
        raise FormatError(f"{path} may not be read by this user.")
    if most_bytes is not None and found.st_size > most_bytes:
        raise FormatError(
            f"{path} has {found.st_size:,} bytes; saekit reads up to {most_bytes:,} here."
        )
    return found.st_size


def inside(folder: Path, name: Any) -> Path:
    """Return a file of `folder` that a record in it names.

    Raises:
        FormatError: the name leads elsewhere: it has folders in it, is absolute, or is empty.
    """
    if (
        not isinstance(name, str)
        or name in ("", ".", "..")
        or len(name) > 255
        or re.search(r"[/\\\x00-\x1f\ud800-\udfff]", name)
    ):
        shown = repr(name)
        raise FormatError(
            f"A record in {folder} names the file {shown[:80]}; a plain name of a file in that "
            f"folder is expected."
        )
    return folder / name


def parsed_json(text: str | bytes, place: str, *, lone_surrogates: bool = False) -> Any:
    """Return what a JSON text says.

    Args:
        text: the text, UTF-8 where it is bytes.
        place: what it is, for messages.
        lone_surrogates: take text with half of a pair of surrogates, which the caller mends.

    Raises:
        FormatError: it is not JSON, is nested deeper than `JSON_DEPTH`, or has characters or
            numbers that nothing can hold.
    """
    try:
        plain = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(plain)
    except RecursionError as error:
        raise FormatError(_too_deep(place)) from error
    except ValueError as error:  # of JSON, of UTF-8, or of a number with too many digits
        raise FormatError(f"{place} is not JSON: {_short(error)}") from error
    if plain.count("[") + plain.count("{") > JSON_DEPTH and _depth_exceeds(value, JSON_DEPTH):
        raise FormatError(_too_deep(place))
    if not lone_surrogates and re.search(r"\\u[dD][89a-fA-F]", plain):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise FormatError(
                f"{place} has half of a pair of UTF-16 surrogates, which is no character."
            ) from error
    return value


def exactly(opened: Any, n_bytes: int, place: str) -> bytearray:
    """Return all that an opened entry of a zip holds, which is `n_bytes`.

    Raises:
        FormatError: it holds fewer or more.
    """
    data = bytearray(n_bytes)
    view = memoryview(data)
    while view:
        # An entry of a zip holds what is asked for at once a second time.
        if not (n := opened.readinto(view[:PART_BYTES])):
            raise FormatError(f"{place} is cut short.")
        view = view[n:]
    if opened.read(1):  # reads on to the end, where the checksum is compared
        raise FormatError(f"{place} is longer than it claims.")
    return data


def _too_deep(place: str) -> str:
    return (
        f"{place} has lists and objects nested more than {JSON_DEPTH} deep, which nothing that "
        f"saekit reads has."
    )


def _depth_exceeds(value: Any, most: int) -> bool:
    """Tell whether containers are nested deeper than `most`; level by level, so never deep."""
    level = [value]
    for _ in range(most + 1):
        inner = []
        for one in level:
            if isinstance(one, dict):
                inner += [v for v in one.values() if isinstance(v, dict | list)]
            elif isinstance(one, list):
                inner += [v for v in one if isinstance(v, dict | list)]
        if not inner:
            return False
        level = inner
    return True


def _short(error: Exception) -> str:
    """Return the first line of an error's words, of a length that a terminal can show."""
    said = str(error).strip().partition("\n")[0].rstrip(".")
    shown = said.encode("utf-8", "backslashreplace").decode()
    return f"{shown[:300]}." if shown else "no more is said."
