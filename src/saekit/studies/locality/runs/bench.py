"""What a run cost, kept beside its results and no part of them: bench.json."""

import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch

from saekit.core import machine
from saekit.core.provenance import collect


class Bench:
    """Seconds of each site or length of a run; those that a journal gave back cost next to none."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.windows: dict[str, int] = {}

    @contextlib.contextmanager
    def timed(self, unit: str, windows: int) -> Iterator[None]:
        """Add the seconds of what is done within."""
        began = time.perf_counter()
        yield
        self.seconds[unit] = time.perf_counter() - began
        self.windows[unit] = windows

    def record(self, *, resumed: bool, device: str) -> dict[str, Any]:
        """Return the record, JSON-ready; a batch is a window, as in the published files."""
        a_window = [s / max(self.windows[unit], 1) for unit, s in self.seconds.items()]
        return {
            "total_elapsed_s": time.perf_counter() - self.began,
            "mean_batch_s": statistics.fmean(a_window) if a_window else None,
            "std_batch_s": statistics.pstdev(a_window) if a_window else None,
            "seconds": self.seconds,
            "windows": self.windows,
            "resumed": resumed,
            "device": device,
            "peak_rss_bytes": machine.peak_memory(),
            "peak_gpu_mem_gib": _gpu_peak(),
            "cuda_available": torch.cuda.is_available(),
            "threads": torch.get_num_threads(),
            "machine": collect()["machine"],
        }


def _gpu_peak() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
