"""Lock: a folder, or a file, that one process at a time writes.

Who writes claims the place first, before any work. The claim is a small file that names process,
host and start, and that the system holds locked for as long as the process lives: of two that
start together one wins, and one that was killed does not stand in the way of the next.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from saekit.core import parts
from saekit.core.errors import ConfigError, ResourceError

NAME = ".lock"
_TRIES, _PAUSE_SECONDS = 20, 0.01  # while a lock file is between two holders
_MOST_BYTES = 4096
_NO_LOCKS = ("ENOLCK", "ENOTSUP", "EOPNOTSUPP", "ENOSYS")


class Holder(NamedTuple):
    """The process that claimed a place."""

    pid: int
    host: str
    started: str | None  # see `parts.started`
    doing: str

    @property
    def alive(self) -> bool:
        """Whether it is still there; of another host that cannot be known, and counts as yes."""
        if self.host != socket.gethostname():
            return True
        if not parts.is_alive(self.pid):
            return False
        now = parts.started(self.pid)
        return self.started is None or now is None or now == self.started

    @property
    def text(self) -> str:
        """It in words."""
        return f"process {self.pid} on {self.host} ({self.doing})"


class Claim:
    """A place that this process has claimed.

    Attributes:
        folder: that is written, or in which the file is.
        kept: what stays if the work is stopped now, as a sentence or two for the user.
    """

    def __init__(self, folder: Path, kept: str):
        self.folder, self.kept = folder, kept


_own: dict[str, tuple[int, Claim]] = {}  # by path of the lock: thread and claim, outermost first


@contextlib.contextmanager
def claimed(folder: Path, doing: str, kept: str = "") -> Iterator[Claim]:
    """A context in which no other process writes a folder, which is made where there is none.

    Parts that dead writers left in it are removed. Claiming again what this thread has claimed
    is the same claim.

    Args:
        folder: that is written.
        doing: what for, as "saekit train"; others are told.
        kept: see `Claim`.

    Raises:
        ConfigError: another process is writing there, or it is no folder.
        ResourceError: it cannot be written.
    """
    made = [p for p in (folder, *folder.absolute().parents) if not p.exists()]
    with _refusals(folder):
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is in use: it is a file. Choose another folder.")
        parts.make_folder(folder)
    try:
        with _held(folder / NAME, folder, doing, kept) as (claim, is_new):
            if is_new:
                with _refusals(folder):
                    parts.remove_leftovers(folder)
            yield claim
    finally:
        for path in made:  # where nothing came of it, nothing is left behind
            with contextlib.suppress(OSError):
                path.rmdir()


@contextlib.contextmanager
def claimed_file(path: Path, doing: str, kept: str = "") -> Iterator[Claim]:
    """A context in which no other process writes one file, or makes one folder that is put whole.

    Args:
        path: the file or folder; what dead writers left next to it is removed.
        doing: what for; others are told.
        kept: see `Claim`.

    Raises:
        ConfigError: another process is writing it.
        ResourceError: it cannot be written there.
    """
    with _refusals(path.parent):
        parts.make_folder(path.parent)
    with _held(path.with_name(f".{path.name}{NAME}"), path, doing, kept) as (claim, is_new):
        if is_new:
            with _refusals(path.parent):
                parts.remove_leftovers_of(path)
        yield claim


@contextlib.contextmanager
def made_whole(
    folder: Path, doing: str, *, replaces: Callable[[Path], bool] = lambda _: False
) -> Iterator[Path]:
    """A context that gives a folder to fill, which gets its place when the context ends well.

    Args:
        folder: its place: new or empty.
        doing: what for; others are told.
        replaces: whether what is in the place may be replaced; it stays until then.

    Raises:
        ConfigError: another process is making it, or the place is in use.
        ResourceError: it cannot be written there.
    """
    # What was written when the user stops it is of no use to anybody: nothing is kept.
    with claimed_file(folder, doing, f"Nothing new was kept in {folder}."):
        if not (folder.is_dir() and replaces(folder)):
            parts.check_empty(folder, "Choose another folder with --out, or delete it.")
        part = parts.part_of(folder)
        try:
            with _refusals(folder):
                parts.new_folder(part)
            yield part
            with _refusals(folder):
                parts.put_folder(part, folder)
        finally:
            with contextlib.suppress(OSError):
                parts.remove(part)


def holder(folder: Path) -> Holder | None:
    """Return the living process that writes a folder, as far as can be seen; None: nobody."""
    found = _read(folder / NAME)
    return found if found is not None and found.alive else None


def newest() -> Claim | None:
    """Return the outermost claim that this process has, or had last."""
    return next((claim for _, claim in _own.values()), _last[0] if _last else None)


_last: list[Claim] = []


@contextlib.contextmanager
def _held(path: Path, place: Path, doing: str, kept: str) -> Iterator[tuple[Claim, bool]]:
    key, thread = str(path.absolute()), threading.get_ident()
    if key in _own and _own[key][0] == thread:
        yield _own[key][1], False
        return
    if key in _own:
        raise ConfigError(f"{place} is in use by another thread of this process. Wait for it.")
    me = Holder(os.getpid(), socket.gethostname(), parts.started(os.getpid()), doing)
    with _refusals(place):
        fd = _locked(path, place, me)
    claim = Claim(place, kept or f"What was written is in {place}.")
    _own[key] = (thread, claim)
    try:
        yield claim, True
    finally:
        _last[:] = [claim]
        del _own[key]
        # First the name, then the lock: who waits for this file sees that it is no longer there.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(fd)


def _locked(path: Path, place: Path, me: Holder) -> int:
    """Return the open lock file, locked by this process and with its name in it."""
    for _ in range(_TRIES):
        fd = _opened(path)
        try:
            if _take(fd):
                _check_other(path, place)
                if _is_at(fd, path):
                    _sign(fd, me)
                    return fd
            elif (other := _read(path)) is not None and other.pid != os.getpid() and other.alive:
                # One that is not alive is about to be overwritten by who holds the lock.
                raise _refused(place, path, other)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        time.sleep(_PAUSE_SECONDS)
    raise ConfigError(f"{place} is in use: another process holds {path}. Wait for it, or stop it.")


def _opened(path: Path) -> int:
    """Open or create a lock file; a link that somebody planted is not followed."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK
    if path.is_symlink() or (path.exists() and not path.is_file()):
        parts.remove(path)
    return os.open(path, flags, 0o666)


def _take(fd: int) -> bool:
    """Lock an open file; true also where the file system has no locks, and names must do."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in [getattr(errno, name, None) for name in _NO_LOCKS]:
            raise
    return True


def _check_other(path: Path, place: Path) -> None:
    """Refuse a place whose lock names a living process, though the system holds no lock."""
    other = _read(path)
    if other is not None and other.pid != os.getpid() and other.alive:
        raise _refused(place, path, other)


def _refused(place: Path, path: Path, other: Holder) -> ConfigError:
    here = other.host == socket.gethostname()
    remedy = "Wait for it, or stop it." if here else f"Where it has ended there, delete {path}."
    return ConfigError(f"{place} is in use by {other.text}. {remedy}")


def _is_at(fd: int, path: Path) -> bool:
    """Return whether an open file still has its name: its last holder may have deleted it."""
    try:
        now = path.lstat()
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (mine.st_dev, mine.st_ino) == (now.st_dev, now.st_ino)


def _sign(fd: int, me: Holder) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(me._asdict()).encode(), 0)


def _read(path: Path) -> Holder | None:
    """Return who a lock file names; None where there is none, or it names nobody."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        raw = json.loads(os.read(fd, _MOST_BYTES))
        return Holder(int(raw["pid"]), str(raw["host"]), raw["started"], str(raw["doing"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    finally:
        os.close(fd)


@contextlib.contextmanager
def _refusals(place: Path) -> Iterator[None]:
    """A context whose refusals by the system are told in one sentence."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{place} cannot be written: {error.strerror or error}. Choose another folder."
        ) from error
