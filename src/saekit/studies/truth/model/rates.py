"""Rates: which chances of children give the rates that are wanted of them.

Given the common factors e of a token (none where firing is independent), a child's chance to be
on is a(e) = a_parent(e) q(e) X(e), with q(e) = Phi((F . e - threshold) / sqrt(d)) and X the
chance to win among exclusive siblings, 1 without: E[1 / (1 + number of others)] =
integral over z in 0..1 of the product over the others of (1 - q_i + q_i z). Thresholds are
solved level by level so that the mean of a over e is the rate wanted.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.special import ndtr, ndtri

from saekit.core.errors import ConfigError
from saekit.studies.truth.model.forest import Forest
from saekit.studies.truth.model.hierarchy import Compensation, Hierarchy
from saekit.studies.truth.model.loadings import Loadings

TOLERANCE, COARSE = 1e-6, 1e-4  # of ln(rate / wanted), where exact and where by scenarios
MOST_ROUNDS = 300
FULL = 0.98  # share of a parent that exclusive siblings may fill when clamped
WORK = 2**25  # scenarios x nodes of a level


class ForestRates(NamedTuple):
    """What a forest fires like.

    Args:
        coins: chance of each node given that its parent is on and no sibling excludes it,
            ``[nodes]`` float64.
        rates: share of tokens where each node is on, ``[nodes]`` float64; exact where firing is
            independent, else by quasi Monte Carlo over the common factors.
        notes: what could not be had, JSON-ready; empty if nothing.
    """

    coins: Float[Tensor, "nodes"]
    rates: Float[Tensor, "nodes"]
    notes: dict[str, Any]


class Families(NamedTuple):
    """The children of a level, a row a parent, padded with -1."""

    parents: Int[Tensor, "p"]
    children: Int[Tensor, "p most"]


def solve(
    hierarchy: Hierarchy,
    forest: Forest,
    wanted: Float[Tensor, "n_features"],
    positive: Float[Tensor, "n_features"],
    loadings: Loadings | None,
    mode: Compensation,
) -> ForestRates:
    """Return the chances of all nodes.

    Args:
        hierarchy: what rates of children mean.
        forest: its trees.
        wanted: share of tokens where each feature fires, float64.
        positive: share of its magnitudes that are above 0: the others are off.
        loadings: correlations of firing; None where it is independent.
        mode: how rates of children are compensated.

    Raises:
        ConfigError: a rate is above what a parent allows and `impossible` is ``error``.
    """
    n_nodes, n = len(forest.parent), len(wanted)
    groups = n_nodes - n
    one = torch.ones(groups, dtype=torch.float64)
    state = _State(
        hierarchy,
        forest,
        torch.cat([wanted, one]),
        torch.cat([positive, one]),
        n,
        _Scenarios(loadings, n_nodes),
        mode,
    )
    return state.run()


class _Scenarios:
    """Common factors at points that fill their space evenly, and chances given them."""

    def __init__(self, loadings: Loadings | None, n_nodes: int):
        if loadings is not None and not loadings.factor.shape[-1]:
            loadings = None  # no common factors: independent
        self.loadings = loadings
        self.n = 1
        if loadings is not None:
            blocks, _, rank = loadings.factor.shape
            self.n = 2 ** int(min(max(math.log2(WORK / n_nodes), 12), 15))
            engine = (
                torch.quasirandom.SobolEngine(blocks * rank, scramble=True, seed=0)
                if blocks * rank <= 21201
                else None
            )
            if engine is None:
                chance = torch.Generator().manual_seed(0)
                self.common = torch.randn(self.n, blocks, rank, generator=chance)
            else:
                points = engine.draw(self.n, dtype=torch.float64)
                self.common = ndtri(points.clamp(1e-9, 1 - 1e-9)).float()
                self.common = self.common.view(self.n, blocks, rank)

    def mean_and_spread(self, nodes: Tensor, n_features: int) -> tuple[Tensor, Tensor]:
        """Return F . e ``[n, m]`` and sqrt(d) ``[m]``, float64, of features and groups."""
        common = torch.zeros(self.n, len(nodes), dtype=torch.float64)
        spread = torch.ones(len(nodes), dtype=torch.float64)
        if self.loadings is not None:
            real = nodes < n_features
            size = self.loadings.factor.shape[1]
            block = torch.div(nodes[real], size, rounding_mode="floor")
            rows = self.loadings.factor[block, nodes[real] - block * size]  # [m, rank]
            for i in block.unique().tolist():
                at = real.nonzero()[:, 0][block == i]
                common[:, at] = (self.common[:, i] @ rows[block == i].T).double()
            spread[real] = self.loadings.diag[nodes[real]].double().sqrt()
        return common, spread


class _State:
    """The walk down the levels."""

    def __init__(
        self,
        hierarchy: Hierarchy,
        forest: Forest,
        wanted: Tensor,
        positive: Tensor,
        n_features: int,
        scenarios: _Scenarios,
        mode: Compensation,
    ):
        self.mode, self.hierarchy, self.forest = mode, hierarchy, forest
        self.wanted, self.positive, self.n_features = wanted, positive, n_features
        self.scenarios = scenarios
        self.coins = wanted.clone()
        self.rates = wanted * positive
        self.clamped: list[int] = []

    def run(self) -> ForestRates:
        starts, listed = self.forest.children()
        sizes = starts.diff()
        on: dict[int, Tensor] = {}  # [scenarios], of the nodes of the level above
        for level in self.forest.levels():
            parents = level[sizes[level] > 0]
            if not len(on):  # without a parent: their own rates
                self._roots(parents, on)
            below: dict[int, Tensor] = {}
            for size in sizes[parents].unique().tolist():
                some = parents[sizes[parents] == size]
                step = max(WORK // 8 // (self.scenarios.n * size), 1)
                for part in some.split(step):
                    places = starts[part][:, None] + torch.arange(size)
                    self._family(Families(part, listed[places]), on, below, sizes)
            on = below
            if not len(on):
                break
        return ForestRates(self.coins, self.rates, self._notes())

    def _roots(self, nodes: Tensor, on: dict[int, Tensor]) -> None:
        for part in nodes.split(256):
            common, spread = self.scenarios.mean_and_spread(part, self.n_features)
            chance = ndtr((common + ndtri(self.wanted[part])) / spread) * self.positive[part]
            chance *= self.rates[part] / chance.mean(0)  # the mean is known exactly
            on.update(zip(part.tolist(), chance.T, strict=True))

    def _family(
        self, family: Families, on: dict[int, Tensor], below: dict[int, Tensor], sizes: Tensor
    ) -> None:
        parents, children = family
        above = torch.stack([on[p] for p in parents.tolist()], 1)[:, :, None]  # [s, p, 1]
        common, spread = self.scenarios.mean_and_spread(children.flatten(), self.n_features)
        common, spread = common.view(-1, *children.shape), spread.view(children.shape)
        positive, exclusive = self.positive[children], self.forest.exclusive[parents]
        real = children < self.n_features  # groups are on where their parent is, beside the others
        if self.mode == "exact":
            wanted = self._possible(parents, children, positive, exclusive)
            solved = wanted is not None
            goal = (wanted * positive).log() if wanted is not None else None
        else:
            solved, goal = False, None
            if self.mode == "published":
                self._published(parents, children, exclusive)
        limit = self.coins[children]
        if solved:
            limit = (wanted / self.rates[parents][:, None]).clamp(max=1 - 1e-12)
        # a group is on wherever its parent is
        bars = -ndtri(torch.where(children < self.n_features, limit, 1.0)).clamp(-9, 40)
        for _ in range(MOST_ROUNDS if solved else 1):
            score = (common - bars) / spread
            chance = ndtr(score) * positive
            each = above * chance * torch.where(real, _wins(chance * real, exclusive), 1.0)
            rate = each.mean(0)
            if not solved:
                break
            error = rate.clamp_min(1e-300).log() - goal
            error[children >= self.n_features] = 0
            if float(error.abs().max()) < (TOLERANCE if self.scenarios.n == 1 else COARSE):
                break
            mills = torch.exp(-score.square() / 2) / math.sqrt(2 * math.pi)
            slope = (each * mills * positive / chance.clamp_min(1e-300)).mean(0) / spread
            move = error * rate / slope.clamp_min(1e-300)
            bars = (bars + move.clamp(-1, 1)).clamp(-9, 40)
        self.coins[children] = ndtr(-bars)
        self.rates[children] = rate
        for place in (sizes[children] > 0).nonzero().tolist():
            below[int(children[place[0], place[1]])] = each[:, place[0], place[1]].clone()

    def _possible(
        self, parents: Tensor, children: Tensor, positive: Tensor, exclusive: Tensor
    ) -> Tensor:
        """Return the rates wanted of children, or the highest there can be."""
        wanted, rate = self.wanted[children], self.rates[parents][:, None]
        real = children < self.n_features
        share = (wanted * positive * real).sum(1, keepdim=True) / rate
        too_much = torch.where(exclusive[:, None], share > 0.999, wanted > rate * (1 + 1e-9))
        too_much &= real
        if too_much.any():
            if self.hierarchy.impossible == "error":
                self._refuse(children, parents, too_much)
            self.clamped += children[too_much].tolist()
            less = torch.where(exclusive[:, None], wanted * FULL / share, rate)
            wanted = torch.where(too_much, less, wanted)
        return torch.where(real, wanted, rate)

    def _refuse(self, children: Tensor, parents: Tensor, wrong: Tensor) -> None:
        p, c = wrong.nonzero()[0].tolist()
        node, parent = int(children[p, c]), int(parents[p])
        whole = float(self.wanted[children[p]].sum())
        siblings = (
            f" together with its exclusive siblings at {whole:.6g}"
            if self.forest.exclusive[parent]
            else ""
        )
        raise ConfigError(
            f"Feature {node} cannot fire on {float(self.wanted[node]):.6g} of tokens{siblings}: "
            f"its parent, {parent}, is on for {float(self.rates[parent]):.6g}. Lower the rates "
            f"below it, or set `impossible` to `clamp`."
        )

    def _published(self, parents: Tensor, children: Tensor, exclusive: Tensor) -> None:
        wanted, rate = self.wanted[children], self.wanted[parents][:, None]
        rivals = wanted * (children < self.n_features)
        others = (rivals.sum(1, keepdim=True) - rivals) / rate
        coins = wanted / rate * torch.where(exclusive[:, None], 1 + others, 1.0)
        self.coins[children] = coins.clamp(max=1.0)

    def _notes(self) -> dict[str, Any]:
        real = slice(0, self.n_features)
        meant = self.wanted[real] * self.positive[real]
        off = (self.rates[real] / meant).log().abs()
        notes: dict[str, Any] = {}
        if self.mode == "none":
            return notes
        if self.clamped:
            notes["clamped"] = sorted(self.clamped)
        missed = (off > 0.01).nonzero()[:, 0]
        if len(missed):
            worst = int(off.argmax())
            notes |= {
                "missed": len(missed),
                "worst": worst,
                "worst_wanted": float(meant[worst]),
                "worst_rate": float(self.rates[worst]),
            }
        return notes


def _wins(chance: Float[Tensor, "s p most"], exclusive: Tensor) -> Float[Tensor, "s p most"]:
    """Return the chance to be chosen among the siblings that would be on, 1 where all may."""
    if not exclusive.any():
        return torch.ones_like(chance)
    nodes, weights = np.polynomial.legendre.leggauss(min(chance.shape[-1] // 2 + 1, 48))
    out = torch.zeros_like(chance)
    for z, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        each = 1 - chance * (1 - z)
        out += w * each.prod(-1, keepdim=True) / each
    return torch.where(exclusive[:, None], out, 1.0)
