"""Where weights begin when an SAE may look at activations first: one function a way."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from saekit.core.errors import ConfigError
from saekit.core.stats.clusters import spherical_k_means
from saekit.core.stats.median import geometric_median
from saekit.saes._parts import Affine
from saekit.saes.base import Start

ROWS_PER_LATENT = 4  # activations that clusters are looked for in
MOST_ROWS = 2**17
ROUNDS = 10  # of k-means; directions hardly move after them
KEPT_VARIANCE = 0.95  # of the subspace that directions begin in


def rows_wanted(start: Start, d_in: int, d_sae: int) -> int:
    """Return how many of the first activations a way looks at, at most."""
    if start == "k_means":
        return min(ROWS_PER_LATENT * d_sae, max(MOST_ROWS, d_sae))
    return 32 * d_in


@torch.no_grad()
def begin(
    module: Affine,
    start: Start,
    x: Float[Tensor, "n d_in"],
    y: Float[Tensor, "n d_out"],
    generator: torch.Generator,
) -> None:
    """Set the weights of an SAE from activations, before its first step.

    Args:
        module: freshly initialised.
        start: which way; "random" leaves it as it is.
        x: what it reads, scaled as in training.
        y: what it predicts; `x` itself for an autoencoder.
        generator: decides every draw.

    Raises:
        ConfigError: there are too few activations.
    """
    WAYS[start](module, x, y, generator)


def _median(module: Affine, x: Tensor, y: Tensor, _generator: torch.Generator) -> None:
    """Predict the geometric median where no latent is on, and measure latents from it.

    Source:
        Gao et al. 2024, arXiv:2406.04093, appendix A.1.
    """
    module.b_dec.copy_(geometric_median(y))
    module.b_enc.sub_(geometric_median(x).to(module.W_enc) @ module.W_enc)


def _k_means(module: Affine, x: Tensor, y: Tensor, generator: torch.Generator) -> None:
    """Begin each latent at the mean direction of a cluster of activations.

    Spherical k-means over directions of `y`; a latent reads the mean direction of `x` over the
    same cluster. Lengths of encoder columns stay as initialised.

    Source:
        Dhillon & Modha 2001 (spherical k-means), Machine Learning 42. Differs: `ROUNDS` rounds.
    """
    d_sae = module.W_dec.shape[0]
    if len(y) < d_sae:
        raise ConfigError(
            f"`start` k_means needs at least one activation a latent, {d_sae:,}; the first rows of "
            f"the text have {len(y):,}. Give more text, fewer latents, or start=subspace."
        )
    centres, nearest, _ = spherical_k_means(normalize(y, dim=-1), d_sae, ROUNDS, generator)
    if x is y:
        reads = centres
    else:
        sums = torch.zeros(d_sae, x.shape[-1], device=x.device, dtype=x.dtype)
        sums.index_add_(0, nearest, normalize(x, dim=-1))
        own = module.W_enc.t() / module.W_enc.norm(dim=0)[:, None]
        reads = torch.where(sums.norm(dim=-1, keepdim=True) > 0, normalize(sums, dim=-1), own)
    _point(module, reads, centres)


def _subspace(module: Affine, x: Tensor, y: Tensor, generator: torch.Generator) -> None:
    """Begin with random directions inside the subspace that activations vary in.

    It is spanned by the fewest principal components that hold `KEPT_VARIANCE` of the variance.

    Source:
        arXiv:2508.16929 (active subspace initialisation). Differs: the rank is found by the share
        of variance.
    """
    read = _inside(module.W_enc.t(), x)
    write = read if x is y else _inside(module.W_dec, y)
    _point(module, read, write)


def _point(module: Affine, reads: Tensor, writes: Tensor) -> None:
    """Turn encoder columns and decoder rows to new directions; their lengths stay."""
    module.W_enc.copy_(normalize(reads, dim=-1).t() * module.W_enc.norm(dim=0))
    module.W_dec.copy_(normalize(writes, dim=-1) * module.W_dec.norm(dim=-1, keepdim=True))


def _inside(rows: Float[Tensor, "d_sae width"], acts: Float[Tensor, "n width"]) -> Tensor:
    """Return the rows' projections onto the subspace that activations vary in."""
    wide = acts.double()
    values, vectors = torch.linalg.eigh(torch.cov(wide.t()))  # the largest last
    share = values.clamp_min(0).flip(0).cumsum(0) / values.clamp_min(0).sum()
    rank = int((share < KEPT_VARIANCE).sum()) + 1
    basis = vectors[:, -rank:].to(rows)
    return rows @ basis @ basis.t()


def _as_drawn(_module: Affine, _x: Tensor, _y: Tensor, _generator: torch.Generator) -> None:
    """Leave the weights as they were drawn."""


WAYS: dict[Start, Callable[[Affine, Tensor, Tensor, torch.Generator], None]] = {
    "random": _as_drawn,
    "geometric_median": _median,
    "k_means": _k_means,
    "subspace": _subspace,
}
