"""Arms: what two trainings differ in, and how much of the instability each of these brings."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

ARMS = ("initialisation", "order", "data")
_TEXT = ("corpus", "n_ctx", "tokens", "bos", "separate_documents")


class Component(NamedTuple):
    """What one arm adds to the share of latents that are not shared."""

    value: float | None
    reason: str


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[bool, ...] | None:
    """Return in which of `ARMS` two trainings differ, from the settings of their runs.

    New weights are drawn by `seed`, the order of activations by `order_seed` where that is set and
    by `seed` where it is not. SAEs that began from the weights of one have one initialisation.

    Returns:
        None where the settings are not known.
    """
    if "seed" not in one or "seed" not in other:
        return None
    from_one = one.get("start_from"), other.get("start_from")
    begun = one["seed"] != other["seed"]
    if any(from_one):
        begun = from_one[0] != from_one[1]
    orders = [r["seed"] if r.get("order_seed") is None else r["order_seed"] for r in (one, other)]
    data = any(one.get(key) != other.get(key) for key in _TEXT)
    return begun, orders[0] != orders[1], data


def components(
    runs: Sequence[Mapping[str, Any]], shares: Mapping[tuple[int, int], float]
) -> dict[str, Component]:
    r"""Return how much of the instability each arm brings, where the SAEs tell them apart.

    The share of latents that are not shared by a pair is a sum over the arms in which it differs,
    :math:`1 - s_{ab} = \sum_k \delta_k(a, b) c_k`, fitted by least squares over pairs. A pair that
    differs in nothing has 0. An arm is told apart where the pairs decide its term.

    Args:
        runs: settings of each SAE's training.
        shares: the shared feature ratio of each pair.
    """
    rows, values = [], []
    for a, b in combinations(range(len(runs)), 2):
        found = differences(runs[a], runs[b])
        if found is None:
            why = "the settings of training are not known of every SAE"
            return {arm: Component(None, why) for arm in ARMS}
        if np.isfinite(shares[a, b]):
            rows.append([float(d) for d in found])
            values.append(1 - shares[a, b])
    table = np.array(rows).reshape(len(rows), len(ARMS))
    inverse = np.linalg.pinv(table) if len(rows) else np.zeros((len(ARMS), 0))
    told = inverse @ table if len(rows) else np.zeros((len(ARMS), len(ARMS)))
    fitted = inverse @ np.array(values) if len(rows) else np.zeros(len(ARMS))
    out = {}
    for i, arm in enumerate(ARMS):
        if not table[:, i].any():
            out[arm] = Component(None, f"no two SAEs differ in {arm}")
        elif not np.allclose(told[i], np.eye(len(ARMS))[i]):
            both = " and ".join(n for j, n in enumerate(ARMS) if abs(told[i, j]) > 1e-9 and j != i)
            why = f"{arm} is not told apart from {both}: train SAEs that differ in one alone"
            out[arm] = Component(None, why)
        else:
            out[arm] = Component(float(fitted[i]), "no interval: pairs share their SAEs")
    return out


def by_arm(
    runs: Sequence[Mapping[str, Any]], shares: Mapping[tuple[int, int], float]
) -> dict[str, dict[str, Any]]:
    """Return the mean ratio of the pairs that differ in the same arms, by what these are called."""
    found: dict[str, list[float]] = {}
    for a, b in combinations(range(len(runs)), 2):
        differs = differences(runs[a], runs[b])
        if differs is None:
            name = "not known"
        else:
            name = " + ".join(n for n, d in zip(ARMS, differs, strict=True) if d) or "nothing"
        if np.isfinite(shares[a, b]):
            found.setdefault(name, []).append(shares[a, b])
    return {name: {"pairs": len(v), "mean": sum(v) / len(v)} for name, v in found.items()}


def shared_start(runs: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether some two SAEs are known to have begun from the same weights."""
    each = (differences(a, b) for a, b in combinations(runs, 2))
    return any(found is not None and not found[0] for found in each)
