"""Pieces that several architectures are made of: functions on tensors, one formula each."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from saekit.core.codes import Codes
from saekit.core.errors import ConfigError
from saekit.core.processes import ALONE, Mesh
from saekit.kernels import choose, shared, sparse
from saekit.saes.base import Scaling

DRAWN_ROWS = 4096  # at once, where few are kept; sixteens of numbers are drawn as one
SHORT_ROWS = 0.1  # where half the latents are on at the start, rows this short keep sums in range


@runtime_checkable
class Affine(Protocol):
    """What the functions below read and rewrite: the weights most architectures have."""

    W_enc: nn.Parameter  # [d_in, d_sae]
    W_dec: nn.Parameter  # [d_sae, d_out]
    b_enc: nn.Parameter  # [d_sae]
    b_dec: nn.Parameter  # [d_out]


def tied_init(
    module: nn.Module,
    d_in: int,
    d_out: int,
    d_sae: int,
    generator: torch.Generator,
    mesh: Mesh = ALONE,
) -> None:
    """Give `module` W_enc, W_dec, b_enc and b_dec: random unit directions, zero biases.

    For an autoencoder the encoder starts as the decoder's transpose; for a transcoder,
    whose widths differ in meaning, the two are independent. Of latents that a mesh shares,
    those of this process.

    Source:
        Gao et al. 2024, arXiv:2406.04093, appendix A.1 (tied initialisation).
    """
    W_dec = _directions(d_sae, d_out, generator, mesh)
    read = W_dec.clone() if d_in == d_out else None
    if read is None:
        read = _directions(d_sae, d_in, generator, mesh)
    module.W_enc = nn.Parameter(read.t())  # latent-major: see _sparse
    module.W_dec = nn.Parameter(W_dec)
    module.b_enc = nn.Parameter(torch.zeros(len(W_dec)))
    module.b_dec = nn.Parameter(torch.zeros(d_out))


def _directions(
    d_sae: int, width: int, generator: torch.Generator, mesh: Mesh
) -> Float[Tensor, "part width"]:
    """Return the rows of this process of `d_sae` random unit rows; all are drawn."""
    if torch.get_default_device().type == "meta":  # for sizes alone; to draw loads a compiler
        return torch.empty(d_sae, width)
    if mesh.latent.size == 1:
        return normalize(torch.randn(d_sae, width, generator=generator), dim=-1)
    own = mesh.latent.share(d_sae)
    rows = torch.empty(own.stop - own.start, width)
    first = 0
    while first < d_sae:  # the last part takes the rest: fewer than 16 are drawn otherwise
        last = d_sae if d_sae - first < 2 * DRAWN_ROWS else first + DRAWN_ROWS
        drawn = torch.randn(last - first, width, generator=generator)
        begin, end = max(first, own.start), min(last, own.stop)
        if begin < end:
            rows[begin - own.start : end - own.start] = drawn[begin - first : end - first]
        first = last
    return normalize(rows, dim=-1)


def check_k(name: str, k: float, d_sae: int) -> None:
    """Refuse to keep more latents than there are.

    Raises:
        ConfigError: it is.
    """
    if k > d_sae:
        raise ConfigError(
            f"`{name}` must be at most `d_sae`; got {name}={k}, d_sae={d_sae}. Lower `{name}` or "
            f"widen the SAE."
        )


def check_annealing(start_k: float | None, anneal: float, d_sae: int) -> None:
    """Refuse a start above d_sae, and one without a time in which it ends, or the reverse.

    Raises:
        ConfigError: there are too few latents, or one of the two settings is missing.
    """
    if start_k is not None:
        check_k("start_k", start_k, d_sae)
    if (start_k is None) != (anneal == 0):
        raise ConfigError(
            f"`start_k` and `anneal` go together; got start_k={start_k}, anneal={anneal}. Set "
            f"`anneal` to the share of training over which `start_k` becomes `k`, or neither."
        )


def annealed(k: float, start_k: float | None, share: float, progress: float) -> float:
    """Return how many latents are kept when so much of training is done."""
    if start_k is None:
        return k
    return start_k + (k - start_k) * ramp(progress, share)


def mse(y_hat: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean squared error per token and dimension, whatever the batch size.

    NaN of no tokens, as a mean of nothing is.
    """
    return mse_loss(y_hat, y)


def encode_above(
    module: Affine, x: Float[Tensor, "..."], threshold: Float[Tensor, "*d_sae"]
) -> Codes:
    """Return the codes of a module whose latents are on strictly above a threshold."""
    flat, batch = sparse.flat_rows(x)
    chosen = choose.above(flat, module.W_enc, module.b_enc, threshold)
    pre = sparse.pre_acts(flat, module.W_enc, module.b_enc, chosen)
    return chosen._replace(values=pre, batch=batch)


@torch.no_grad()
def only_above(
    module: Affine,
    x: Float[Tensor, "..."],
    threshold: Float[Tensor, "*d_sae"],
    latents: Int[Tensor, "m"],
) -> Float[Tensor, "*batch m"]:
    """Return the activations of some latents that are on strictly above a threshold."""
    sparse.check_rows(x)
    pre = x @ module.W_enc[:, latents] + module.b_enc[latents]
    return pre * (pre > threshold.expand(len(module.b_enc))[latents])


def decode(module: Affine, acts: Codes, mesh: Mesh = ALONE) -> Float[Tensor, "..."]:
    """Return ``acts @ W_dec + b_dec``, in the leading shape of the codes."""
    y_hat = mesh.latent.joined(sparse.decode(acts, module.W_dec)) + module.b_dec
    return y_hat.view(*acts.batch, len(module.b_dec))


def decode_levels(
    module: Affine, acts: Codes, level: Int[Tensor, "nnz"], n_levels: int
) -> Float[Tensor, "n n_levels d_out"]:
    """Return the predictions of the first, the first two, ... of `n_levels` groups of entries.

    Costs one decode. Entries of a row must be sorted by level.
    """
    place = acts.rows() * n_levels + level
    counts = torch.bincount(place, minlength=acts.n_rows * n_levels)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    split = acts._replace(starts=starts, batch=(acts.n_rows * n_levels,))
    parts = sparse.decode(split, module.W_dec).view(acts.n_rows, n_levels, len(module.b_dec))
    return parts.cumsum(1) + module.b_dec


@torch.no_grad()
def project_out(weight: nn.Parameter) -> None:
    """Remove from the gradient of unit rows the part that would only change their length."""
    if weight.grad is not None:
        for grad, rows in zip(_chunks(weight.grad), _chunks(weight), strict=True):
            grad.addcmul_((grad * rows).sum(-1, keepdim=True), rows, value=-1)


@torch.no_grad()
def unit_rows(weight: nn.Parameter) -> None:
    """Scale each row to length 1."""
    for rows in _chunks(weight):
        rows.div_(rows.norm(dim=-1, keepdim=True).clamp_min(1e-12))


def _chunks(weight: Tensor) -> tuple[Tensor, ...]:
    """Return rows in parts that stay in a CPU's cache; all at once elsewhere."""
    return weight.split(512 if weight.device.type == "cpu" else max(len(weight), 1))


def aux_k(
    module: Affine,
    x: Float[Tensor, "n d_in"],
    err: Float[Tensor, "n d_out"],
    dead: Bool[Tensor, "d_sae"],
    k: int | None,
    *,
    signed: bool = False,
    mesh: Mesh = ALONE,
) -> Float[Tensor, ""]:
    """Return how badly the k best dead latents predict what the living ones missed.

    With e = y - y_hat held fixed and e_hat the prediction of e from the k largest
    pre-activations among dead latents (without b_dec):

        sum |e - e_hat|^2 / sum |e|^2

    so that the term is 1 when they predict nothing, whatever the units. 0 where no latent
    is dead. Where k is None it is half of d_in. Negative pre-activations count as 0, or, where
    latents are `signed`, by their size.

    Source:
        Gao et al. 2024, arXiv:2406.04093, appendix A.2.
        Differs: a ratio of sums over the batch, not a mean of ratios.
    """
    index = dead.nonzero().squeeze(-1)
    n_dead = mesh.latent.gather(torch.tensor(len(index), device=err.device)).tolist()
    if not sum(n_dead):
        return err.new_zeros(())
    target, k = -err.detach(), k or max(x.shape[-1] // 2, 1)
    # Not by indexing: the gradient of that is written by one thread.
    W_enc = module.W_enc.t().index_select(0, index).t()
    W_dec, b_enc = (p.index_select(0, index) for p in (module.W_dec, module.b_enc))
    chosen = shared.top_latents(
        x, W_enc, b_enc, min(k, sum(n_dead)), mesh.latent, n_dead, by_size=signed
    )
    if len(index):
        values = sparse.pre_acts(x, W_enc, b_enc, chosen)
        chosen = chosen._replace(values=values if signed else values.relu())
        part = sparse.decode(chosen, W_dec)
    else:
        part = torch.zeros_like(target)  # the dead latents are all of other processes
    e_hat = mesh.latent.joined(part)
    missed, all_of_it = mesh.data.averaged(
        torch.stack([(e_hat - target).square().sum(), target.square().sum()])
    )
    return missed / all_of_it.clamp_min(1e-30)


@torch.no_grad()
def to_raw_units(module: Affine, x: Scaling, y: Scaling) -> None:
    """Rewrite the weights of an SAE of scaled activations into one of raw ones.

    With acts' = acts / x.scale, the pre-activations of raw x are x @ W_enc' plus a bias,
    where W_enc' = x.matrix @ W_enc; and y_hat' = y_hat @ inverse(y.matrix) / y.scale + y.mean.
    """
    if x.matrix is not None:
        module.W_enc.copy_(x.matrix.to(module.W_enc) @ module.W_enc)
    module.b_enc.div_(x.scale).sub_(x.mean.to(module.b_enc) @ module.W_enc)
    module.W_dec.mul_(x.scale / y.scale)
    module.b_dec.div_(y.scale)
    if y.matrix is not None:
        inverse = torch.linalg.inv(y.matrix.double()).to(module.W_dec)
        module.W_dec.copy_(module.W_dec @ inverse)
        module.b_dec.copy_(module.b_dec @ inverse)
    module.b_dec.add_(y.mean.to(module.b_dec))


def lp_norm(acts: Codes, W_dec: Float[Tensor, "d_sae d_out"], p: float) -> Float[Tensor, ""]:
    """Return the mean over tokens of ``(sum_i (acts_i |W_dec[i]|)^p)^(1/p)``; acts at least 0."""
    sizes = acts.values * W_dec.norm(dim=-1)[acts.latents]
    if p == 1:
        return sizes.sum() / max(acts.n_rows, 1)
    powers = sizes.clamp_min(1e-12).pow(p)  # the slope at 0 is infinite for p < 1
    sums = powers.new_zeros(acts.n_rows).index_add(0, acts.rows(), powers)
    return sums[sums > 0].pow(1 / p).sum() / max(acts.n_rows, 1)


def add(terms: dict[str, Tensor]) -> Float[Tensor, ""]:
    """Return the sum of loss terms that are already weighted."""
    return torch.stack(list(terms.values())).sum()


def ramp(progress: float, share: float) -> float:
    """Return how far a coefficient has warmed up: 0 at the start, 1 after `share` of training."""
    return 1.0 if share == 0 else min(progress / share, 1.0)
