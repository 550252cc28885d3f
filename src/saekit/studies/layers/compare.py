"""A multi-layer SAE beside SAEs of one layer each, on the same text."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from saekit.core.errors import ConfigError
from saekit.core.result import Table
from saekit.data.tokenise import TokenStream
from saekit.hub.shared import SharedSAE
from saekit.hub.trained import TrainedSAE
from saekit.metrics.base import Batch, Sums, added
from saekit.metrics.fvu import FVU
from saekit.metrics.l0 import L0
from saekit.models.base import LanguageModel
from saekit.studies.layers.geometry import mmcs
from saekit.studies.layers.survey import activations


def compare(
    shared: SharedSAE,
    singles: Mapping[str, TrainedSAE],
    lm: LanguageModel,
    stream: TokenStream,
    *,
    tokens: int,
) -> Table:
    """Return one row a layer: FVU and L0 of both, and how alike their directions are.

    Both are measured on the same tokens: those that count by the shared SAE's rule. ``mmcs``
    columns are means over latents of the largest cosine: of each single-layer direction with a
    multi-layer one (``single_in_multi``: what of the single dictionary the shared one has),
    the other way round (``multi_in_single``: how much of the shared one this layer needs), and
    within the single dictionary. ``same_run`` tells whether both were trained on the same text,
    and on the same number of tokens of that layer.

    Args:
        shared: the multi-layer SAE and its layers.
        singles: an SAE for each of its layers, by site.
        lm: the model of all.
        stream: held-out text.
        tokens: tokens of text, special ones included, rounded up to whole rows.

    Raises:
        ConfigError: a layer has no SAE of its own, or one that reads another site or model.

    Source:
        Lawson et al. 2024, arXiv:2409.04185, section 4.5 (the comparison asked for).
    """
    if tokens < 1:
        raise ConfigError(f"`tokens` must be at least 1; got {tokens}.")
    shared.check(lm)
    for site in shared.sites:
        _check(shared, site_name := str(site), singles.get(site_name))
    sums: dict[tuple[str, str], Sums] = {}
    metrics = {"fvu": FVU(), "l0": L0()}
    n_rows = math.ceil(tokens / stream.n_ctx)
    for rows in stream.rows(16, n_rows=n_rows):
        for site, acts, keep in activations(shared, lm, rows):
            x = acts[keep].float()
            for kind, sae in (("multi", shared.at(site)), ("single", singles[str(site)].sae)):
                with torch.no_grad():
                    codes = sae.encode(x)
                    batch = Batch(x, sae.decode(codes), codes)
                for name, metric in metrics.items():
                    key = (f"{kind}_{name}", str(site))
                    new = metric.sums(batch)
                    sums[key] = added(sums[key], new) if key in sums else new
    columns: dict[str, list[Any]] = {"site": [str(s) for s in shared.sites]}
    for name, metric in metrics.items():
        for kind in ("multi", "single"):
            columns[f"{kind}_{name}"] = [
                metric.compute(sums[f"{kind}_{name}", s]) for s in columns["site"]
            ]
    return Table(columns=columns | _directions(shared, singles) | _training(shared, singles))


def _directions(shared: SharedSAE, singles: Mapping[str, TrainedSAE]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {"single_in_multi": [], "multi_in_single": [], "single_mmcs": []}
    for site in shared.sites:
        multi = shared.directions(site)
        single = singles[str(site)].sae.directions().detach()
        found["single_in_multi"].append(mmcs(single, multi).mean)
        found["multi_in_single"].append(mmcs(multi, single).mean)
        found["single_mmcs"].append(mmcs(single).mean)
    own = mmcs(shared.sae.directions().detach()).mean
    return found | {"multi_mmcs": [own] * len(shared.sites)}


def _training(shared: SharedSAE, singles: Mapping[str, TrainedSAE]) -> dict[str, list[Any]]:
    n_sites = len(shared.card.pair.reads)
    mine = shared.card.tokens / n_sites
    found: dict[str, list[Any]] = {"multi_d_sae": [], "single_d_sae": [], "same_run": []}
    for site in shared.sites:
        card, sae = singles[str(site)].card, singles[str(site)].sae
        text = card.corpus.get("digest") == shared.card.corpus.get("digest")
        found["multi_d_sae"].append(shared.d_sae)
        found["single_d_sae"].append(sae.cfg.d_sae)
        found["same_run"].append(text and abs(card.tokens - mine) <= 0.01 * mine)
    return found


def _check(shared: SharedSAE, site: str, single: TrainedSAE | None) -> None:
    if single is None:
        raise ConfigError(
            f"There is no SAE of one layer for {site}. Give one for each of "
            f"{', '.join(map(str, shared.sites))}, or compare fewer layers."
        )
    reads = [str(s) for s in single.card.pair.reads]
    if reads != [site] or single.sae.cfg.event:
        raise ConfigError(
            f"The SAE given for {site} reads {', '.join(reads)}. Give one that reads {site} alone."
        )
    mine, theirs = shared.card.model.get("revision"), single.card.model.get("revision")
    if mine != theirs:
        raise ConfigError(
            f"The SAE of {site} was trained on another model (revision {theirs}, not {mine}). Give "
            f"one of the same model."
        )
