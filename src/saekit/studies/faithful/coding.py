"""What SAEs make of sequences: codes of the tokens that their rules keep, read once for all."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.codes import Codes
from saekit.core.finite import check_finite
from saekit.core.progress import Progress
from saekit.evals._reconstruction import float32_on
from saekit.evals.base import Subject, check_weights
from saekit.models.base import LanguageModel
from saekit.saes.base import SAE
from saekit.studies.faithful.sequences import Padded


def model_of(subjects: Sequence[Subject]) -> LanguageModel:
    """Return the language model that SAEs stand in."""
    lm = subjects[0].lm
    assert lm is not None  # `check` of the evaluation refuses it
    return lm


def saes_of(subjects: Sequence[Subject]) -> list[SAE]:
    """Return SAEs in single precision on the device of their language model.

    Raises:
        DataError: a weight is not finite. Codes of such an SAE may look like codes of dead latents.
    """
    for subject in subjects:
        check_weights(subject)
    return [float32_on(s.sae, model_of(subjects).device) for s in subjects]


def distinct(subjects: Sequence[Subject]) -> tuple[list[Subject], list[int]]:
    """Return the subjects that read text differently, and for each which of them it is.

    SAEs that are as wide and as sparse have one floor, whose codes are then made once.
    """
    found: dict[Any, int] = {}
    some, which = [], []
    for one in subjects:
        key = (id(one.sae), one.ways)
        if key not in found:
            found[key] = len(some)
            some.append(one)
        which.append(found[key])
    return some, which


class Coded(NamedTuple):
    """Codes of the tokens of some sequences that the rules of an SAE keep."""

    codes: Codes
    sequence: Int[Tensor, "tokens"]  # which sequence each token is of, from 0
    x: Float[Tensor, "tokens d_in"]
    y: Float[Tensor, "tokens d_out"]

    @property
    def l0(self) -> float:
        """Latents on per token."""
        return int((self.codes.values != 0).sum()) / max(self.codes.n_rows, 1)


@torch.no_grad()
def coded(
    subjects: Sequence[Subject], text: Padded, batch_rows: int, bar: Progress
) -> Iterator[tuple[int, list[Coded]]]:
    """Yield the number of a batch's first sequence, and its codes under each SAE.

    The model reads each sequence once, for all SAEs.

    Args:
        subjects: SAEs of one language model.
        text: sequences.
        batch_rows: sequences of a pass.
        bar: counts their tokens, without padding.

    Raises:
        DataError: activations are not finite.
    """
    lm = model_of(subjects)
    subjects, places = distinct(subjects)
    saes = saes_of(subjects)
    sites = list(dict.fromkeys(site for s in subjects for site in (s.read, s.write)))
    for first in range(0, len(text.tokens), batch_rows):
        part = text.rows(slice(first, first + batch_rows))
        tokens, real = part.tokens.to(lm.device), part.real.to(lm.device)
        acts = lm.read(tokens, sites)
        check_finite(acts, first)
        which = torch.arange(len(tokens), device=lm.device)[:, None].expand_as(tokens)
        found = []
        for subject, sae in zip(subjects, saes, strict=True):
            keep = subject.rule.keep(tokens, acts[subject.read]) & real
            if subject.write_rule is not None:
                keep &= subject.write_rule.keep(tokens, acts[subject.write])
            x, y = acts[subject.read][keep].float(), acts[subject.write][keep].float()
            found.append(Coded(sae.encode(x), which[keep], x, y))
        yield first, [found[place] for place in places]
        bar.add(int(real.sum()))
