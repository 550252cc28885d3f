"""The floor of what an SAE found: an untrained one that is as wide and as sparse."""

from collections.abc import Sequence
from typing import Any

from saekit.core.errors import DataError
from saekit.core.progress import Progress
from saekit.core.seeds import generator
from saekit.evals.base import Subject
from saekit.saes.base import SAE
from saekit.saes.topk import TopK
from saekit.studies.faithful.coding import Coded, coded
from saekit.studies.faithful.sequences import Padded
from saekit.training.scaling import ScalingSums


def untrained(
    subjects: Sequence[Subject], few: Padded, batch_rows: int, seed: int
) -> list[Subject]:
    """Return an untrained TopK in the place of each SAE: as wide, as many latents on per token.

    SAEs of one site that agree in both have the same one. Inputs are brought to the mean and size
    that training brings them to.

    Args:
        subjects: SAEs of one language model.
        few: some rows of text, the same whatever the batch, which a floor must not depend on.
        batch_rows: rows of a pass.
        seed: of the weights.

    Raises:
        DataError: the SAE's rules leave no token of these rows.
    """
    silent = Progress("", None, shown=False)
    batches = [each for _, each in coded(subjects, few, batch_rows, silent)]
    made: dict[Any, SAE] = {}
    found = []
    for subject, *parts in zip(subjects, *batches, strict=True):
        cfg = _as_sparse(subject, parts)
        key = (cfg, subject.ways)
        if key not in made:
            made[key] = _built(subject, cfg, parts, seed)
        found.append(subject._replace(sae=made[key], name=f"{subject.name}, untrained"))
    return found


def _as_sparse(subject: Subject, parts: Sequence[Coded]) -> TopK:
    n = sum(len(part.x) for part in parts)
    if not n:
        raise DataError("The SAE's rules leave no token of the first rows. Give other text.")
    cfg = subject.sae.cfg
    l0 = sum(part.l0 * len(part.x) for part in parts) / n
    k = min(max(round(l0), 1), cfg.d_sae)
    return TopK(d_in=cfg.d_in, d_out=cfg.d_out, d_sae=cfg.d_sae, k=k)


def _built(subject: Subject, plain: TopK, parts: Sequence[Coded], seed: int) -> SAE:
    sae = plain.build(generator(seed, "untrained"))
    sums = ScalingSums(subject.read == subject.write, plain, "scale", "mean")
    for part in parts:
        sums.add(part.x.cpu(), part.y.cpu())
    scalings = sums.scalings()
    sae.rescale(scalings.x, scalings.y)
    return sae
