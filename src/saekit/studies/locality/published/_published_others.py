"""Published results that are not pairs of a latent and a window."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from saekit.core.errors import FormatError
from saekit.studies.locality.published._flat import PublishedFile, field, numbers, plain

LAYER = re.compile(r"layer_(\d+)")
LEVELS = ("H_vocab", "H_logit")  # bits, by latent; NaN where a latent is on too rarely


def feature_token_influence(raw: Mapping[str, Any], path: Path) -> PublishedFile:
    """Return the influences of leading latents at one layer, windows one after another.

    Raises:
        FormatError: an entry is missing or does not fit the others.
    """
    found = field(raw, "feature_influences", dict, path)
    latents = sorted(found)
    each = [found[a] for a in latents]
    samples = [
        numbers(field(e, "all_influences", list, path), path, "all_influences", 2) for e in each
    ]
    counts = [e.get("num_samples", len(s)) for e, s in zip(each, samples, strict=True)]
    if counts != [len(s) for s in samples]:
        raise FormatError(f"{path}: num_samples are not the numbers of influences.")
    arrays = {
        "feature": np.asarray(latents, np.int64),
        "num_samples": np.asarray(counts, np.int64),
        "influence": np.concatenate(samples) if samples else np.zeros((0, 0)),
        "starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    }
    for name in ("mean_influence", "std_influence"):
        rows = [numbers(e.get(name), path, name, 1) for e in each]
        arrays[name] = np.stack(rows) if rows else np.zeros((0, 0))
    info = _rest(raw, path, "feature_influences")
    return PublishedFile("feature_token_influence", "", arrays, info)


def token_vector_influence(raw: Mapping[str, Any], path: Path) -> PublishedFile:
    """Return influences on the whole activation vector, a row a window.

    Raises:
        FormatError: an entry is missing or does not fit the others.
    """
    names = (
        "influence_distributions",
        "entropies",
        "mean_influence",
        "std_influence",
        "mean_entropy",
        "std_entropy",
    )
    arrays = {n: numbers(raw[n], path, n) for n in names if n in raw}
    if len(arrays.get("entropies", [])) != len(arrays["influence_distributions"]):
        raise FormatError(f"{path}: as many entropies as distributions are needed.")
    return PublishedFile("token_vector_influence", "", arrays, _rest(raw, path, *names))


def feature_sparsity(raw: Mapping[str, Any], path: Path) -> PublishedFile:
    """Return how often each latent fires, and on which token ids.

    Raises:
        FormatError: an entry is missing or does not fit the others.
    """
    counters = raw.get("feature_token_counts", [])
    if not isinstance(counters, list) or not all(isinstance(c, dict) for c in counters):
        raise FormatError(f"{path}: feature_token_counts must be a list of counters.")
    triples = [(a, int(t), int(n)) for a, c in enumerate(counters) for t, n in sorted(c.items())]
    table = np.asarray(triples, np.int64).reshape(-1, 3)
    arrays = {n: numbers(raw[n], path, n, 1) for n in ("feature_counts", "frequencies") if n in raw}
    arrays |= {"token_feature": table[:, 0], "token_id": table[:, 1], "token_count": table[:, 2]}
    names = ("feature_counts", "frequencies", "feature_token_counts")
    return PublishedFile("feature_sparsity", "", arrays, _rest(raw, path, *names))


def correlations(raw: Mapping[str, Any], path: Path) -> PublishedFile:
    """Return the covariance of token-conditional firing rates of leading latents.

    Raises:
        FormatError: an entry is missing or does not fit the others.
    """
    matrix = numbers(raw["covariance_matrix"], path, "covariance_matrix", 2)
    leading = numbers(field(raw, "leading_features", list, path), path, "leading_features", 1)
    if matrix.shape != (len(leading), len(leading)):
        raise FormatError(
            f"{path}: {len(leading)} leading latents and a matrix of {list(matrix.shape)}."
        )
    arrays = {"covariance_matrix": matrix, "leading_features": leading}
    return PublishedFile("correlations", "", arrays, _rest(raw, path, *arrays))


def feature_levels(raw: Mapping[str, Any], path: Path) -> PublishedFile:
    """Return the entropies of the tokens that latents are on at, and of those they promote.

    The file has an entry ``layer_<N>`` for each layer, of arrays by latent.

    Raises:
        FormatError: an entry is missing or does not fit the others.
    """
    arrays: dict[str, np.ndarray] = {}
    layers = sorted(int(m[1]) for key in raw if (m := LAYER.fullmatch(str(key))))
    for layer in layers:
        slot = field(raw, f"layer_{layer}", dict, path)
        if missing := [n for n in LEVELS if n not in slot]:
            raise FormatError(f"{path}: layer_{layer} lacks {', '.join(missing)}.")
        # The script's own description calls the totals counts.
        names = [n for n in (*LEVELS, "totals", "counts") if n in slot]
        rows = {n: numbers(slot[n], path, n, 1) for n in names}
        if len({len(row) for row in rows.values()}) > 1:
            raise FormatError(f"{path}: layer_{layer} has arrays of several lengths.")
        arrays |= {
            f"layer_{layer}_{'totals' if n == 'counts' else n}": row for n, row in rows.items()
        }
    arrays["layers"] = np.asarray(layers, np.int64)
    names = [key for key in raw if LAYER.fullmatch(str(key))]
    return PublishedFile("feature_level_entropies", "", arrays, _rest(raw, path, *names))


def is_levels(raw: Mapping[Any, Any]) -> bool:
    """Tell whether a file holds `feature_levels`."""
    return any(isinstance(key, str) and LAYER.fullmatch(key) for key in raw)


def _rest(raw: Mapping[str, Any], path: Path, *but: str) -> dict[str, Any]:
    return plain({k: v for k, v in raw.items() if k not in but}, path, "it")


# The key that tells a kind, and what reads it.
OTHERS: dict[str, Callable[[Mapping[str, Any], Path], PublishedFile]] = {
    "feature_influences": feature_token_influence,
    "influence_distributions": token_vector_influence,
    "feature_counts": feature_sparsity,
    "covariance_matrix": correlations,
}
