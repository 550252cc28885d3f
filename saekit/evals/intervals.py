"""Intervals: how far a score would move with other text, by resampling blocks of it.

Tokens of one passage are alike, so tokens are not the independent units of a corpus. Rows
are cut into contiguous blocks, a metric's sums are kept by block, and whole blocks are drawn
with replacement: their sums are added and the metric computed anew.
"""

from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.result import Score
from saekit.core.seeds import generator
from saekit.metrics.base import Metric, Sums, added

RESAMPLES = 1000
MIN_BLOCKS = 16  # of 95 % intervals from 8 blocks only 88 % hold the truth, from 64 about 94 %
CHUNK_BYTES = 2**26  # of resampled sums, where they have an entry per latent


class BlockSums:
    """The sums of one metric, by block of text.

    Args:
        metric: what the sums are of.
        n_blocks: blocks the text is cut into.
    """

    def __init__(self, metric: Metric, n_blocks: int):
        self.metric = metric
        self._sums: list[Sums | None] = [None] * n_blocks

    def add(self, block: int, sums: Sums) -> None:
        """Add the sums of some tokens of a block, 0..n_blocks - 1."""
        before = self._sums[block]
        self._sums[block] = sums if before is None else added(before, sums)

    @property
    def n_used(self) -> int:
        """Blocks that anything was added to."""
        return sum(s is not None for s in self._sums)

    def stacked(self) -> dict[str, Float[Tensor, "blocks *shape"]]:
        """Return the sums of all blocks that were used, one after another."""
        used = [s for s in self._sums if s is not None]
        return {key: torch.stack([s[key] for s in used]) for key in (used[0] if used else ())}

    def total(self) -> Sums:
        """Return the sums of all blocks together; empty where nothing was added."""
        return {key: values.sum(0) for key, values in self.stacked().items()}

    def score(self, seed: int, n_resamples: int = RESAMPLES) -> Score:
        """Return the value over all blocks with its 95 % interval.

        The same seed draws the same blocks for every metric over as many blocks. Where the
        value or any resample of it is undefined there is no interval, and the reason is given.

        Args:
            seed: decides which blocks are drawn.
            n_resamples: draws behind the interval.

        Returns:
            A score whose `n` is the number of blocks, or of latents for such an interval.
        """
        metric, n = self.metric, self.n_used
        value = metric.compute(self.total()) if n else None
        low = high = None
        if value is None:
            reason = metric.undefined if n else "no token was measured"
        elif not metric.resampled:
            reason = "interval over latents: drawing text anew can only leave some out"
            if (found := metric.interval(self.total())) is not None:
                low, high, n = found
        elif n < MIN_BLOCKS:
            reason = f"no interval: {n} blocks of text, {MIN_BLOCKS} needed"
        else:
            values = resampled(metric, self.stacked(), seed, n_resamples)
            lost = n_resamples - len(values)
            reason = f"no interval: undefined in {lost} of {n_resamples} resamples" if lost else ""
            if not lost:
                low, high = percentiles(values)
        return Score(
            value=value,
            low=low,
            high=high,
            n=n,
            unit=metric.unit,
            better=cast(Literal["lower", "higher", "neither"], metric.better),
            reason=reason,
        )


def blocks_of_rows(n_rows: int, n_blocks: int) -> list[int]:
    """Return the block of each row: contiguous, of sizes that differ by at most one row."""
    n_blocks = min(n_blocks, n_rows)
    return [row * n_blocks // n_rows for row in range(n_rows)]


def resampled(
    metric: Metric,
    stacked: dict[str, Float[Tensor, "blocks *shape"]],
    seed: int,
    n_resamples: int = RESAMPLES,
) -> Float[Tensor, "defined"]:
    """Return the metric over blocks drawn with replacement, where it is defined.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 8 (blocks).
        Differs: nothing known.
    """
    n_blocks = len(next(iter(stacked.values())))
    drawn = torch.randint(
        n_blocks, (n_resamples, n_blocks), generator=generator(seed, "blocks", n_blocks)
    )
    times = torch.zeros(n_resamples, n_blocks, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(times))
    widest = max(v[0].numel() for v in stacked.values())
    size = max(1, CHUNK_BYTES // (8 * widest))
    values = []
    for part in times.split(size):
        sums = {key: torch.tensordot(part, v, dims=1) for key, v in stacked.items()}
        values += [metric.compute({k: v[i] for k, v in sums.items()}) for i in range(len(part))]
    return torch.tensor([v for v in values if v is not None], dtype=torch.float64)


def percentiles(values: Float[Tensor, "n"], share: float = 0.95) -> tuple[float, float]:
    """Return the ends of the central `share` of values."""
    ends = torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=torch.float64)
    low, high = torch.quantile(values.double(), ends).tolist()
    return low, high
