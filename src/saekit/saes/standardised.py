"""Standardised: an architecture that reads each token at mean 0 and variance 1."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.errors import ConfigError
from saekit.kernels import sparse
from saekit.saes._affine import AffineSAE, AuxKConfig
from saekit.saes._wrapped import WrappedConfig, WrappedSAE
from saekit.saes.base import Loss, Scaling, Step, registry
from saekit.saes.topk import TopK

EPSILON = 1e-5  # added to a token's deviation, as in layer norms and in the sources


class _Token(NamedTuple):
    """A token at mean 0 and variance 1, and what it was before."""

    z: Float[Tensor, "n d_in"]
    mean: Float[Tensor, "n 1"]  # over dimensions, act units
    deviation: Float[Tensor, "n 1"]  # what divided it, act units, above 0
    size: Float[Tensor, "n 1"]  # what multiplies a prediction, act units


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Standardised(WrappedConfig):
    """Another architecture that is given each token at mean 0 and variance 1.

    z = (x - mean(x)) / (std(x) + 1e-5);  y_hat = inner(z) * (std(x) + 1e-5) + mean(x)

    Mean and standard deviation (with n - 1) are over the dimensions of one token, so layers
    whose activations have different sizes can share an SAE, and massive tokens count as
    others do. The loss is that of the inner architecture on z. Codes are in act units: those
    of z times the size that is put back.

    Args:
        by: "std" as above; "rms": z = x / rms(x) with rms(x)^2 the mean square over dimensions,
            no mean taken off and nothing added.
        inverse: "exact" puts back what divided; "published" multiplies by std(x) alone, as
            SAELens and MLSAE do, whose weights are read so.
        bias: "two": the inner architecture learns b_enc and b_dec apart; "shared": one bias,
            taken off before encoding and added after decoding, as MLSAE has it: b_enc is held
            at -b_dec @ W_enc. For inner architectures that choose latents by rank.

    Raises:
        ConfigError: the inner architecture has other sizes, or codes several sites jointly;
            or d_out is not d_in; or the bias is shared and latents are not chosen by rank.

    Source:
        Lawson et al. 2024, arXiv:2409.04185, section 3; SAELens, "layer_norm" inputs
        ("std") and "constant_norm_rescale" ("rms").
        Differs: the same size divides and multiplies unless "published"; activations in act
        units.
    """

    name: ClassVar[str] = "standardised"
    by: Literal["std", "rms"] = "std"
    inverse: Literal["exact", "published"] = "exact"
    bias: Literal["two", "shared"] = "two"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_in != self.d_out:
            raise ConfigError(
                f"`standardised` puts back the mean and size of what it reads; got "
                f"d_in={self.d_in}, d_out={self.d_out}. It cannot be a transcoder."
            )
        if self.bias == "shared" and not isinstance(self.inner, AuxKConfig):
            raise ConfigError(
                f"A shared bias is for architectures that choose latents by rank, as topk; got "
                f'`{self.inner.name}`. Set `bias` to "two", or use another.'
            )

    @classmethod
    @override
    def example(cls) -> "Standardised":
        return cls(d_in=8, d_out=8, d_sae=16, inner=TopK.example())

    @override
    def build(self, generator: torch.Generator) -> "StandardisedSAE":
        return StandardisedSAE(self, generator)


@final
class StandardisedSAE(WrappedSAE):
    """The SAE that `Standardised` wraps, and the frame of raw activations."""

    cfg: Standardised
    centre: Tensor  # [d_in], act units: subtracted before a token is standardised
    epsilon: Tensor  # act units
    gain: Tensor  # output units per input unit; 1 until rescaled
    b_out: Tensor  # [d_out], act units: added to every prediction

    def __init__(self, cfg: Standardised, generator: torch.Generator):
        super().__init__(cfg, generator)
        added = EPSILON if cfg.by == "std" else 0.0
        self.register_buffer("centre", torch.zeros(cfg.d_in))
        self.register_buffer("epsilon", torch.tensor(added, dtype=torch.float64))
        self.register_buffer("gain", torch.ones((), dtype=torch.float64))
        self.register_buffer("b_out", torch.zeros(cfg.d_out))

    def _biased(self) -> AffineSAE | None:
        """Return the inner SAE where its two biases are one."""
        inner = self.inner
        return inner if self.cfg.bias == "shared" and isinstance(inner, AffineSAE) else None

    @override
    @torch.no_grad()
    def before_step(self) -> None:
        inner = self._biased()
        if inner is not None and inner.b_enc.grad is not None:
            # b_enc is -b_dec @ W_enc, so its gradient belongs to these two: the chain rule.
            grad = inner.b_enc.grad
            for weight in (inner.b_dec, inner.W_enc):
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            assert inner.b_dec.grad is not None and inner.W_enc.grad is not None
            inner.b_dec.grad.sub_(inner.W_enc @ grad)
            inner.W_enc.grad.sub_(torch.outer(inner.b_dec, grad))
            grad.zero_()
        super().before_step()

    @override
    @torch.no_grad()
    def after_step(self, out: Loss) -> None:
        super().after_step(out)
        inner = self._biased()
        if inner is not None:
            inner.b_enc.copy_(-(inner.b_dec @ inner.W_enc))

    def _standardise(self, x: Float[Tensor, "n d_in"]) -> _Token:
        x = x - self.centre
        std = self.cfg.by == "std"
        mean = x.mean(-1, keepdim=True) * std
        z = x - mean
        variance = z.square().sum(-1, keepdim=True) / max(self.cfg.d_in - std, 1)
        spread = variance.clamp_min(1e-30).sqrt()  # finite slope at 0
        deviation = spread + self.epsilon.to(x)
        size = deviation if self.cfg.inverse == "exact" else spread
        return _Token(z / deviation, mean, deviation, size)

    def deviations(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n"]:
        """Return the size that the codes of each token carry, by which trained strengths grow."""
        return self._standardise(x).size[:, 0]

    def standardised(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
        """Return tokens as the inner architecture reads them."""
        return self._standardise(x).z

    @override
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        flat, batch = sparse.flat_rows(x)
        token = self._standardise(flat)
        acts = self.inner.encode(token.z)
        # inner.decode(acts) * size + mean is what `decode` makes of acts * token.size and this:
        gain = self.gain.to(flat)
        size, mean = token.size * gain, token.mean * gain
        none = acts.only(torch.zeros_like(acts.values, dtype=torch.bool))
        at_rest = self.inner.decode(none)  # the part of a prediction that latents leave alone
        shift = at_rest * size - self.inner.decode(none._replace(shift=None)) + mean + self.b_out
        values = acts.values * token.size[acts.rows(), 0]
        return acts._replace(values=values, shift=shift, batch=batch)

    @override
    def decode(self, acts: Codes) -> Float[Tensor, "..."]:
        return super().decode(acts._replace(values=acts.values * self.gain.to(acts.values)))

    @override
    def directions(self) -> Float[Tensor, "d_sae d_out"]:
        return self.inner.directions() * self.gain.to(self.inner.directions())

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        token = self._standardise(x)
        out = self.inner.loss(token.z, (y - token.mean) / token.deviation, step)
        return out._replace(y_hat=out.y_hat * token.size + token.mean)

    @override
    @torch.no_grad()
    def settle(self, x: Float[Tensor, "n d_in"]) -> None:
        self.inner.settle(self._standardise(x).z)

    @override
    @torch.no_grad()
    def rescale(self, x: Scaling, y: Scaling) -> None:
        if x.matrix is not None or y.matrix is not None:
            raise ConfigError(
                "`standardised` cannot be trained on whitened activations: whitening changes "
                'the mean and size of a token. Use normalise "scale" or "none".'
            )
        self.centre.div_(x.scale).add_(x.mean.to(self.centre))
        self.epsilon.div_(x.scale)
        self.gain.mul_(x.scale / y.scale)
        self.b_out.div_(y.scale).add_(y.mean.to(self.b_out))
