"""By layer: an SAE that several layers share, at each of them, and with all replaced at once."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from saekit.core import provenance
from saekit.core.errors import ConfigError
from saekit.core.files import digest
from saekit.core.progress import Progress
from saekit.core.result import Result, Score
from saekit.evals._layer_losses import ALL, LayerLosses
from saekit.evals._reconstruction import Reconstruction
from saekit.evals.base import Subject, Tools
from saekit.evals.core import Core
from saekit.evals.intervals import (
    MIN_BLOCKS,
    RESAMPLES,
    BlockSums,
    blocks_of_rows,
    percentiles,
    resampled,
)
from saekit.metrics.base import added
from saekit.metrics.dead import Dead

NAME, VERSION = "by_layer", 2
MEAN = "mean"


@torch.no_grad()
def measure_by_layer(subjects: Sequence[Subject], core: Core, tools: Tools) -> Result:
    """Return every core metric at every layer, their means over layers, and all layers at once.

    Scores are named ``SITE/metric``, ``mean/metric`` (unweighted over layers; intervals draw
    the same blocks of text for all) and ``all/metric``: losses with every layer replaced in one
    pass, each by what the SAE makes of what the layers before, replaced too, lead to; and
    ``all/dead``, latents that fired at no layer. Beside the core metrics: ``kl_back``, the
    divergence KL(spliced || clean), and ``logit_mse``; both, like ``kl``, per token. Where the
    SAE predicts other sites than it reads there is no ``all`` but ``dead``.

    Args:
        subjects: the SAE at each layer, as a view that takes raw activations.
        core: how much text, as for the core evaluation.
        tools: held-out rows, seed.

    Raises:
        ConfigError: no subject, a layer twice, or a subject without its language model.
        DataError: the text or the activations cannot be used.

    Source:
        Lawson et al. 2024, arXiv:2409.04185, section 3.2. Differs: ratios of sums over all
        tokens; divergences per token and both ways; tokens by rule; ablations; intervals.
    """
    began = time.monotonic()
    names = [str(s.read) for s in subjects]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"Name at least one layer, and none twice; got {', '.join(names)}.")
    for subject in subjects:
        core.check(subject)
    tokens = core.tokens_of(tools)
    parts, losses = _measured(subjects, core, tokens, shown=tools.shown)
    by_site = {name: dict(part.blocks) for name, part in zip(names, parts, strict=True)}
    by_way = {way: losses.blocks(way, core.n_blocks) for way in losses.ways}
    for name in names:
        by_site[name] |= by_way[name]
    scores = {
        f"{name}/{metric}": sums.score(tools.seed)
        for name, found in by_site.items()
        for metric, sums in found.items()
    }
    for metric in by_site[names[0]]:
        each = [by_site[name][metric] for name in names]
        scores[f"{MEAN}/{metric}"] = _mean_score(each, tools.seed)
    every = by_way[ALL]
    scores |= {f"{ALL}/{m}": sums.score(tools.seed) for m, sums in every.items() if sums.n_used}
    scores[f"{ALL}/dead"] = _dead([by_site[name]["dead"] for name in names])
    details = {
        "sites": names,
        "rows": len(tokens),
        "n_ctx": tokens.shape[1],
        "scored_tokens": losses.n_scored,
        "tokens": {name: p.counts._asdict() for name, p in zip(names, parts, strict=True)},
        "tokens_sha256": digest([tokens.numpy().tobytes()]),
    }
    lm = subjects[0].lm
    made_from = provenance.collect(tools.seed) | {
        "subject": subjects[0].name,
        "sae": subjects[0].sae.cfg.to_dict(),
        "model": lm.provenance() if lm else None,
        "seconds": round(time.monotonic() - began, 3),
    }
    return Result(
        name=NAME, version=VERSION, config=core.to_dict(), scores=scores, details=details,
        provenance=made_from,
    )  # fmt: skip


def _measured(
    subjects: Sequence[Subject], core: Core, tokens: Int[Tensor, "rows n_ctx"], *, shown: bool
) -> tuple[list[Reconstruction], LayerLosses]:
    """Run every forward pass."""
    lm = subjects[0].lm
    assert lm is not None  # `check` refuses it
    n_rows, n_ctx = tokens.shape
    n_full = min(math.ceil(core.ce_tokens / n_ctx), n_rows)
    bar = Progress(NAME, (n_rows + 3 * (len(subjects) + 1) * n_full) * n_ctx, shown=shown)
    blocks = blocks_of_rows(n_rows, core.n_blocks)
    parts = [Reconstruction(subject, blocks) for subject in subjects]
    losses = LayerLosses(subjects, bar)
    sites = list(dict.fromkeys(s for one in subjects for s in (one.read, one.write)))
    for first in range(0, n_full, core.batch_rows):
        rows = tokens[first : min(first + core.batch_rows, n_full)]
        clean, acts = losses.clean(rows, sites)
        placed = [part.add(first, rows, _of(part.subject, acts)) for part in parts]
        losses.compare(rows, clean, placed)
    for first in range(n_full, n_rows, core.batch_rows):
        rows = tokens[first : first + core.batch_rows]
        acts = lm.read(rows.to(lm.device), sites)
        for part in parts:
            part.add(first, rows, _of(part.subject, acts))
        bar.add(rows.numel())
    losses.ablate_mean({p.subject.write: p.mean[0].float() for p in parts})
    bar.close()
    return parts, losses


def _of(subject: Subject, acts: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
    return {site: acts[site] for site in (subject.read, subject.write)}


def _mean_score(each: Sequence[BlockSums], seed: int) -> Score:
    """Return the mean over layers of a metric, with the interval of drawing text anew."""
    metric, scores = each[0].metric, [sums.score(seed) for sums in each]
    values = [s.value for s in scores if s.value is not None]
    low = high = value = None
    reason, n = "", min(sums.n_used for sums in each)
    if len(values) < len(each):
        reason = f"undefined at {len(each) - len(values)} of {len(each)} layers"
    else:
        value = sum(values) / len(values)
        if not metric.resampled or n < MIN_BLOCKS or len({s.n_used for s in each}) > 1:
            reason = "no interval: too few blocks of text, or text is not resampled"
        else:
            drawn = [resampled(metric, sums.stacked(), seed) for sums in each]
            if all(len(d) == RESAMPLES for d in drawn):
                low, high = percentiles(torch.stack(drawn).mean(0))
            else:
                reason = "no interval: undefined in some resamples"
    one = scores[0]
    return Score(
        value=value, low=low, high=high, n=n, unit=one.unit, better=one.better, reason=reason
    )


def _dead(each: Sequence[BlockSums]) -> Score:
    """Return the share of latents that fired at no layer on any token."""
    total = each[0].total()
    for sums in each[1:]:
        total = added(total, sums.total())
    metric = Dead()
    low, high, n = metric.interval(total)
    return Score(
        value=metric.compute(total), low=low, high=high, n=n, unit=metric.unit, better="lower",
        reason="interval over latents: drawing text anew can only leave some out",
    )  # fmt: skip
