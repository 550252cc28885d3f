"""Published results of pairs of a latent and a window: depth runs and context-length sweeps.

Both hold, for each window or length, latents with an entropy, an activation and influences.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from saekit.core.errors import FormatError
from saekit.studies.locality.published._flat import PublishedFile, field, jagged, numbers, plain

HEAD = ("summary", "config")
KNOWN = {
    "batch_idx",
    "start_idx",
    "feature_entropies",
    "token_vector_entropy",
    "num_active_features",
    "feature_influences",
    "feature_activations",
    "token_vector_influence",
}


def comparison(raw: Mapping[str, Any], path: Path) -> PublishedFile:
    """Return a depth run of one layer: one group a window.

    The description of the data set ("S") adds `dataset` to the summary; the code before it
    ("M") does not have it. Activations are one number a latent, or an array of them.

    Raises:
        FormatError: an entry is missing or does not fit the others.
    """
    groups = field(raw, "batch_results", list, path)
    info = {name: plain(field(raw, name, dict, path), path, name) for name in HEAD}
    starts = raw.get("batch_start_indices")
    info["batch_start_indices"] = plain(starts, path, "batch_start_indices")
    arrays, notes = _groups(groups, path)
    for name in ("batch_idx", "start_idx"):
        arrays[name] = _whole([g.get(name) for g in groups], path, name)
    if isinstance(starts, list) and arrays["start_idx"].tolist() != info["batch_start_indices"]:
        notes.append("batch_start_indices are not those of the windows")
    generation = "S" if "dataset" in info["summary"] else "M"
    info["means"] = _means(arrays, info["summary"])
    return PublishedFile("entropy_comparison", generation, arrays, info, tuple(notes))


def sweep(raw: Mapping[str, Any], path: Path) -> PublishedFile:
    """Return a context-length sweep: one group a length, in ascending order.

    "M" calls a length a batch size; "H" does not; "S" adds the entropy of the token vector.

    Raises:
        FormatError: an entry is missing or does not fit the others.
    """
    key = next(k for k in ("results_by_context_len", "results_by_batch_size") if k in raw)
    found = field(raw, key, dict, path)
    info = {name: plain(field(raw, name, dict, path), path, name) for name in HEAD}
    lengths = _whole(list(found), path, key)
    order = np.argsort(lengths, kind="stable")
    keys = list(found)
    groups = [found[keys[i]] for i in order]
    arrays, notes = _groups(groups, path)
    arrays["context_len"] = lengths[order]
    generation = "M" if key == "results_by_batch_size" else "H"
    if any(isinstance(g, dict) and "token_vector_entropy" in g for g in groups):
        generation = "S"
    return PublishedFile("entropy_vs_context_len", generation, arrays, info, tuple(notes))


def _groups(groups: list[Any], path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the pairs of all groups as flat arrays, latents ascending within a group."""
    group, latent, bits, acts, influences, vector = ([] for _ in range(6))
    total, active, notes, more = [], [], [], set()
    for i, raw in enumerate(groups):
        H = field(raw, "feature_entropies", dict, path)
        J = raw.get("feature_influences") or {}
        values = raw.get("feature_activations") or {}
        if odd := (set(J) | set(values)) - set(H):
            raise FormatError(
                f"{path}, group {i}: latent {sorted(odd)[0]} has influences or an activation and "
                f"no entropy."
            )
        for a in sorted(H):
            group.append(i)
            latent.append(a)
            bits.append(H[a])
            acts.append(np.atleast_1d(numbers(values.get(a, np.nan), path, "activation")))
            influences.append(numbers(J.get(a, []), path, "influence", 1))
        count = raw.get("num_active_features", len(H))
        if count != len(H):
            notes.append(f"group {i} says {count} active latents and holds {len(H)}")
        active.append(count)
        total.append(raw.get("token_vector_entropy", np.nan))
        vector.append(numbers(raw.get("token_vector_influence", []), path, "token vector", 1))
        more |= set(raw) - KNOWN
    if more:
        raise FormatError(
            f"{path} has {', '.join(sorted(map(str, more)))} in its groups, which saekit does not "
            f"read; it reads {', '.join(sorted(KNOWN))}."
        )
    arrays = {
        "group": np.asarray(group, np.int64),
        "feature": _whole(latent, path, "feature"),
        "entropy": _floats(bits, path, "entropy"),
        "num_active_features": _whole(active, path, "num_active_features"),
        "token_vector_entropy": _floats(total, path, "token_vector_entropy"),
    }
    for name, rows in (
        ("activation", acts),
        ("influence", influences),
        ("token_vector_influence", vector),
    ):
        arrays[name], arrays[f"{name}_starts"] = jagged(rows)
    return arrays, notes


def _whole(values: list[Any], path: Path, what: str) -> np.ndarray:
    found = numbers(values, path, what, 1)
    if len(found) and found.dtype.kind not in "iu":
        raise FormatError(f"`{what}` in {path} must be whole numbers; got {values[:3]}.")
    return found.astype(np.int64)


def _floats(values: list[Any], path: Path, what: str) -> np.ndarray:
    """Return float32 where every value was, and float64 otherwise, so that none changes."""
    found = numbers(values, path, what, 1)
    single = all(type(v) is np.float32 for v in values) and bool(values)
    return found.astype(np.float32 if single else np.float64)


def _means(arrays: dict[str, np.ndarray], summary: dict[str, Any]) -> dict[str, Any]:
    """Return both means that published summaries call `mean_feature_entropy`, and which it is.

    One script takes the mean over windows of the window's mean, another pools all pairs.
    """
    bits, group = arrays["entropy"].astype(np.float64), arrays["group"]
    if not len(bits):
        return {"mean_over_windows": None, "mean_pooled": None, "published_is": None}
    sums, counts = np.bincount(group, bits), np.bincount(group)
    means = {
        "mean_over_windows": float((sums[counts > 0] / counts[counts > 0]).mean()),
        "mean_pooled": float(bits.mean()),
    }
    said = summary.get("mean_feature_entropy")
    fits = [n for n, v in means.items() if said is not None and abs(v - said) <= 1e-4 * abs(v)]
    return means | {"published_is": fits[0] if len(fits) == 1 else fits or None}
