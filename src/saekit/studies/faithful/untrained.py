"""The floor of what an SAE found: an untrained one that is as wide and as sparse."""

from collections.abc import Sequence

from saekit.core.errors import DataError
from saekit.core.progress import Progress
from saekit.core.seeds import generator
from saekit.evals.base import Subject
from saekit.saes.topk import TopK
from saekit.studies.faithful.coding import Coded, coded
from saekit.studies.faithful.sequences import Padded
from saekit.training.scaling import ScalingSums


def untrained(subjects: Sequence[Subject], few: Padded, seed: int) -> list[Subject]:
    """Return an untrained TopK in the place of each SAE: as wide, as many latents on per token.

    Inputs are brought to the mean and size that training brings them to.

    Args:
        subjects: SAEs of one language model.
        few: some rows of text, read in one pass.
        seed: of the weights.

    Raises:
        DataError: the SAE's rules leave no token of these rows.
    """
    silent = Progress("", None, shown=False)
    [(_, each)] = coded(subjects, few, len(few.tokens), silent)
    return [_untrained(subject, found, seed) for subject, found in zip(subjects, each, strict=True)]


def _untrained(subject: Subject, found: Coded, seed: int) -> Subject:
    if not len(found.x):
        raise DataError("The SAE's rules leave no token of the first rows. Give other text.")
    cfg = subject.sae.cfg
    k = min(max(round(found.l0), 1), cfg.d_sae)
    plain = TopK(d_in=cfg.d_in, d_out=cfg.d_out, d_sae=cfg.d_sae, k=k)
    sae = plain.build(generator(seed, "untrained"))
    sums = ScalingSums(subject.read == subject.write, plain, "scale", "mean")
    sums.add(found.x.cpu(), found.y.cpu())
    scalings = sums.scalings()
    sae.rescale(scalings.x, scalings.y)
    return subject._replace(sae=sae, name=f"{subject.name}, untrained")
