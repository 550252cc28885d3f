"""Geometry in the files of the data set: its tables with tiers, and the manifest's older keys."""

from collections.abc import Sequence
from typing import Any

import torch

from saekit.core.result import Table
from saekit.core.seeds import generator
from saekit.core.stats.permutation import permutation_test
from saekit.core.stats.ranks import pearson
from saekit.studies.locality.events.event_entropy import OK
from saekit.studies.locality.events.event_files import NO_TIER, Row
from saekit.studies.locality.latents.geometry import Geometry, GeometryResult


def tables(found: GeometryResult, rows: Sequence[Row]) -> dict[str, Table]:
    """Return the tables of a test by their names in the data set.

    Args:
        found: the statistics.
        rows: the events that entropies are of.
    """
    tier = {row.feature_id: row.tier for row in rows}
    pairs, near = found.pairwise(), found.by_neighbours()
    for name in ("a", "b"):
        pairs.columns[f"tier_{name}"] = [tier[i] for i in pairs.columns[f"fid_{name}"]]
    columns = dict(near.columns)
    first = {
        "feature_id": columns.pop("feature_id"),
        "tier": [tier[i] for i in found.latents.tolist()],
    }
    return {
        "pairwise": pairs,
        "feature_neighbour_summary": Table(columns=first | columns, units=near.units),
        "per_feature": _per_feature(found, rows),
    }


def _per_feature(found: GeometryResult, rows: Sequence[Row]) -> Table:
    """Return a row a latent: its tier, what it is said to be, and its entropies."""
    said = {row.feature_id: row.description for row in rows}
    tier = {row.feature_id: row.tier for row in rows}
    H: dict[int, list[float]] = {a: [] for a in found.latents.tolist()}
    for row in rows:
        if row.status == OK and row.feature_id in H:
            H[row.feature_id].append(row.H_pos)
    names = ("feature_id", "tier", "description", "n_events", "H_pos_mean", "H_pos_std", "row_idx")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for i, (latent, bits) in enumerate(H.items()):
        some = torch.tensor(bits, dtype=torch.float64)
        std = float(some.std()) if len(bits) > 1 else None
        about = tier.get(latent, NO_TIER), said[latent]
        one = (latent, *about, len(bits), float(some.mean()), std, i)
        for column, value in zip(columns.values(), one, strict=True):
            column.append(value)
    return Table(columns=columns, units={"H_pos_mean": "bits", "H_pos_std": "bits"})


def older_keys(found: GeometryResult, test: Geometry) -> dict[str, Any]:
    """Return what manifests of the older generation have under names of their own.

    All are of the size of the cosine. ``pearson_p`` is that of permuted latents, where the
    published one takes pairs for independent, which they are not.
    """
    null = found.size.spearman
    gap = (found.entropy[:, None] - found.entropy).abs()
    a, b = torch.triu_indices(len(gap), len(gap), offset=1)
    size = found.cosine.abs()[a, b]
    permuted = permutation_test(
        found.size.pearson,
        lambda order: pearson(size, gap[order[a], order[b]]),
        len(gap),
        test.permutations,
        generator(test.seed, "pearson"),
    )
    return {
        "primary_predictor": "abs_cosine",
        "pearson_p": permuted.p,
        "n_perm": null.n,
        "permutation_null_mean": null.mean,
        "permutation_null_std": null.std,
        "permutation_p_two_sided": null.p,
    }
