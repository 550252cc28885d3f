"""Trees of the published layout: nested JSON to arrays and back."""

from typing import Any

from saekit.core.errors import FormatError
from saekit.studies.truth.model.forest import Forest, planted

KEYS = {
    "feature_index",
    "mutually_exclusive_children",
    "scale_children_by_parent",
    "feature_id",
    "children",
}


def forest_of(raw: Any, n_features: int) -> Forest:
    """Return the trees of ``hierarchy.json``.

    Nodes without a feature become groups: they are on wherever their parent is.

    Raises:
        FormatError: a key is not known, a node is not an object, or a feature is missing or
            appears twice.
    """
    if not isinstance(raw, dict) or set(raw) != {"roots"}:
        raise FormatError(f"hierarchy.json must be an object with `roots`; got {raw!r:.80}.")
    edges: list[tuple[int, int]] = []
    exclusive, scaled = [], []
    after, seen = n_features, set()
    todo: list[tuple[Any, int]] = [(node, -1) for node in raw["roots"]]
    while todo:
        node, above = todo.pop()
        if not isinstance(node, dict) or set(node) - KEYS:
            wrong = sorted(set(node) - KEYS) if isinstance(node, dict) else node
            raise FormatError(
                f"A node of hierarchy.json has {', '.join(sorted(KEYS))}; got {wrong!r:.80}."
            )
        place = node.get("feature_index")
        if place is None:
            place, after = after, after + 1
        elif place in seen:
            raise FormatError(f"hierarchy.json has feature {place} twice; it may appear once.")
        elif not 0 <= place < n_features:
            raise FormatError(
                f"hierarchy.json has feature {place}; features are 0..{n_features - 1}."
            )
        seen.add(place)
        if above >= 0:
            edges.append((above, place))
        if node.get("mutually_exclusive_children"):
            exclusive.append(place)
        if node.get("scale_children_by_parent"):
            scaled.append(place)
        todo += [(child, place) for child in node.get("children", [])]
    return planted(n_features, edges, exclusive, scaled, after - n_features)


def trees_of(forest: Forest, n_features: int) -> dict[str, Any]:
    """Return ``hierarchy.json`` of a forest: its trees of two nodes or more."""
    starts, children = forest.children()
    bounds, listed = starts.tolist(), children.tolist()
    nodes = [
        {
            "feature_index": i if i < n_features else None,
            "mutually_exclusive_children": bool(forest.exclusive[i]),
            "scale_children_by_parent": bool(forest.scaled[i]),
            "feature_id": None,
            "children": [],
        }
        for i in range(len(forest.parent))
    ]
    for i, node in enumerate(nodes):
        node["children"] = [nodes[c] for c in listed[bounds[i] : bounds[i + 1]]]
    roots = [
        i
        for i, parent in enumerate(forest.parent.tolist())
        if parent < 0 and bounds[i + 1] > bounds[i]
    ]
    return {"roots": [nodes[i] for i in roots]}
