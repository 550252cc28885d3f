"""What runs over depth and over length tell of what was measured: a row a latent, and scores."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saekit.core.result import Score, Table
from saekit.core.stats.means import LEAST_UNITS, mean_interval
from saekit.studies.locality.runs.measure import Arrays


def latent_table(found: dict[str, Arrays]) -> Table:
    """Return a row for each site, window and latent: activation and what the profile tells."""
    names = ["window", "latent", "activation", "flags"]
    told = dict.fromkeys(k[2:] for arrays in found.values() for k in arrays if k[:2] == "s.")
    columns: dict[str, list[Any]] = {k: [] for k in ["site", *names, *told]}
    for site, arrays in found.items():
        columns["site"] += [site] * len(arrays["latent"])
        for name in names:
            columns[name] += arrays[name].tolist()
        for name in told:
            columns[name] += arrays[f"s.{name}"].tolist()
    units = {k: "bits" for k in columns if k.endswith("bits")} | {"activation": "act units"}
    return Table(columns=columns, units=units | {"look_back": "tokens"})


def site_scores(arrays: Arrays) -> dict[str, Score]:
    """Return means with 95 % intervals over windows; none of fewer than 8 windows.

    entropy_bits_mean_over_windows averages the windows' own means, which is what the published
    multi-layer run calls mean_feature_entropy; entropy_bits_pooled averages all pairs of window
    and latent, which its single-layer run calls by the same name.
    """
    window = torch.from_numpy(arrays["window"])
    pooled = {k[2:]: torch.from_numpy(v) for k, v in arrays.items() if k[:2] == "s."}
    H, known = pooled["entropy_bits"], ~pooled["entropy_bits"].isnan()
    kinds, which = window[known].unique(return_inverse=True)
    own = torch.zeros(len(kinds), dtype=torch.float64).index_add_(0, which, H[known])
    own /= torch.bincount(which, minlength=len(kinds)).clamp_min(1)
    scores = {"entropy_bits_mean_over_windows": _score(own, None, "bits")}
    units = {
        "entropy_bits": "bits",
        "effective_tokens": "tokens",
        "entropy_share": "share",
        "entropy_without_sink_bits": "bits",
        "kl_bits": "bits",
        "look_back": "tokens",
        "sink_mass": "share",
        "span_90": "tokens",
    }
    for name, values in pooled.items():
        if name in units or name.endswith("_entropy_bits"):
            scores[f"{name}_pooled"] = _score(values, window, units.get(name, "bits"))
    if "v.entropy_bits" in arrays:
        whole = torch.from_numpy(arrays["v.entropy_bits"])
        scores["token_vector_entropy_bits"] = _score(whole, None, "bits")
        place = torch.from_numpy(np.searchsorted(arrays["windows"], kinds.numpy()))
        paired = own - whole[place]  # of the same windows: tells more than two intervals
        scores["entropy_less_token_vector_bits"] = _score(paired, None, "bits", positive=False)
    return scores


def _score(values: Tensor, groups: Tensor | None, unit: str, *, positive: bool = True) -> Score:
    kept = ~values.isnan()
    values, groups = values[kept], None if groups is None else groups[kept]
    n = len(values) if groups is None else len(groups.unique())
    if not n:
        return Score(value=None, n=0, unit=unit, better="neither", reason="nothing was measured")
    mean, low, high = (float(v) for v in mean_interval(values[:, None], groups, positive=positive))
    if math.isnan(low):
        why = f"no interval: {n} windows, {LEAST_UNITS} are needed"
        return Score(value=mean, n=n, unit=unit, better="neither", reason=why)
    return Score(value=mean, low=low, high=high, n=n, unit=unit, better="neither")
