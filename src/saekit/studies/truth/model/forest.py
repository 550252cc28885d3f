"""Forest: which features fire only under another, as arrays, with every refusal."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.errors import ConfigError


class Forest(NamedTuple):
    """Parents and children of nodes. Nodes 0..n_features - 1 are features.

    Later nodes are groups: they have no activation of their own and are on wherever their
    parent is, or everywhere. For the children of a group the activation of the nearest feature
    above it stands in for its own.

    Args:
        parent: ``[nodes]`` int64; -1 for none.
        exclusive: ``[nodes]``; at most one feature among the children of such a node fires on a
            token, evenly by chance among those that would. Groups take no part.
        scaled: ``[nodes]``; features among the children of such a node are multiplied by its
            activation over what is usual of it. A group without a feature above scales nothing.
    """

    parent: Int[Tensor, "nodes"]
    exclusive: Bool[Tensor, "nodes"]
    scaled: Bool[Tensor, "nodes"]

    def children(self) -> tuple[Int[Tensor, "nodes_and_one"], Int[Tensor, "edges"]]:
        """Return where the children of each node start, and the children."""
        below = (self.parent >= 0).nonzero()[:, 0]
        order = torch.argsort(self.parent[below], stable=True)
        counts = torch.bincount(self.parent[below], minlength=len(self.parent))
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), below[order]

    def feature_above(self, n_features: int) -> Int[Tensor, "nodes"]:
        """Return each feature itself, and of each group the nearest feature above it, or -1."""
        found = torch.arange(len(self.parent), device=self.parent.device)
        while (groups := found >= n_features).any():
            found[groups] = self.parent[found[groups]]  # -1 is no group any more
        return found

    def levels(self) -> list[Int[Tensor, "_m"]]:
        """Return nodes by depth, those without a parent first."""
        starts, children = self.children()
        level = (self.parent < 0).nonzero()[:, 0]
        found = []
        while len(level):
            found.append(level)
            level = (
                torch.cat([children[starts[i] : starts[i + 1]] for i in level.tolist()])
                if self._any_child(starts, level)
                else level[:0]
            )
        return found

    @staticmethod
    def _any_child(starts: Tensor, level: Tensor) -> bool:
        return bool((starts[level + 1] > starts[level]).any())


def planted(
    n_features: int,
    edges: Sequence[tuple[int, int]],
    exclusive: Sequence[int] = (),
    scaled: Sequence[int] = (),
    n_groups: int = 0,
) -> Forest:
    """Return the forest of some edges (parent, child).

    Raises:
        ConfigError: a node is not there, has two parents, or is above itself; it is named.
    """
    n_nodes = n_features + n_groups
    parent = [-1] * n_nodes
    for i, (above, below) in enumerate(edges):
        for word, node in (("parent", above), ("child", below)):
            if not 0 <= node < n_nodes:
                raise ConfigError(
                    f"`edges[{i}]`: {word} {node} is missing; features are 0..{n_features - 1}."
                )
        if parent[below] >= 0:
            raise ConfigError(
                f"`edges[{i}]`: feature {below} has two parents, {parent[below]} and {above}; "
                f"it may have one."
            )
        parent[below] = above
    _refuse_cycles(parent)
    flags = []
    for name, nodes in (("exclusive", exclusive), ("scaled", scaled)):
        flag = torch.zeros(n_nodes, dtype=torch.bool)
        for i, node in enumerate(nodes):
            if not 0 <= node < n_nodes:
                raise ConfigError(
                    f"`{name}[{i}]` must be a feature, 0..{n_features - 1}; got {node}."
                )
            flag[node] = True
        flags.append(flag)
    return Forest(torch.tensor(parent), *flags)


def check_scaling(forest: Forest, usual: Float[Tensor, "n_features"]) -> None:
    """Refuse a feature that scales others by its activation over what is not above 0.

    Raises:
        ConfigError: there is one; it is named.
    """
    child = (forest.parent >= 0).nonzero()[:, 0]
    child = child[child < len(usual)]
    above = forest.parent[child]
    feature = forest.feature_above(len(usual))[above][forest.scaled[above]]
    feature = feature[feature >= 0]
    wrong = feature[~(usual[feature] > 0)]
    if len(wrong):
        i = int(wrong[0])
        raise ConfigError(
            f"Feature {i} scales its children by its activation over the mean of its magnitudes, "
            f"which is {float(usual[i]):g}. Give it a mean above 0, or do not scale its children."
        )


def _refuse_cycles(parent: list[int]) -> None:
    done = [False] * len(parent)
    for start in range(len(parent)):
        path, node = [], start
        while node >= 0 and not done[node]:
            if node in path:
                ring = [*path[path.index(node) :], node]
                raise ConfigError(
                    f"`edges`: feature {node} is above itself: "
                    f"{' -> '.join(map(str, reversed(ring)))}. Remove one of these edges."
                )
            path.append(node)
            node = parent[node]
        for node in path:
            done[node] = True
