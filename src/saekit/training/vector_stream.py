"""Vectors to batches: runs of neighbouring rows, some held out, the others in random order."""

import math
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Int
from torch import Tensor
from typing_extensions import override

from saekit.activations.shuffle import Batch, Stream
from saekit.core.seeds import generator
from saekit.data.vectors import Vectors

MOST_HELD_OUT = 2**16  # rows
HELD_OUT_RUNS = 128  # at least, where there are rows for it: the units of intervals
LONGEST_RUN = 64  # rows that are read together, and held out together


class Split(NamedTuple):
    """Which rows train and which are held out, run by run.

    A run is some neighbouring rows, all of one side, so that rows that are alike because they are
    neighbours are in general not on both. The order of the runs is by chance, the same for any
    seed of training.
    """

    n: int  # rows
    run_rows: int  # of a run; the last of all may be shorter
    held_out: Int[Tensor, "test_runs"]  # runs, ascending
    train: Int[Tensor, "train_runs"]  # runs, in random order

    @staticmethod
    def of(n: int, test_share: float) -> "Split":
        """Return the split of n rows; at most 65,536 are held out, and not all."""
        wanted = min(round(test_share * n), MOST_HELD_OUT, n - 1)
        run_rows = min(max(wanted // HELD_OUT_RUNS, 1), LONGEST_RUN)
        runs = torch.randperm(-(-n // run_rows), generator=generator(0, "held out", n))
        n_test = -(-wanted // run_rows)
        return Split(n, run_rows, runs[:n_test].sort().values, runs[n_test:])

    def rows(self, runs: Int[Tensor, "r"]) -> Int[Tensor, "m"]:
        """Return the rows of some runs, in their order."""
        every = (runs[:, None] * self.run_rows + torch.arange(self.run_rows)).flatten()
        return every[every < self.n]

    def count(self, runs: Int[Tensor, "r"]) -> int:
        """Return how many rows some runs have."""
        last = (self.n - 1) // self.run_rows
        short = -self.n % self.run_rows if bool((runs == last).any()) else 0
        return len(runs) * self.run_rows - short


@final
class VectorStream(Stream):
    """Training batches of vectors, each row once an epoch, in a new random order each.

    An epoch permutes the runs; as many as fill `buffer_rows` are read and their rows permuted, so
    that where all fit in, the order is uniform. It is a function of seed, epoch and the number of
    rows alone, so the position is one number, and vectors in memory and on disk come alike.

    In memory is one window, 8 bytes a run, and what `Vectors` hold.

    Args:
        sides: what is read and what is predicted; one for an autoencoder.
        split: of their rows.
        rows: of an epoch: the first so many of the split's training runs.
        epochs: passes over them.
        batch_rows: of a batch; the last of all may be smaller.
        buffer_rows: read at once.
        seed: decides the order.
        device: where batches go.
    """

    def __init__(  # noqa: PLR0913 - vectors, and how they come
        self,
        sides: list[Vectors],
        split: Split,
        *,
        rows: int,
        epochs: int,
        batch_rows: int,
        buffer_rows: int,
        seed: int,
        device: torch.device | str,
    ):
        self._sides, self._split, self._device, self._seed = sides, split, device, seed
        self._rows, self._batch = rows, batch_rows
        self.total_tokens = rows * epochs
        self._runs = split.train[: math.ceil((rows + split.run_rows - 1) / split.run_rows)]
        self._window_runs = max(buffer_rows // split.run_rows, 1)
        self._served = 0
        self._epoch = -1  # of the order below
        self._order = torch.empty(0, dtype=torch.int64)  # runs
        self._ends = torch.empty(0, dtype=torch.int64)  # rows of the epoch up to each window's end
        self._window: tuple[int, int] = (-1, -1)  # epoch and window of what follows
        self._mixed = torch.empty(0, dtype=torch.int64)  # order of the rows in it
        self._read: tuple[Tensor | None, list[Tensor]] = (None, [])  # runs, and their rows

    @property
    @override
    def served_tokens(self) -> int:
        return self._served

    @override
    def batch(self) -> Batch:
        wanted = min(self._batch, self.total_tokens - self._served)
        parts: list[list[Tensor]] = []
        while wanted:
            epoch, at = divmod(self._served, self._rows)
            first, order = self._at(epoch, at)
            own = order[at - first : at - first + min(wanted, self._rows - at)]
            parts.append([side[own] for side in self._read[1]])
            self._served += len(own)
            wanted -= len(own)
        sides = [torch.cat(side).to(self._device) for side in zip(*parts, strict=True)]
        return sides[0], sides[-1]

    def _at(self, epoch: int, at: int) -> tuple[int, Int[Tensor, "m"]]:
        """Read the window of a row of an epoch; return where it begins and its order."""
        if epoch != self._epoch:
            chance = generator(self._seed, "runs", epoch)
            self._order = self._runs[torch.randperm(len(self._runs), generator=chance)]
            sizes = [self._split.count(runs) for runs in self._order.split(self._window_runs)]
            self._ends, self._epoch = torch.tensor(sizes).cumsum(0), epoch
        window = int(torch.searchsorted(self._ends, at, right=True))
        first = int(self._ends[window - 1]) if window else 0
        if self._window != (epoch, window):
            runs = self._order[window * self._window_runs :][: self._window_runs].sort().values
            before = self._read[0]
            if before is None or not torch.equal(before, runs):
                self._read = (None, [])  # before the next is read
                rows = self._split.rows(runs)
                self._read = (runs, [side.take(rows) for side in self._sides])
            chance = generator(self._seed, "window", epoch, window)
            self._mixed = torch.randperm(len(self._read[1][0]), generator=chance)
            self._window = (epoch, window)
        return first, self._mixed

    @override
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {"served_rows": self._served}

    @override
    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._served = values["served_rows"]
