"""Hierarchy: features that fire only where their parent does."""

import abc
from dataclasses import dataclass
from typing import Literal

import torch
from typing_extensions import override

import saekit.studies.truth.model as package
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError
from saekit.core.registry import Registry
from saekit.studies.truth.model.checks import at_least
from saekit.studies.truth.model.forest import Forest, planted

Compensation = Literal["none", "exact", "published"]


class Hierarchy(Config, abc.ABC):
    """Trees of features, as a value.

    `compensate` says what the rates of `firing` are of a child. ``none``: the chance that it
    would fire, of which the share under an active parent is left. ``exact``: its rate over all
    tokens, which it then has. ``published``: that rate, aimed at with the approximation of
    SAELens, which misses it (see `Truth.rates`). `impossible` says what becomes of rates above
    what a parent allows, under ``exact``: an error, or the highest rate there can be (and a
    note).
    """

    compensate: Compensation
    impossible: Literal["error", "clamp"]

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the class called `name`."""
        return registry.get(name)

    @abc.abstractmethod
    def forest(self, n_features: int, generator: torch.Generator) -> Forest:
        """Return the trees.

        Raises:
            ConfigError: they do not fit the features.
        """


registry = Registry[Hierarchy]("hierarchy", package)


@registry.register
@dataclass(frozen=True, kw_only=True)
class Grown(Hierarchy):
    """Trees of equal shape: features in order become roots, then their children, by breadth.

    With rates falling from the first feature, roots are then the most frequent. Features that
    are left over have no parent; where they run out, trees end early.

    Args:
        roots: trees.
        branching: children of a node.
        most_branching: where given, a number from `branching` to this is drawn for each node.
        depth: levels below the roots.
        exclusive_share: of the nodes with two children or more, drawn by chance: at most one of
            their children fires on a token.
        exclusive_min_depth: nodes above it are never exclusive; roots are at 0.
        exclusive_max_depth: nodes below it are never exclusive; null for no limit.
        scaled: children are multiplied by the activation of their parent over its mean (of
            `relu_normal`: the mean before rectifying, as SAELens has it).
        compensate: what rates of children mean, see `Hierarchy`.
        impossible: what becomes of rates above what a parent allows, see `Hierarchy`.

    Raises:
        ConfigError: a number is out of range.

    Source:
        SAELens 6.29 synthetic data, `generate_hierarchy`; arXiv:2602.14687.
    """

    name = "grown"
    roots: int = setting(100, least=1)
    branching: int = setting(100, least=1)
    most_branching: int | None = setting(None, least=1)
    depth: int = setting(2, least=0)
    exclusive_share: float = setting(0.0, least=0, most=1)
    exclusive_min_depth: int = setting(0, least=0)
    exclusive_max_depth: int | None = setting(None, least=0)
    scaled: bool = False
    compensate: Compensation = "none"
    impossible: Literal["error", "clamp"] = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most_branching is not None:
            at_least("most_branching", self.most_branching, self.branching)

    @override
    def forest(self, n_features: int, generator: torch.Generator) -> Forest:
        if self.roots > n_features:
            raise ConfigError(
                f"`roots` must be at most `n_features`={n_features}; got {self.roots}."
            )
        edges: list[tuple[int, int]] = []
        level, after, eligible, parents = list(range(self.roots)), self.roots, [], []
        last = self.depth if self.exclusive_max_depth is None else self.exclusive_max_depth
        for depth in range(self.depth):
            below: list[int] = []
            for node, wanted in zip(level, self._counts(len(level), generator), strict=True):
                some = range(after, min(after + wanted, n_features))
                after += len(some)
                below += some
                edges += [(node, child) for child in some]
                parents += [node] if some else []
                if len(some) > 1 and self.exclusive_min_depth <= depth <= last:
                    eligible.append(node)
            level = below
        order = torch.randperm(len(eligible), generator=generator)
        chosen = order[: int(len(eligible) * self.exclusive_share)]
        exclusive = [eligible[i] for i in chosen.tolist()]
        return planted(n_features, edges, exclusive, parents if self.scaled else ())

    def _counts(self, n: int, generator: torch.Generator) -> list[int]:
        high = self.branching if self.most_branching is None else self.most_branching
        return torch.randint(self.branching, high + 1, (n,), generator=generator).tolist()


@registry.register
@dataclass(frozen=True, kw_only=True)
class GivenHierarchy(Hierarchy):
    """Trees given edge by edge.

    Args:
        edges: pairs (parent, child) of features.
        exclusive: features of whose children at most one fires on a token.
        scaled: features whose children are multiplied by their activation over its mean (of
            `relu_normal`: the mean before rectifying, as SAELens has it).
        groups: sets of features without a parent of which at most one fires on a token.
        compensate: what rates of children mean, see `Hierarchy`.
        impossible: what becomes of rates above what a parent allows, see `Hierarchy`.

    Raises:
        ConfigError: a feature is missing, has two parents, or is above itself.

    Source:
        SAELens 6.28 synthetic data, `HierarchyNode`.
    """

    name = "given"
    edges: tuple[tuple[int, ...], ...] = setting((), least=0)
    exclusive: tuple[int, ...] = setting((), least=0)
    scaled: tuple[int, ...] = setting((), least=0)
    groups: tuple[tuple[int, ...], ...] = setting((), least=0)
    compensate: Compensation = "none"
    impossible: Literal["error", "clamp"] = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        for i, edge in enumerate(self.edges):
            if len(edge) != 2:
                raise ConfigError(f"`edges[{i}]` must be (parent, child); got {edge}.")

    @override
    def forest(self, n_features: int, generator: torch.Generator) -> Forest:
        nodes = [n_features + i for i in range(len(self.groups))]
        for name, listed in (("exclusive", self.exclusive), ("scaled", self.scaled)):
            for i, node in enumerate(listed):
                if node >= n_features:
                    raise ConfigError(
                        f"`{name}[{i}]` must be a feature, 0..{n_features - 1}; got {node}."
                    )
        edges = [(a, b) for a, b in self.edges]
        for i, (a, b) in enumerate(edges):
            if max(a, b) >= n_features:
                raise ConfigError(
                    f"`edges[{i}]`: {'parent' if a >= n_features else 'child'} {max(a, b)} is "
                    f"missing; features are 0..{n_features - 1}."
                )
        edges += [(node, f) for node, some in zip(nodes, self.groups, strict=True) for f in some]
        return planted(n_features, edges, [*self.exclusive, *nodes], self.scaled, len(self.groups))
