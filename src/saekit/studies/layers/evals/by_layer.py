"""By layer: an SAE that several layers share, at each of them, and with all replaced at once."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from saekit.core import provenance
from saekit.core.errors import ConfigError
from saekit.core.files import digest
from saekit.core.progress import Progress
from saekit.core.result import Result, Score
from saekit.data.tokenise import Rows
from saekit.evals._plan import plan
from saekit.evals._reconstruction import Reconstruction
from saekit.evals.base import Subject, Tools
from saekit.evals.core import Core
from saekit.evals.intervals import OVER_LATENTS, Blocks, BlockSums, blocks_of_documents, score_of
from saekit.metrics.base import added
from saekit.metrics.dead import Dead
from saekit.studies.layers.evals._layer_losses import ALL, LayerLosses

NAME, VERSION = "by_layer", 2
MEAN = "mean"


@torch.no_grad()
def measure_by_layer(subjects: Sequence[Subject], core: Core, tools: Tools) -> Result:
    """Return every core metric at every layer, their means over layers, and all layers at once.

    Scores are named ``SITE/metric``, ``mean/metric`` (unweighted over layers; intervals leave
    a block of text out of all at once) and ``all/metric``: losses with every layer replaced in one
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
    text = core.rows_of(tools)
    tokens = text.tokens
    parts, losses, blocks = _measured(subjects, core, text, shown=tools.shown)
    by_site = {name: dict(part.blocks) for name, part in zip(names, parts, strict=True)}
    by_way = {way: losses.sums(way, blocks) for way in losses.ways}
    for name in names:
        by_site[name] |= by_way[name]
    scores = {
        f"{name}/{metric}": sums.score()
        for name, found in by_site.items()
        for metric, sums in found.items()
    }
    for metric in by_site[names[0]]:
        each = [by_site[name][metric] for name in names]
        scores[f"{MEAN}/{metric}"] = score_of(each)
    every = by_way[ALL]
    scores |= {f"{ALL}/{m}": sums.score() for m, sums in every.items() if sums.n_used}
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
        "notes": core.notes_on(text, tools.split),
        "seconds": round(time.monotonic() - began, 3),
    }
    return Result(
        name=NAME,
        version=VERSION,
        config=core.to_dict(),
        scores=scores,
        details=details,
        provenance=made_from,
    )


def _measured(
    subjects: Sequence[Subject], core: Core, text: Rows, *, shown: bool
) -> tuple[list[Reconstruction], LayerLosses, Blocks]:
    """Run every forward pass; the blocks are those of the rows that losses are of."""
    lm = subjects[0].lm
    assert lm is not None  # `check` refuses it
    tokens = text.tokens
    n_rows, n_ctx = tokens.shape
    planned = plan(subjects, n_ctx, n_rows, core)
    planned.say(shown=shown)
    size = planned.rows
    n_full = min(math.ceil(core.ce_tokens / n_ctx), n_rows)
    bar = Progress(NAME, (n_rows + 3 * (len(subjects) + 1) * n_full) * n_ctx, shown=shown)
    blocks = blocks_of_documents(text.doc_ids, core.n_blocks)
    parts = [Reconstruction(subject, blocks) for subject in subjects]
    losses = LayerLosses(subjects, bar)
    sites = list(dict.fromkeys(s for one in subjects for s in (one.read, one.write)))
    for first in range(0, n_full, size):
        rows = tokens[first : min(first + size, n_full)]
        clean, acts = losses.clean(rows, sites)
        placed = [part.add(first, rows, _of(part.subject, acts)) for part in parts]
        losses.compare(rows, clean, acts, placed)
    for first in range(n_full, n_rows, size):
        rows = tokens[first : first + size]
        acts = lm.read(rows.to(lm.device), sites)
        for part in parts:
            part.add(first, rows, _of(part.subject, acts))
        bar.add(rows.numel())
    losses.ablate_mean({p.subject.write: p.mean[0].float() for p in parts})
    bar.close()
    return parts, losses, blocks_of_documents(text.doc_ids[:n_full], core.n_blocks)


def _of(subject: Subject, acts: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
    return {site: acts[site] for site in (subject.read, subject.write)}


def _dead(each: Sequence[BlockSums]) -> Score:
    """Return the share of latents that fired at no layer on any token."""
    total = each[0].total()
    for sums in each[1:]:
        total = added(total, sums.total())
    metric = Dead()
    low, high, n = metric.interval(total)
    return Score(
        value=metric.compute(total),
        low=low,
        high=high,
        n=n,
        unit=metric.unit,
        better="lower",
        reason=OVER_LATENTS,
    )
