"""What a probe reads of a text: one vector for all its tokens, of activations or of codes."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core import machine
from saekit.core.errors import DataError, ResourceError
from saekit.core.finite import all_finite, check_finite
from saekit.core.progress import Progress
from saekit.evals._plan import plan
from saekit.evals.base import Subject, Tools
from saekit.evals.core import Core
from saekit.models.base import LanguageModel
from saekit.models.sites import Site
from saekit.saes.base import SAE
from saekit.studies.faithful.coding import distinct, model_of, saes_of
from saekit.studies.faithful.sequences import Padded, Shape, ordinary_ids, pad
from saekit.studies.faithful.untrained import untrained

Pooling = Literal["mean", "last"]
FEW_ROWS = 16  # that an untrained SAE is scaled by
COPIES = 2  # of all features: as they come batch by batch, and put together


class Features(NamedTuple):
    """One vector a text; zeros where the SAE's rules leave no token of it."""

    baseline: Float[Tensor, "n d_in"]  # the activation that the SAE reads
    sae: Float[Tensor, "n d_sae"]  # the SAE's codes
    recon: Float[Tensor, "n d_out"]  # what it predicts
    tokens: Int[Tensor, "n"]  # tokens that the vectors are of


def rows_of(texts: Sequence[str], lm: LanguageModel, shape: Shape, filler: int) -> Padded:
    """Return texts as rows of tokens, cut where they are longer than the rows of the SAE's text."""
    start = [] if shape.bos_id is None else [shape.bos_id]
    rows = [[*start, *ids][: shape.n_ctx] for ids in lm.tokenizer.encode(list(texts))]
    if empty := [i for i, row in enumerate(rows) if not row]:
        raise DataError(f"Text {empty[0]} has no token: {texts[empty[0]]!r:.60}. Leave it out.")
    return pad(rows, filler)


def padded(texts: Sequence[str], lm: LanguageModel, shape: Shape) -> Padded:
    """Return texts as rows of tokens."""
    filler = int(ordinary_ids(lm.tokenizer, lm.vocab_size)[0])
    return rows_of(texts, lm, shape, filler)


def check_memory(subjects: Sequence[Subject], n_texts: int, n_drawn: int = 0) -> None:
    """Refuse more texts than there is memory for: codes are kept with an entry a latent.

    Args:
        subjects: the SAEs.
        n_texts: to train and to test on.
        n_drawn: test texts in all resamples together.

    Raises:
        ResourceError: the codes of the SAEs, and of an untrained one for each, do not fit.
    """
    width = sum(2 * s.sae.cfg.d_sae + s.sae.cfg.d_in + s.sae.cfg.d_out for s in subjects)
    wanted = COPIES * (4 * n_texts * width + 8 * n_drawn)
    free = machine.free_memory(torch.device("cpu"))
    if free is not None and wanted > free:
        raise ResourceError(
            f"The codes of {n_texts:,} texts, and the resamples, need {wanted / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free. Lower n_train, n_test or n_draws, or measure fewer "
            f"SAEs at once."
        )


def pool(
    values: Float[Tensor, "m width"],
    which: Int[Tensor, "m"],
    kept: Bool[Tensor, "n n_ctx"],
    pooling: Pooling,
) -> Float[Tensor, "n width"]:
    """Return the mean over a row's kept tokens, or the value at the last of them; 0 without any.

    Args:
        values: at kept tokens, row by row.
        which: the row of each.
        kept: which tokens those are.
        pooling: how.
    """
    n, out = kept.sum(1), values.new_zeros(len(kept), values.shape[1])
    if pooling == "mean":
        return out.index_add_(0, which, values) / n.clamp_min(1)[:, None]
    some = n > 0
    out[some] = values[n.cumsum(0)[some] - 1]
    return out


@torch.no_grad()
def features_of(
    subjects: Sequence[Subject], text: Padded, pooling: Pooling, batch_rows: int, bar: Progress
) -> list[Features]:
    """Return what probes read of each text, for each SAE; the model reads each text once.

    Rows of about one length are read together. Padding stands on the right of a causal model, so
    that nothing depends on it, and is never counted.

    Args:
        subjects: SAEs of one language model.
        text: rows of tokens.
        pooling: how tokens become one vector.
        batch_rows: rows of a pass.
        bar: counts tokens, without padding.

    Raises:
        DataError: activations, weights or predictions are not finite.
    """
    lm = model_of(subjects)
    subjects, places = distinct(subjects)
    saes = saes_of(subjects)
    sites = list(dict.fromkeys(site for s in subjects for site in (s.read, s.write)))
    found: list[dict[str, list[Tensor]]] = [{f: [] for f in Features._fields} for _ in subjects]
    order = text.real.sum(1).argsort(stable=True)
    for first in range(0, len(order), batch_rows):
        some = order[first : first + batch_rows]
        part = Padded(text.tokens[some], text.real[some]).rows(slice(0, len(some)))
        tokens, real = part.tokens.to(lm.device), part.real.to(lm.device)
        acts = lm.read(tokens, sites)
        check_finite(acts, first)
        for subject, sae, kept_of in zip(subjects, saes, found, strict=True):
            one = _pooled(subject, sae, acts, (tokens, real), pooling)
            for name, values in one._asdict().items():
                kept_of[name].append(values.cpu())
        bar.add(int(real.sum()))
    back = order.argsort()
    made = [Features(**{n: torch.cat(parts)[back] for n, parts in f.items()}) for f in found]
    return [made[place] for place in places]


def _pooled(
    subject: Subject,
    sae: SAE,
    acts: Mapping[Site, Tensor],
    rows: tuple[Tensor, Tensor],
    pooling: Pooling,
) -> Features:
    tokens, real = rows
    kept = subject.rule.keep(tokens, acts[subject.read]) & real
    if subject.write_rule is not None:
        kept &= subject.write_rule.keep(tokens, acts[subject.write])
    which = kept.nonzero()[:, 0]
    x = acts[subject.read][kept].float()
    codes = sae.encode(x)
    recon = sae.decode(codes)
    if not all_finite(recon):
        raise DataError(
            f"{subject.name} predicts values that are not finite. Its training diverged, or it was "
            f"trained on activations of another scale."
        )
    n = kept.sum(1)
    # Codes are summed where they are on: a dense code of every token would be large.
    weight = (1 / n.clamp_min(1).float())[which]
    if pooling == "last":
        last = torch.zeros(len(which), dtype=torch.float32, device=x.device)
        last[n.cumsum(0)[n > 0] - 1] = 1.0
        weight = last
    at = codes.rows()
    dense = x.new_zeros(len(tokens) * codes.d_sae)
    dense.index_add_(0, which[at] * codes.d_sae + codes.latents, codes.values * weight[at])
    return Features(
        pool(x, which, kept, pooling),
        dense.view(len(tokens), codes.d_sae),
        pool(recon, which, kept, pooling),
        n,
    )


def with_floors(
    subjects: Sequence[Subject],
    text: Padded,
    pooling: Pooling,
    tools: Tools,
    *,
    batch_rows: int,
    name: str,
) -> list[tuple[Features, Subject, Features]]:
    """Return what probes read of each text for each SAE, an untrained one in its place, and of it.

    The model reads each text once for all.

    Args:
        subjects: SAEs of one language model.
        text: rows of tokens.
        pooling: how tokens become one vector.
        tools: of the evaluation.
        batch_rows: the most rows of a pass.
        name: what the progress is called.

    Raises:
        DataError: activations are not finite, or the rules leave no token of the first texts.
    """
    core = Core(ce_tokens=0, batch_rows=batch_rows)
    planned = plan(subjects, text.tokens.shape[1], len(text.tokens), core)
    planned.say(shown=tools.shown)
    bar = Progress(name, int(text.real.sum()), shown=tools.shown)
    few = text.rows(slice(0, FEW_ROWS))  # whatever the batch is
    floors = untrained(subjects, few, planned.rows, tools.seed)
    every = features_of([*subjects, *floors], text, pooling, planned.rows, bar)
    bar.close()
    n = len(subjects)
    return list(zip(every[:n], floors, every[n:], strict=True))
