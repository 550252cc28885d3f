"""Sampling: which features are on at each token, and how strongly, from roots to leaves."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.codes import Codes
from saekit.studies.truth.model.forest import Forest
from saekit.studies.truth.model.independent import Entries, bernoulli
from saekit.studies.truth.model.magnitudes import Magnitudes


@runtime_checkable
class Hand(Protocol):
    """What would fire on some tokens, were it not for parents and siblings."""

    def free(self) -> Entries:
        """Return where features without a parent fire."""
        ...

    def at(self, rows: Int[Tensor, "m"], features: Int[Tensor, "m"]) -> Bool[Tensor, "m"]:
        """Return whether features would fire at rows; each pair is asked for once."""
        ...


@runtime_checkable
class Coins(Protocol):
    """A law of firing."""

    def draw(self, n_rows: int, generator: torch.Generator) -> Hand:
        """Return what would fire on n tokens."""
        ...


class Independent:
    """Features that fire independently.

    Args:
        coins: chance of each feature, ``[n_features]`` float64.
        free: features without a parent, ``[m]``.
    """

    def __init__(self, coins: Float[Tensor, "n_features"], free: Int[Tensor, "m"]):
        self.coins, self.columns = coins, free
        self._rates = coins[free]

    def draw(self, n_rows: int, generator: torch.Generator) -> "IndependentHand":
        """Return what would fire on n tokens."""
        return IndependentHand(self, n_rows, generator)


class IndependentHand:
    """What would fire on some tokens, independently."""

    def __init__(self, coins: Independent, n_rows: int, generator: torch.Generator):
        self._coins, self._n_rows, self._chance = coins, n_rows, generator

    def free(self) -> Entries:
        """Return where features without a parent fire."""
        rows, columns = bernoulli(self._coins._rates, self._n_rows, self._chance)
        return rows, self._coins.columns[columns]

    def at(self, rows: Int[Tensor, "m"], features: Int[Tensor, "m"]) -> Bool[Tensor, "m"]:
        """Return whether features would fire at rows."""
        u = torch.rand(len(rows), generator=self._chance, device=rows.device)
        return u < self._coins.coins[features]


class Active(NamedTuple):
    """Nodes that are on: row, node, activation in act units."""

    rows: Int[Tensor, "m"]
    nodes: Int[Tensor, "m"]
    values: Float[Tensor, "m"]

    def only(self, on: Tensor) -> "Active":
        """Return some of the entries."""
        return Active(self.rows[on], self.nodes[on], self.values[on])


class Sampler:
    """True activations of tokens.

    Args:
        coins: the law of firing.
        magnitudes: the law of magnitudes.
        tensors: `mean` and `std` of magnitudes, and `average`, which activations of parents are
            divided by where they scale their children.
        forest: which features fire only under another; None for none.
    """

    def __init__(
        self,
        coins: Coins,
        magnitudes: Magnitudes,
        tensors: dict[str, Tensor],
        forest: Forest | None,
    ):
        self.coins, self.magnitudes = coins, magnitudes
        self.mean, self.std, self.average = tensors["mean"], tensors["std"], tensors["average"]
        self.n_features = len(self.mean)
        self.forest = forest
        if forest is not None:
            self._starts, self._children = forest.children()
            self._sizes = self._starts.diff()
            roots = (forest.parent[self.n_features :] < 0) & (self._sizes[self.n_features :] > 0)
            self._groups = roots.nonzero()[:, 0] + self.n_features
            self._feature = forest.feature_above(self.n_features)

    def __call__(self, n: int, generator: torch.Generator) -> Codes:
        """Return the activations of n tokens, features of a row in order."""
        hand = self.coins.draw(n, generator)
        level = self._valued(*hand.free(), generator)
        if self.forest is None:
            found = level
        else:
            levels = [level]
            level = self._with_groups(level, n)
            while len(level.rows):
                level = self._below(level, hand, generator)
                levels.append(level)
            found = Active(*(torch.cat(part) for part in zip(*levels, strict=True)))
            found = found.only(found.nodes < self.n_features)
        keys, order = torch.sort(found.rows * self.n_features + found.nodes)
        rows = torch.div(keys, self.n_features, rounding_mode="floor")
        ends = torch.arange(n + 1, device=rows.device)
        starts = torch.searchsorted(rows, ends)
        values = found.values[order]
        return Codes(values, keys - rows * self.n_features, starts, (n,), self.n_features)

    def _valued(self, rows: Tensor, nodes: Tensor, generator: torch.Generator) -> Active:
        """Return entries with their magnitudes, without those that are 0."""
        values = self.magnitudes.draw(self.mean[nodes], self.std[nodes], generator)
        found = Active(rows, nodes, values)
        on = values > 0
        return found if bool(on.all()) else found.only(on)

    def _with_groups(self, level: Active, n: int) -> Active:
        """Return entries with the groups that are on everywhere."""
        if not len(self._groups):
            return level
        rows = torch.arange(n, device=level.rows.device).repeat_interleave(len(self._groups))
        nodes = self._groups.repeat(n)
        ones = torch.ones(len(rows), device=level.rows.device)
        both = zip(level, (rows, nodes, ones), strict=True)
        return Active(*(torch.cat(pair) for pair in both))

    def _below(self, level: Active, hand: Hand, generator: torch.Generator) -> Active:
        """Return the children that are on."""
        assert self.forest is not None
        sizes = self._sizes[level.nodes]
        level, sizes = level.only(sizes > 0), sizes[sizes > 0]
        family = torch.repeat_interleave(sizes)  # which entry of `level` is above
        first = self._starts[level.nodes] - sizes.cumsum(0) + sizes
        nodes = self._children[torch.arange(len(family), device=family.device) + first[family]]
        rows, is_group = level.rows[family], nodes >= self.n_features
        on = is_group.clone()
        on[~is_group] = hand.at(rows[~is_group], nodes[~is_group])
        rows, nodes, family, is_group = rows[on], nodes[on], family[on], is_group[on]
        values = level.values[family]  # of a group, that of the feature above it
        real = nodes[~is_group]
        values[~is_group] = self.magnitudes.draw(self.mean[real], self.std[real], generator)
        chosen = (values > 0).nonzero()[:, 0]
        competes = ~is_group[chosen]
        kept = torch.ones_like(competes)
        kept[competes] = self._chosen(level.nodes, family[chosen[competes]], generator)
        chosen = chosen[kept]
        found = Active(rows[chosen], nodes[chosen], values[chosen])
        above = level.nodes[family[chosen]]
        feature = self._feature[above]
        scaled = self.forest.scaled[above] & (feature >= 0) & ~is_group[chosen]
        if scaled.any():
            ratio = level.values[family[chosen]] / self.average[feature.clamp_min(0)]
            found.values.mul_(torch.where(scaled, ratio.float(), 1.0))
        return found

    def _chosen(
        self, parents: Int[Tensor, "p"], family: Int[Tensor, "m"], generator: torch.Generator
    ) -> Bool[Tensor, "m"]:
        """Return one of the entries of every exclusive family, and all of the others."""
        assert self.forest is not None
        exclusive = self.forest.exclusive[parents]
        if not exclusive.any():
            return torch.ones_like(family, dtype=torch.bool)
        counts = torch.bincount(family, minlength=len(parents))
        u = torch.rand(len(parents), generator=generator, device=family.device)
        pick = (u * counts).long().clamp_max_((counts - 1).clamp_min(0))
        winner = (counts.cumsum(0) - counts + pick)[family]
        place = torch.arange(len(family), device=family.device)
        return ~exclusive[family] | (place == winner)
