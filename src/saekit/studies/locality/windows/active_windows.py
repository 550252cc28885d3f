"""Which windows have enough active latents at their last position, at every site of a run."""

from collections.abc import Sequence

import torch
from torch import Tensor

from saekit.core.errors import SaekitError
from saekit.models.base import LanguageModel
from saekit.models.sites import Site
from saekit.studies.locality.influence.base import check_reads
from saekit.studies.locality.influence.latent_gradient import Encoder
from saekit.studies.locality.influence.pullback import Windows, read_at
from saekit.studies.locality.runs.measure import Measure
from saekit.studies.locality.runs.subjects import Subject
from saekit.studies.locality.windows.drawing import Late


def check(lm: LanguageModel, subjects: Sequence[Subject], how: Measure, least: int) -> Late | None:
    """Return what tells why windows are refused; None where any number of latents will do.

    A window is refused where fewer than `least` latents are above the threshold at its last
    position, at any site. An SAE that does not load and a window that cannot be read refuse
    nothing: the run, which tries them again, reports them.

    Args:
        lm: the model.
        subjects: the SAEs and their sites.
        how: threshold and encode.
        least: active latents wanted; 0 asks for none.
    """
    if not least:
        return None

    def refused(tokens: Tensor) -> list[str | None]:
        reasons: list[str | None] = [None] * len(tokens)
        for subject in subjects:
            try:
                sae, forgets = subject.load()
                check_reads(lm, sae, subject.site)
                encoder = Encoder(sae, forgets if how.legacy_encode else ())
            except (SaekitError, OSError, RuntimeError):
                continue
            left = [i for i, reason in enumerate(reasons) if reason is None]
            for i, n in zip(
                left, _counts(lm, encoder, subject.site, tokens[left], how.threshold), strict=True
            ):
                if n is not None and n < least:
                    reasons[i] = f"fewer than {least} active latents at {subject.site}"
        return reasons

    return refused


def _counts(
    lm: LanguageModel, encoder: Encoder, site: Site, tokens: Tensor, threshold: float
) -> list[int | None]:
    """Return how many latents are active at the end of each window; None where it fails."""
    if not len(tokens):
        return []
    try:
        x = read_at(lm, Windows(tokens, torch.full((len(tokens),), tokens.shape[1] - 1)), [site])
        fired = encoder.active(x, threshold)
    except (SaekitError, RuntimeError):
        if len(tokens) == 1:
            return [None]
        each = [_counts(lm, encoder, site, one[None], threshold) for one in tokens]
        return [n for (n,) in each]
    return [int(n) for n in torch.bincount(fired.row, minlength=len(tokens))]
