"""Parts: what is written under a name of its own first, and what dead writers left of it.

A part is `.NAME.PID.part`, a file or a folder next to its place. It is made new, so that a link
that somebody planted under its name is not followed, and renamed to its place when it is whole. A
writer that was killed leaves its part behind; the next start removes it.
"""

import contextlib
import ctypes
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from saekit.core.errors import ConfigError

ENDING = ".part"
# The second form is that of checkpoints which several processes write together.
_NAME = re.compile(r"\..+\.(?P<pid>\d+)\.part|\.step-\d+\.part")
_DEPTH = 3  # folders within folders that are searched for leftovers
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
_MODE = 0o666  # less what the umask takes away


def part_of(path: Path) -> Path:
    """Return the name under which this process writes what becomes `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}{ENDING}")


def new_file(path: Path) -> int:
    """Create a file for writing and return its descriptor; a link or an old part goes first."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, flags, _MODE)
    except FileExistsError:
        remove(path)
        return os.open(path, flags, _MODE)


def new_folder(path: Path) -> Path:
    """Create an empty folder; a link or an old part under its name goes first."""
    make_folder(path.parent)
    try:
        path.mkdir()
    except FileExistsError:
        remove(path)
        path.mkdir()
    return path


def make_folder(path: Path) -> None:
    """Create a folder and those above it, such that they outlive a loss of power."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def remove(path: Path) -> None:
    """Delete a file, a link (not what it points to) or a folder; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Delete a folder so that it is there whole or not at all, whenever this process dies."""
    aside = part_of(folder)
    if aside.exists():
        remove(aside)
    folder.rename(aside)
    shutil.rmtree(aside)


def sync(path: Path) -> None:
    """Have what is in a file, or which names are in a folder, written to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        # Some file systems cannot do this for folders; they are no less safe than before.
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(fd)
    finally:
        os.close(fd)


def put_folder(part: Path, folder: Path) -> None:
    """Give a whole folder its place, which is free, an empty folder, or holds an older one.

    An older one is there until the new one is, and is deleted afterwards.
    """
    for file in part.rglob("*"):
        if file.is_dir():
            sync(file)
    sync(part)
    if folder.is_dir() and any(folder.iterdir()):
        _exchange(part, folder)
        sync(folder.parent)
        shutil.rmtree(part)
    else:
        part.rename(folder)
        sync(folder.parent)


def _exchange(one: Path, other: Path) -> None:
    """Swap the names of two folders, at once where the system can."""
    names = os.fsencode(one), os.fsencode(other)
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None and call(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0:
        return
    aside = one.with_name(f".old{one.name}")
    remove(aside)
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def leftovers(folder: Path) -> Iterator[Path]:
    """Yield the parts in a folder whose writers are gone; this process counts as a new one."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and not _is_written(path, match["pid"]):
            yield path


def remove_leftovers(folder: Path, depth: int = _DEPTH) -> None:
    """Delete what dead writers left in a folder and in those within it.

    Only for who has claimed the folder: a part without a process in its name counts as left.
    """
    for path in leftovers(folder):
        remove(path)
    for path in folder.iterdir() if folder.is_dir() and depth else ():
        if path.is_dir() and not path.is_symlink():
            remove_leftovers(path, depth - 1)


def remove_leftovers_of(path: Path) -> None:
    """Delete what dead writers of one file or folder left next to it."""
    for left in leftovers(path.parent):
        if re.fullmatch(rf"\.{re.escape(path.name)}\.\d+\.part", left.name):
            remove(left)


def is_empty(folder: Path) -> bool:
    """Return whether a new run may begin here: nothing, or what a dead writer left at its start."""
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    return all(is_own(path.name) for path in folder.iterdir())


def check_empty(folder: Path, instead: str = "Choose another folder with --out.") -> None:
    """Refuse a folder, or a file in its place, where something is that a new run would bury.

    Args:
        folder: that will be written.
        instead: what to do, as a sentence.

    Raises:
        ConfigError: there is something.
    """
    if not is_empty(folder):
        raise ConfigError(f"{folder} is in use. {instead}")


def is_own(name: str) -> bool:
    """Return whether a file of this name is a lock or a part, and so nothing of the user's."""
    return name == ".lock" or _NAME.fullmatch(name) is not None


def is_alive(pid: int) -> bool:
    """Return whether a process of this machine is there and has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    state = _stat(pid)
    return state is None or state[0] not in "ZX"  # ended, and not yet asked for its exit code


def started(pid: int) -> str | None:
    """Return when a process began, in a form that no other process of this number shares.

    None where the system does not say.
    """
    stat = _stat(pid)
    boot = Path("/proc/sys/kernel/random/boot_id")
    return None if stat is None or not boot.exists() else f"{boot.read_text().strip()}/{stat[19]}"


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # from the third field on: names may hold anything


def _is_written(part: Path, pid: str | None) -> bool:
    """Return whether the writer of a part is there, and not another process of its number."""
    if pid is None or int(pid) == os.getpid() or not is_alive(int(pid)):
        return False
    began = _began(int(pid))
    return began is None or part.lstat().st_mtime >= began - 1.0


def _began(pid: int) -> float | None:
    """Return when a process began, seconds since the epoch."""
    stat = _stat(pid)
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    boot = next((float(line.split()[1]) for line in lines if line.startswith("btime ")), None)
    if stat is None or boot is None:
        return None
    return boot + float(stat[19]) / os.sysconf("SC_CLK_TCK")
