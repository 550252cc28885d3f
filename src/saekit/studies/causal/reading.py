"""What texts look like at a site: one activation and one code a text, for SAEs and their floors."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from saekit.core import provenance
from saekit.core.errors import ConfigError
from saekit.core.progress import Progress
from saekit.evals._plan import plan
from saekit.evals.base import Subject, Tools
from saekit.evals.core import Core
from saekit.models.base import LanguageModel
from saekit.models.hf import HFModel
from saekit.studies.causal.dictionaries import Dictionary
from saekit.studies.faithful.coding import model_of
from saekit.studies.faithful.probing.features import check_memory, features_of, rows_of
from saekit.studies.faithful.sequences import Padded, Shape, held_out, ordinary_ids, shape_of
from saekit.studies.faithful.untrained import untrained

BILLION = 10**9
FEW_ROWS = 16  # that an untrained SAE is scaled by


class Read(NamedTuple):
    """Texts as an SAE's site has them, and the SAE and an untrained one as dictionaries of it."""

    x: Float[Tensor, "n d"]  # mean activation of each text
    own: Dictionary
    untrained: Dictionary


def one_site(subject: Subject) -> None:
    """Refuse an SAE that predicts another site than it reads: it adds nothing to what is probed.

    Raises:
        ConfigError: it does.
    """
    if subject.read != subject.write:
        raise ConfigError(
            f"{subject.name} reads {subject.read} and predicts {subject.write}; an intervention "
            f"on latents is measured of SAEs that predict the activation they read. Use core."
        )


def shape_for(lm: LanguageModel, tools: Tools, n_ctx: int) -> Shape:
    """Return how texts become rows: as the SAE's own text does, `n_ctx` tokens if it is not 0.

    Raises:
        ConfigError: the model reads no such rows.
        DataError: there is no row of held-out text.
    """
    shape = shape_of(held_out(tools, 8), lm)
    shape = shape._replace(n_ctx=n_ctx or shape.n_ctx)
    if shape.n_ctx > lm.n_ctx_max:
        raise ConfigError(
            f"Texts have up to {shape.n_ctx} tokens; {lm.name} reads {lm.n_ctx_max} at most. "
            f"Set n_ctx."
        )
    return shape


def padded(texts: Sequence[str], lm: LanguageModel, shape: Shape) -> Padded:
    """Return texts as rows of tokens."""
    filler = int(ordinary_ids(lm.tokenizer, lm.vocab_size)[0])
    return rows_of(texts, lm, shape, filler)


def read_texts(
    subjects: Sequence[Subject], texts: Sequence[str], shape: Shape, tools: Tools, batch_rows: int
) -> list[Read]:
    """Return texts as each SAE and an untrained one in its place have them: one pass for all.

    Args:
        subjects: SAEs of one language model.
        texts: in any order.
        shape: how texts become rows.
        tools: of the evaluation.
        batch_rows: the most texts of a pass.

    Raises:
        DataError: activations are not finite, or the rules leave no token of the first texts.
        ResourceError: the codes do not fit in memory.
    """
    rows = padded(texts, model_of(subjects), shape)
    core = Core(ce_tokens=0, batch_rows=batch_rows)
    planned = plan(subjects, rows.tokens.shape[1], len(texts), core)
    planned.say(shown=tools.shown)
    check_memory(subjects, len(texts))
    bar = Progress("texts", int(rows.real.sum()), shown=tools.shown)
    few = rows.rows(slice(0, FEW_ROWS))  # whatever the batch is
    floors = untrained(subjects, few, planned.rows, tools.seed)
    every = features_of([*subjects, *floors], rows, "mean", planned.rows, bar)
    bar.close()
    n, found = len(subjects), []
    for subject, floor, own, other in zip(subjects, floors, every[:n], every[n:], strict=True):
        mine, theirs = (s.sae.directions().detach().float().cpu() for s in (subject, floor))
        found.append(Read(own.baseline, Dictionary(own.sae, mine), Dictionary(other.sae, theirs)))
    return found


def about_parameters(lm: LanguageModel) -> int:
    """Return how many weights a model has; if it does not tell, 12 d² a layer and an embedding."""
    if isinstance(lm, HFModel):
        return sum(p.numel() for p in lm.module.parameters())
    return 12 * lm.n_layers * lm.d_model**2 + lm.vocab_size * lm.d_model


def too_small(subject: Subject, what: str) -> tuple[str, ...]:
    """Return a caution where a model is below a billion weights.

    Args:
        subject: what is evaluated.
        what: what such models can hardly do.
    """
    lm = subject.lm
    n = BILLION if lm is None else about_parameters(lm)
    if n >= BILLION:
        return ()
    return (
        f"The model has about {n / 1e6:.0f} million weights; below a billion it can hardly {what}, "
        f"and numbers lie near their floors for every SAE.",
    )


def too_narrow(subject: Subject, latents: int, share: float = 0.05) -> tuple[str, ...]:
    """Return a caution where the largest number of latents is a large share of the dictionary."""
    d_sae = subject.sae.cfg.d_sae
    if latents <= share * d_sae:
        return ()
    return (
        f"{min(latents, d_sae):,} of {d_sae:,} latents are "
        f"{min(latents, d_sae) / d_sae:.0%} of the dictionary; over {share:.0%} a choice of "
        f"latents is hardly one. Read the scores of fewer.",
    )


def made_from(subject: Subject, seed: int, notes: Sequence[str], began: float) -> dict[str, Any]:
    """Return what the numbers of a subject came from, and how long they took."""
    return provenance.collect(seed) | {
        "subject": subject.name,
        "sae": subject.sae.cfg.to_dict(),
        "model": None if subject.lm is None else subject.lm.provenance(),
        "site": str(subject.read),
        "notes": list(notes),
        "seconds": round(time.monotonic() - began, 3),
    }
