"""Intervals: how far a score would move with other text, by leaving out documents of it.

Tokens of one document are alike, so documents are the independent units of a corpus. A metric's
sums are kept by block of text, a block being one document or several neighbouring ones, never a
part of one: rows hold several documents and documents go on over several rows, so the block is
known token by token. Each block is left out in turn and the metric computed anew.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.result import Score
from saekit.core.stats.blocks import effective_count, larger, whole_blocks
from saekit.core.stats.jackknife import Scale, jackknife
from saekit.metrics.base import Metric, Sums, added

LEAST_BLOCKS = 20  # even ones; of fewer, intervals hold the truth too rarely (docs/intervals.md)
LEAST_UNEVEN = 40  # of uneven length: of fewer, only those would do that lack a long one by chance
EVEN = 0.9  # the share that blocks must count for to be even
OVER_LATENTS = "interval over latents: drawing text anew can only leave some out"


class Blocks(NamedTuple):
    """Which block of whole documents each token belongs to.

    Args:
        of: block of every token of the rows, from 0.
        sizes: tokens of each block.
    """

    of: Int[Tensor, "n_rows n_ctx"]
    sizes: Float[Tensor, "n_blocks"]


def blocks_of_documents(doc_ids: Int[Tensor, "n_rows n_ctx"], n_blocks: int) -> Blocks:
    """Return blocks of whole documents, neighbours together where there are many.

    Args:
        doc_ids: the document of every token, in the order of the text.
        n_blocks: at most so many blocks, at least 1.
    """
    if not doc_ids.numel():
        return Blocks(doc_ids, torch.zeros(0, dtype=torch.float64))
    _, document, tokens = doc_ids.unique(return_inverse=True, return_counts=True)
    block = whole_blocks(tokens.double(), n_blocks)
    sizes = torch.zeros(int(block.max()) + 1, dtype=torch.float64)
    return Blocks(block[document], sizes.index_add_(0, block, tokens.double()))


class BlockSums:
    """The sums of one metric, by block of text; in a single block where text is never left out.

    Args:
        metric: what the sums are of.
        sizes: tokens of each block.
    """

    def __init__(self, metric: Metric, sizes: Float[Tensor, "n_blocks"]):
        self.metric, self._sizes = metric, sizes.double()
        self._sums: list[Sums | None] = [None] * len(sizes)

    def add(self, block: int, sums: Sums) -> None:
        """Add the sums of some tokens of a block, 0..n_blocks - 1."""
        # An interval over latents needs the total alone, and sums with an entry a latent are
        # the largest there are.
        place = block if self.metric.resampled else 0
        before = self._sums[place]
        self._sums[place] = sums if before is None else added(before, sums)

    @property
    def n_used(self) -> int:
        """Blocks that anything was added to."""
        return sum(s is not None for s in self._sums)

    @property
    def sizes(self) -> Float[Tensor, "used"]:
        """Tokens of the blocks that anything was added to."""
        return self._sizes[torch.tensor([s is not None for s in self._sums], dtype=torch.bool)]

    def stacked(self) -> dict[str, Float[Tensor, "blocks *shape"]]:
        """Return the sums of all blocks that were used, one after another."""
        used = [s for s in self._sums if s is not None]
        return {key: torch.stack([s[key] for s in used]) for key in (used[0] if used else ())}

    def total(self) -> Sums:
        """Return the sums of all blocks together; empty where nothing was added."""
        return {key: values.sum(0) for key, values in self.stacked().items()}

    def score(self) -> Score:
        """Return the value over all blocks with its 95 % interval; see `score_of`."""
        return score_of([self])


def score_of(each: Sequence[BlockSums]) -> Score:
    """Return the mean value of some sums of one metric over the same text, with its interval.

    Usually there is one; several are the layers of a model, and a block is left out of all of them
    at once. There is no interval where the value is undefined, or would be without some block, or
    where the text has too few documents. The reason says so, and about how much text is needed.

    Returns:
        A score whose `n` is the number of blocks, or of latents for an interval over these.
    """
    metric, n = each[0].metric, min(one.n_used for one in each)
    totals = [one.total() if one.n_used else {} for one in each]
    values = [
        one.metric.compute(total) if total else None
        for one, total in zip(each, totals, strict=True)
    ]
    known = [v for v in values if v is not None]
    low = high = value = None
    reason = ""
    if not n:
        reason = "no token was measured"
    elif len(known) < len(values):
        reason = metric.undefined
        reason = reason if len(values) == 1 else f"undefined at {len(values) - len(known)} of them"
    elif not metric.resampled:
        value, reason = sum(known) / len(known), OVER_LATENTS
        if len(each) > 1:
            reason = "no interval: text is not left out, and these are the same latents"
        elif (found := metric.interval(totals[0])) is not None:
            low, high, n = found
    else:
        value = sum(known) / len(known)
        low, high, reason = _ends(each, value)
    return Score(
        value=value,
        low=low,
        high=high,
        n=n,
        unit=metric.unit,
        better=cast(Literal["lower", "higher", "neither"], metric.better),
        reason=reason,
        label=metric.label,
    )


def _ends(each: Sequence[BlockSums], value: float) -> tuple[float | None, float | None, str]:
    """Return the ends of the interval of a mean of values, or why there are none."""
    sizes = each[0].sizes
    if (reason := too_few(sizes)) is not None:
        return None, None, reason
    if any(len(one.sizes) != len(sizes) for one in each):
        return None, None, "no interval: some blocks of text have no token that counts there"
    found = [without_each(one.metric, one.stacked()) for one in each]
    lost = max(int(values.isnan().sum()) for values in found)
    if lost:
        return None, None, f"no interval: undefined without {lost} of {len(sizes)} blocks of text"
    scale = cast(Scale, each[0].metric.scale)
    low, high = jackknife(value, torch.stack(found).mean(0), sizes, scale, skewed=True)
    return low, high, ""


def too_few(sizes: Float[Tensor, "blocks"]) -> str | None:
    """Return why the documents are too few for an interval, and how much text is needed.

    Blocks of uneven size count for less than even ones, so there must be more of them.
    """
    n, even = len(sizes), effective_count(sizes)
    least = LEAST_BLOCKS if even >= EVEN * n else LEAST_UNEVEN
    if even >= LEAST_BLOCKS and n >= least:
        return None
    what = f"{n} documents or blocks of them"
    if even < n - 0.5:
        what += f" of uneven length, which count as {even:.0f}"
    least_of = f"{LEAST_BLOCKS} are needed"
    if even >= LEAST_BLOCKS:
        least_of = f"of uneven length {LEAST_UNEVEN} are needed"
    times = max(LEAST_BLOCKS / even, least / n) if even else 0
    return f"no interval: {what}; {least_of}, about {larger(sizes, times):,} tokens of this text"


def without_each(
    metric: Metric, stacked: dict[str, Float[Tensor, "blocks *shape"]]
) -> Float[Tensor, "blocks"]:
    """Return the metric without each block in turn; NaN where it is then undefined."""
    total = {key: values.sum(0) for key, values in stacked.items()}
    n_blocks = len(next(iter(stacked.values())))
    values = [
        metric.compute({key: total[key] - stacked[key][b] for key in total})
        for b in range(n_blocks)
    ]
    return torch.tensor([torch.nan if v is None else v for v in values], dtype=torch.float64)
