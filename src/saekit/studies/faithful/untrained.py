"""The floor of what an SAE found: an untrained one that is as wide and as sparse."""

import torch
from jaxtyping import Float

from saekit.core.errors import DataError
from saekit.core.seeds import generator
from saekit.evals.base import Subject
from saekit.saes.topk import TopK
from saekit.training.scaling import ScalingSums


def untrained(
    subject: Subject,
    l0: float,
    x: Float[torch.Tensor, "n d_in"],
    y: Float[torch.Tensor, "n d_out"],
    seed: int,
) -> Subject:
    """Return an untrained TopK in the place of an SAE: as wide, with as many latents on per token.

    Args:
        subject: the SAE.
        l0: latents that it has on per token.
        x: some activations that it reads, by which inputs are brought to the size of training.
        y: and what it predicts from them.
        seed: of the weights.

    Raises:
        DataError: there are too few activations.
    """
    if not len(x):
        raise DataError("The SAE's rules leave no token of the first rows. Give other text.")
    cfg = subject.sae.cfg
    k = min(max(round(l0), 1), cfg.d_sae)
    plain = TopK(d_in=cfg.d_in, d_out=cfg.d_out, d_sae=cfg.d_sae, k=k)
    sae = plain.build(generator(seed, "untrained"))
    sums = ScalingSums(subject.read == subject.write, plain, "scale", "mean")
    sums.add(x.cpu(), y.cpu())
    scalings = sums.scalings()
    sae.rescale(scalings.x, scalings.y)
    return subject._replace(sae=sae, name=f"{subject.name}, untrained")
