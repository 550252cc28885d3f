"""Changes of latents inside the model, token by token, and what the model then loses."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.codes import Codes, is_on
from saekit.core.progress import Progress
from saekit.evals import _predictions
from saekit.evals._reconstruction import float32_on
from saekit.evals._replacing import logits_in_parts
from saekit.evals.base import Subject
from saekit.models.base import LanguageModel, Replace
from saekit.models.sites import Site
from saekit.saes.base import SAE
from saekit.studies.faithful.coding import model_of
from saekit.studies.faithful.sequences import Padded

# Tokens of a pass, and which are no padding -> what is written.
Change = Callable[[Int[Tensor, "batch n"], Bool[Tensor, "batch n"]], Mapping[Site, Replace]]
# What is changed of the activations at tokens that the SAE's rules keep.
Kept = Callable[[Float[Tensor, "m d"]], Float[Tensor, "m d"]]


class Placed(NamedTuple):
    """An SAE in float32 where its model is."""

    subject: Subject
    sae: SAE
    directions: Float[Tensor, "d_sae d"]

    @staticmethod
    def of(subject: Subject) -> "Placed":
        """Return the SAE of a subject, moved there."""
        sae = float32_on(subject.sae, model_of([subject]).device)
        return Placed(subject, sae, sae.directions().detach())

    def change(self, kept: Kept) -> Change:
        """Return a change of what the SAE's rules keep; other tokens stay as they are."""
        subject = self.subject

        def changes(tokens: Tensor, real: Tensor) -> Mapping[Site, Replace]:
            def replace(x: Tensor) -> Tensor:
                keep = subject.rule.keep(tokens.to(x.device), x) & real.to(x.device)
                out = x.clone()
                out[keep] = kept(x[keep].float()).to(x.dtype)
                return out

            return {subject.read: replace}

        return changes

    def clamped(self, latents: Int[Tensor, "k"], values: Float[Tensor, "k"]) -> Change:
        """Return a change that sets latents to values wherever they are on, the error kept."""
        latents, values = latents.to(self.directions.device), values.to(self.directions)
        directions = self.directions[latents]

        def kept(x: Tensor) -> Tensor:
            acts = self.sae.encode_only(x, latents)
            return x + torch.where(is_on(acts), values - acts, 0.0) @ directions

        return self.change(kept)

    def all_off(self) -> Change:
        """Return a change that takes out what all latents add, the error kept."""

        def kept(x: Tensor) -> Tensor:
            codes = self.sae.encode(x)
            return x - (self.sae.decode(codes) - self.sae.decode(_silent(codes)))

        return self.change(kept)

    def nothing(self) -> Change:
        """Return a change to what the SAE predicts with no latent on."""
        return self.change(lambda x: self.sae.decode(_silent(self.sae.encode(x))))


def _silent(codes: Codes) -> Codes:
    return codes._replace(values=torch.zeros_like(codes.values))


@contextlib.contextmanager
def attached(lm: LanguageModel, change: Change | None) -> Iterator[None]:
    """A block in which every pass of the model, its generation too, is changed."""
    if change is None:
        yield
        return
    own, before = _Attached(change), lm.edits
    lm.edits = (*before, own)
    try:
        yield
    finally:
        lm.edits = before


class _Attached:
    """What a model holds of a change that is in effect."""

    def __init__(self, change: Change):
        self._change = change

    def changes(self, tokens: Tensor, start: int = 0) -> Sequence[Mapping[Site, Replace]]:
        return [self._change(tokens, torch.ones_like(tokens, dtype=torch.bool))]


@torch.no_grad()
def losses(
    lm: LanguageModel,
    rows: Padded,
    change: Change | None,
    special_ids: tuple[int, ...],
    batch_rows: int,
    bar: Progress,
) -> Float[Tensor, "n"]:
    """Return the mean loss of each text's tokens, nats; NaN of one without a token to predict.

    Args:
        lm: the language model.
        rows: texts.
        change: what is written in the passes; None: nothing.
        special_ids: tokens whose prediction is not scored.
        batch_rows: texts of a pass.
        bar: counts tokens.
    """
    found = torch.full((len(rows.tokens),), torch.nan, dtype=torch.float64)
    for some, tokens, real, scored in _batches(lm, rows, special_ids, batch_rows, bar):
        final = lm.final(tokens, change(tokens, real) if change else None)
        pieces = logits_in_parts(lm, tokens, scored, final)
        each = torch.cat(
            [_predictions.losses(logits, t) for t, (logits,) in pieces] or [final[:0, 0, 0]]
        )
        found[some] = _by_text(each, scored)
    return found


@torch.no_grad()
def reach(placed: Placed, rows: Padded, batch_rows: int, bar: Progress) -> float | None:
    r"""Return how far switching off every latent goes towards a prediction without any of them.

    .. math:: 1 - \frac{KL(nothing | off)}{KL(nothing | clean)}

    The error of the SAE stays when its latents are off, so 1 is an SAE without error; what stays
    in the error no change of latents can move. None where the model does not use the site.

    Args:
        placed: the SAE.
        rows: texts.
        batch_rows: texts of a pass.
        bar: counts tokens.
    """
    lm = model_of([placed.subject])
    special = placed.subject.rule.special_ids
    off, away = 0.0, 0.0
    for _, tokens, real, scored in _batches(lm, rows, special, batch_rows, bar):
        finals = [
            lm.final(tokens, change(tokens, real) if change else None)
            for change in (placed.nothing(), placed.all_off(), None)
        ]
        for targets, (base, out, clean) in logits_in_parts(lm, tokens, scored, *finals):
            off += float(_predictions.against(base, out, targets).kl.double().sum())
            away += float(_predictions.against(base, clean, targets).kl.double().sum())
    return 1 - off / away if away > 0 else None


def _batches(
    lm: LanguageModel, rows: Padded, special_ids: tuple[int, ...], size: int, bar: Progress
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield which texts, their tokens, which are real, and from which something is predicted."""
    order = rows.real.sum(1).argsort(stable=True)
    for first in range(0, len(order), size):
        some = order[first : first + size]
        part = Padded(rows.tokens[some], rows.real[some]).rows(slice(0, len(some)))
        tokens, real = part.tokens.to(lm.device), part.real.to(lm.device)
        scored = _predictions.scored(tokens, special_ids)
        scored[:, :-1] &= real[:, 1:]
        yield some, tokens, real, scored
        bar.add(tokens.numel())


def _by_text(each: Float[Tensor, "m"], scored: Bool[Tensor, "batch n"]) -> Float[Tensor, "batch"]:
    which = scored.nonzero()[:, 0].cpu()
    sums = torch.zeros(len(scored), dtype=torch.float64)
    sums.index_add_(0, which, each.double().cpu())
    return sums / scored.sum(1).cpu()
