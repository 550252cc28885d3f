"""What the processor does fast, and the settings of a process that follow from it."""

import contextlib
import ctypes
import functools
import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# glibc gives blocks above a limit back to the system at once, and each later use of such a block
# costs a page fault per 4 KB: a third of the time of a training step with large temporaries.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # names of mallopt(3)
_ARENA_MAX = -8
_LARGE = 2**31 - 1

_tuned = False


@functools.cache
def bfloat16_products() -> bool:
    """Return whether matrix products in bfloat16 are done in hardware on the CPU."""
    import torch

    named = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    asked = (getattr(torch.cpu, name, None) for name in named)
    return torch.backends.mkldnn.is_available() and any(ask() for ask in asked if ask)


@functools.cache
def onednn_float32() -> bool:
    """Return whether oneDNN's float32 product beats the default one: on AMD, by a factor of 2.

    There the default library does not use the widest instructions.
    """
    import torch

    info = Path("/proc/cpuinfo")
    if not info.exists() or "AuthenticAMD" not in info.read_text():
        return False
    wide = "AVX512" in torch.backends.cpu.get_cpu_capability()
    return wide and torch.backends.mkldnn.is_available()


@functools.cache
def native_kernels() -> bool:
    """Return whether compiled kernels can be used: the library of extra `native` is there.

    SAEKIT_NATIVE=0 turns them off; results are the same bits without them.
    """
    return os.environ.get("SAEKIT_NATIVE") != "0" and bool(importlib.util.find_spec("numba"))


def prepare() -> bool:
    """Set a process up for saekit: before PyTorch is imported, and before much is allocated.

    For a process of saekit's own, as the command line is; a library would be rude to. Large
    blocks of memory are kept instead of faulted in again, and not given back until the
    process ends (Linux with glibc only; SAEKIT_MALLOC=0 turns it off). Threads of GNU OpenMP
    wait a shorter time for more work before they sleep, so that they leave the cores to
    compiled kernels (a GOMP_SPINCOUNT of the user's stays).

    Returns:
        Whether memory is kept.
    """
    global _tuned
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if _tuned or os.environ.get("SAEKIT_MALLOC") == "0":
        return _tuned
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _LARGE), (_MMAP_MAX, 0))
    done = [mallopt(name, value) for name, value in settings]
    _tuned = all(done)
    return _tuned


def busy_cores(seconds: float = 0.2) -> float | None:
    """Return how many of this process's cores others keep busy; None where that is not known.

    Args:
        seconds: to watch for.
    """
    before = _ticks()
    if before is None:
        return None
    time.sleep(seconds)
    after = _ticks()
    if after is None:
        return None
    shares = [
        (after[core][0] - work) / max(after[core][1] - total, 1)
        for core, (work, total) in before.items()
        if core in after
    ]
    return sum(shares)


def _ticks() -> dict[int, tuple[int, int]] | None:
    """Return ticks of work and of all, by core that this process may use (Linux)."""
    stat = Path("/proc/stat")
    if not stat.exists() or not hasattr(os, "sched_getaffinity"):
        return None
    mine, found = os.sched_getaffinity(0), {}
    for line in stat.read_text().splitlines():
        name, *numbers = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in mine:
            ticks = [int(n) for n in numbers[:8]]
            idle = ticks[3] + ticks[4]  # idle, and waiting for a disk
            found[int(name[3:])] = (sum(ticks) - idle, sum(ticks))
    return found


def share_arenas() -> None:
    """Have the threads of a process that answers many share its memory, before they begin.

    Each thread of glibc keeps what it freed for itself: 40 of a server held 130 MB more.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(_ARENA_MAX, 1)


def leave_busy_cores() -> str | None:
    """Take no more threads than cores are free, before PyTorch is imported.

    Threads of one matrix product wait for each other, so with a thread on a core that another
    process keeps busy all of them run at a fraction of their speed: measured beside one busy
    process on two cores, training had 26 % of its speed alone with two threads. What is computed
    does not change. OMP_NUM_THREADS, where it is set, decides.

    Returns:
        What to tell the user, where threads are left out.
    """
    if "OMP_NUM_THREADS" in os.environ or not hasattr(os, "sched_getaffinity"):
        return None
    cores, busy = len(os.sched_getaffinity(0)), busy_cores()
    for _ in range(3):  # what lasts: a burst of another process is no reason to run at half speed
        if busy is None or round(busy) == 0:
            break
        again = busy_cores()
        busy = busy if again is None else min(busy, again)
    if cores < 2 or busy is None or (free := max(1, cores - round(busy))) >= cores:
        return None
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(free)
    return (
        f"threads   {free} of {cores}: other processes keep {busy:.1f} cores busy "
        f"(OMP_NUM_THREADS={cores} takes all)"
    )


def give_back() -> None:
    """Hand the system memory that is not in use, where `prepare` has it kept.

    A job that is over leaves its memory in pieces, into which the large arrays of the next do
    not fit: without this, each of several jobs in a process would take its own.
    """
    if _tuned:
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def free_memory(device: "torch.device | str" = "cpu") -> int | None:
    """Return the bytes that can still be had on a device; None where that is not known."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = [n for n in (_available(), _left_of_group()) if n is not None]
    return min(known) if known else None


def used_memory(device: "torch.device | str" = "cpu") -> int | None:
    """Return the bytes this process holds on a device; None where that is not known."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory_of(pid: int) -> int | None:
    """Return the bytes that another process holds on the CPU; None where that is not known."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return _asked(pid)
    return pages * os.sysconf("SC_PAGE_SIZE")


def _asked(pid: int) -> int | None:
    """Return what `ps` says of the memory of a process, on systems without /proc."""
    import subprocess

    if sys.platform != "darwin":
        return None
    words = ["ps", "-o", "rss=", "-p", str(pid)]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return int(said) * 1024 if said.isdigit() else None


def all_memory() -> int | None:
    """Return the bytes this process and its children may have in all; None: that is not known."""
    found = []
    info = Path("/proc/meminfo")
    if info.exists():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        found.append(int(lines["MemTotal"].split()[0]) * 1024)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        found += [] if limit == "max" else [int(limit)]
    except (OSError, ValueError):
        pass
    return min(found) if found else None


def peak_memory() -> int:
    """Return the most bytes this process has held, on a CPU."""
    import resource  # not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes elsewhere


def _available() -> int | None:
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    for line in info.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _left_of_group() -> int | None:
    """Return what is left of the limit that a container or a batch system set."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        return None if limit == "max" else int(limit) - int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return None


def describe() -> dict[str, Any]:
    """Return a JSON-ready record of what is used here."""
    import torch

    return {
        "threads": torch.get_num_threads(),
        "float32_products": "oneDNN" if onednn_float32() else "default",
        "bfloat16_screening": bfloat16_products(),
        "native_kernels": native_kernels(),
        "memory_kept": _tuned,
    }
