"""Where in the corpus each latent is on: at its strongest, or over its whole range."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.activations.latents import LatentMajor, LatentStore
from saekit.analysis.base import Analysis, registry
from saekit.core.config import setting
from saekit.core.result import Table


class Peaks(NamedTuple):
    """Chosen events, sorted by latent, then from the strongest to the weakest."""

    latent: Int[Tensor, "m"]
    row: Int[Tensor, "m"]
    pos: Int[Tensor, "m"]
    value: Float[Tensor, "m"]
    before: int  # tokens a reader is shown before the peak
    after: int  # and after it


class _Best(NamedTuple):
    """The best entries of every group so far, sorted by group, then from the best."""

    group: Int[Tensor, "m"]
    score: Float[Tensor, "m"]  # lower is better
    latent: Int[Tensor, "m"]
    row: Int[Tensor, "m"]
    pos: Int[Tensor, "m"]
    value: Float[Tensor, "m"]


@registry.register
@dataclass(frozen=True, kw_only=True)
class MaxActs(Analysis):
    """The contexts in which each latent is most active, or a spread over its activations.

    Strength is size: a negative activation is as strong as a positive one of its size, and keeps
    its sign where it is shown. Of each row of tokens only the strongest activation of a latent
    counts (the first of equals), so that no text is shown twice. ``top`` keeps the `n` strongest
    of these peaks; among equals the earlier row wins. ``intervals`` cuts sizes, (0, max], into
    `n` intervals of equal width and keeps one peak of each, drawn by a fixed hash of its row: it
    shows what weak activations look like, which the strongest ones hide.

    Neither depends on how the store was cut into shards. Memory: one shard, and `n` events
    per latent.

    Args:
        n: most events for each latent.
        before: tokens of context to show before the peak.
        after: tokens of context to show after it.
        examples: which peaks to keep.

    Raises:
        ConfigError: a number is out of range.

    Source:
        Bricken et al. 2023, "Towards Monosemanticity", feature visualisation (top examples
        and subsampled intervals).
        Differs: one peak per row of tokens; one example per interval.
    """

    name: ClassVar[str] = "max_acts"
    n: int = setting(20, least=1)
    before: int = setting(15, least=0)
    after: int = setting(8, least=0)
    examples: Literal["top", "intervals"] = "top"

    def peaks(self, store: LatentStore) -> Peaks:
        """Return the chosen events of every latent."""
        per_group = self.n if self.examples == "top" else 1
        n_groups = store.d_sae * (self.n // per_group)
        best = _nothing()
        limit = torch.full((n_groups,), torch.inf, dtype=torch.float64)
        for shard in store.shards():
            new = self._candidates(shard.by_latent(), store.maxima, limit)
            best = _kept(_joined(best, new), per_group)
            last = _rank_in(best.group) == per_group - 1  # of the groups that are full
            limit[best.group[last]] = best.score[last]
        order = _by_latent_then_value(best)
        return Peaks(
            best.latent[order],
            best.row[order],
            best.pos[order],
            best.value[order],
            self.before,
            self.after,
        )

    @override
    def run(self, latents: LatentStore) -> Table:
        found = self.peaks(latents)
        return Table(
            columns={
                "latent": found.latent.tolist(),
                "rank": _rank_in(found.latent).tolist(),
                "row": found.row.tolist(),
                "pos": found.pos.tolist(),
                "value": found.value.tolist(),
            },
            units={"value": "act units"},
        )

    def _candidates(
        self, entries: LatentMajor, maxima: Float[Tensor, "d_sae"], limit: Float[Tensor, "groups"]
    ) -> _Best:
        """Return one peak per latent and row, without those that cannot enter any more.

        `limit` is the score of the last kept entry of each full group. An equal score loses
        to it, for it stands in an earlier row.
        """
        latent, value = entries.latents(), entries.values
        if self.examples == "top":
            hopeful = -value.abs() < limit[latent]
            latent, value = latent[hopeful], value[hopeful]
            row, pos = entries.row[hopeful], entries.pos[hopeful]
        else:
            row, pos = entries.row, entries.pos
        peak = _strongest_of_each(latent, row, value)
        latent, row, pos, value = latent[peak], row[peak], pos[peak], value[peak]
        if self.examples == "top":
            return _Best(latent, -value.abs().double(), latent, row, pos, value)
        share = value.abs().double() / maxima[latent].abs().double()
        interval = (share * self.n).ceil().long().clamp(1, self.n) - 1
        return _Best(latent * self.n + interval, _shuffled(row), latent, row, pos, value)


def _nothing() -> _Best:
    none = torch.empty(0, dtype=torch.int64)
    return _Best(none, none.double(), none, none, none, none.float())


def _joined(one: _Best, other: _Best) -> _Best:
    return _Best(*(torch.cat(pair) for pair in zip(one, other, strict=True)))


def _kept(found: _Best, per_group: int) -> _Best:
    """Sort by group and score, keeping the order of equals, and cut each group."""
    order = torch.sort(found.score, stable=True).indices
    order = order[torch.sort(found.group[order], stable=True).indices]
    order = order[_rank_in(found.group[order]) < per_group]
    return _Best(*(column[order] for column in found))


def _by_latent_then_value(found: _Best) -> Int[Tensor, "m"]:
    order = torch.sort(found.row, stable=True).indices
    order = order[torch.sort(-found.value[order].abs(), stable=True).indices]
    return order[torch.sort(found.latent[order], stable=True).indices]


def _starts_new(*keys: Int[Tensor, "m"]) -> Bool[Tensor, "m"]:
    """Return which entries differ from the one before, of sorted keys."""
    new = torch.zeros(len(keys[0]), dtype=torch.bool)
    new[:1] = True
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    return new


def _rank_in(group: Int[Tensor, "m"]) -> Int[Tensor, "m"]:
    """Return the place of each entry in its group, from 0; `group` is sorted."""
    first = _starts_new(group)
    return torch.arange(len(group)) - first.nonzero()[:, 0][first.cumsum(0) - 1]


def _strongest_of_each(
    latent: Int[Tensor, "m"], row: Int[Tensor, "m"], value: Float[Tensor, "m"]
) -> Int[Tensor, "peaks"]:
    """Return the index of the value of largest size of each latent and row, the first of equals."""
    segment = _starts_new(latent, row).cumsum(0) - 1
    n_segments = int(segment[-1]) + 1 if len(segment) else 0
    size = value.abs()
    most = torch.zeros(n_segments).scatter_reduce(0, segment, size, "amax")
    reached = (size == most[segment]).nonzero()[:, 0]
    return reached[_starts_new(segment[reached])]


def _shuffled(row: Int[Tensor, "m"]) -> Float[Tensor, "m"]:
    """Return a fixed pseudo-random number in [0, 1) for each row index.

    Source:
        Steele et al. 2014, "Fast splittable pseudorandom number generators" (the mixing
        of SplitMix64), cut to 62 bits since torch has no unsigned arithmetic.
    """
    mask = (1 << 62) - 1
    mixed = (row + 1) * 0x1E3779B97F4A7C15 & mask
    mixed = (mixed ^ (mixed >> 30)) * 0x3F58476D1CE4E5B9 & mask
    mixed = (mixed ^ (mixed >> 27)) * 0x14D049BB133111EB & mask
    return (mixed ^ (mixed >> 31)).double() / 2.0**62
