"""Temporal: what a token's context predicts of it, and a sparse code of what it does not."""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize, pad, scaled_dot_product_attention
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.config import setting
from saekit.core.errors import ConfigError
from saekit.kernels import sparse, ties
from saekit.saes import _parts
from saekit.saes.base import SAE, Loss, SAEConfig, Scaling, Step, registry

EPS = 1e-6  # beside the length of a prediction, act units


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Temporal(SAEConfig):
    """Codes a window of tokens: what earlier ones predict of each, and what is new in it.

    With D = `W_dec` (tied: W_enc = D^T), r = x - b_dec, and for each attention layer in turn

        z = relu(r @ W_enc / (4 d_in));  z_before[t] = z[t - 1], 0 for the first token
        p = relu(attention(queries from z, keys and values from z_before))
        s = <p @ D, r> / (|p @ D| + eps)^2;  predicted += s p;  r -= s (p @ D)

    what is left is coded sparsely: novel = relu(keep_k(r @ W_enc / (4 d_in))), and

        y_hat = (novel + predicted) @ D + b_dec;  loss = mean (y_hat - y)^2

    Attention is causal, so a token's prediction uses tokens before it and its own z as query.
    Both codes are kept: latent i < d_sae / 2 is row i of D used as novel, latent
    d_sae / 2 + i the same row used as predicted, whose value is dense and may be negative. An
    `l0` of all latents is therefore far above k.

    Args:
        d_sae: twice the rows of the dictionary; even, and d_sae / 2 a multiple of `n_heads`.
        k: novel latents kept per token, 1..d_sae / 2.
        n_heads: attention heads of a layer.
        d_key: width of the queries and keys of a head.
        n_attn_layers: rounds of prediction.
        tied: read with the transpose of the dictionary.

    Raises:
        ConfigError: a value is out of range, or d_in is not d_out: the predicted part is a
            projection of what is read.

    Source:
        Lubana et al. 2025, arXiv:2511.01836, section 4 (Temporal Feature Analysis).
        Differs: attention biases start at 0; top-k before relu, which is the same. Width of
        keys is given, not a bottleneck factor (theirs: d_sae / 2 / n_heads / d_key).
    """

    name: ClassVar[str] = "temporal"
    event: ClassVar[tuple[str, ...]] = ("seq",)
    coded: ClassVar[tuple[str, ...]] = ("seq",)

    k: int = setting(32, least=1)
    n_heads: int = setting(4, least=1)
    d_key: int = setting(32, least=1)
    n_attn_layers: int = setting(1, least=1)
    tied: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_in != self.d_out:
            raise ConfigError(
                f"`temporal` predicts what it reads; got d_in={self.d_in}, d_out={self.d_out}. "
                f"Make them equal."
            )
        if self.d_sae % (2 * self.n_heads):
            raise ConfigError(
                f"`d_sae` counts novel and predicted latents, and half of it must be a multiple "
                f"of `n_heads`; got d_sae={self.d_sae}, n_heads={self.n_heads}. Use a multiple "
                f"of {2 * self.n_heads}."
            )
        if self.k > self.d_dict:
            raise ConfigError(
                f"`k` must be at most half of `d_sae`, the number of novel latents; got "
                f"k={self.k}, d_sae={self.d_sae}. Lower `k` or widen the SAE."
            )

    @property
    @override
    def latents_per_token(self) -> None:
        return None  # predicted latents are dense

    @property
    @override
    def n_weights(self) -> int:
        rows = self.d_in if self.tied else self.d_in + self.d_out
        attention = 2 * self.n_heads * self.d_key + 2 * self.d_dict  # columns, of each layer
        return self.d_dict * (rows + self.n_attn_layers * attention)

    @property
    def d_dict(self) -> int:
        """Rows of the dictionary; as many novel latents and as many predicted ones."""
        return self.d_sae // 2

    @classmethod
    @override
    def example(cls) -> "Temporal":
        return cls(d_in=8, d_out=8, d_sae=32, k=3, n_heads=2, d_key=4)

    @override
    def build(self, generator: torch.Generator) -> "TemporalSAE":
        return TemporalSAE(self, generator)


@final
class TemporalSAE(SAE):
    """The weights and maps of `Temporal`. Weights of attention lead with the layer."""

    cfg: Temporal
    W_enc: nn.Parameter | None  # [d_in, d_dict]; None where tied
    eps: Tensor  # act units

    def __init__(self, cfg: Temporal, generator: torch.Generator):
        super().__init__()
        self.cfg = cfg
        layers, d_dict, keys = cfg.n_attn_layers, cfg.d_dict, cfg.n_heads * cfg.d_key

        def columns(width: int, length: float) -> nn.Parameter:
            drawn = torch.randn(layers, d_dict, width, generator=generator)
            return nn.Parameter(normalize(drawn, dim=1) * length)

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape))

        self.W_dec = nn.Parameter(torch.randn(d_dict, cfg.d_out, generator=generator))
        drawn = None if cfg.tied else torch.randn(cfg.d_in, d_dict, generator=generator)
        self.register_parameter("W_enc", None if drawn is None else nn.Parameter(drawn))
        self.b_dec = zeros(cfg.d_out)
        self.W_query = columns(keys, cfg.d_key**-0.5)
        self.W_key = columns(keys, cfg.d_key**-0.5)
        self.W_value = columns(d_dict, (d_dict / cfg.n_heads) ** -0.5)
        self.W_mix = columns(d_dict, d_dict**-0.5)
        self.b_query, self.b_key = zeros(layers, keys), zeros(layers, keys)
        self.b_value, self.b_mix = zeros(layers, d_dict), zeros(layers, d_dict)
        self.register_buffer("eps", torch.tensor(EPS))

    @override
    def encode(self, x: Float[Tensor, "*batch seq d_in"]) -> Codes:
        sparse.check_rows(x)
        events = math.prod(x.shape[:-2])
        novel, predicted = self._parts_of(x.reshape(events, *x.shape[-2:]))
        both = torch.cat([novel, predicted], dim=-1)
        return Codes.from_dense(both)._replace(batch=tuple(x.shape[:-1]))

    @override
    def decode(self, acts: Codes) -> Float[Tensor, "*batch seq d_out"]:
        novel, predicted = acts.dense().split(self.cfg.d_dict, dim=-1)
        return (novel + predicted) @ self.W_dec + self.b_dec

    @override
    def directions(self) -> Float[Tensor, "d_sae d_out"]:
        return torch.cat([self.W_dec, self.W_dec])

    @override
    def loss(
        self, x: Float[Tensor, "n seq d_in"], y: Float[Tensor, "n seq d_out"], step: Step
    ) -> Loss:
        novel, predicted = self._parts_of(x)
        y_hat = (novel + predicted) @ self.W_dec + self.b_dec
        acts = Codes.from_dense(torch.cat([novel, predicted], dim=-1).detach())
        mse = _parts.mse(y_hat, y)
        return Loss(mse, {"mse": mse}, acts, y_hat)

    def _parts_of(
        self, x: Float[Tensor, "n seq d_in"]
    ) -> tuple[Float[Tensor, "n seq d_dict"], Float[Tensor, "n seq d_dict"]]:
        """Return the novel and the predicted code of each token."""
        W_enc = (self.W_dec.t() if self.W_enc is None else self.W_enc) / (4 * self.cfg.d_in)
        rest = x - self.b_dec
        predicted = x.new_zeros(*x.shape[:-1], self.cfg.d_dict)
        for layer in range(self.cfg.n_attn_layers):
            z = (rest @ W_enc).relu()
            guess = self._attention(layer, z, pad(z[:, :-1], (0, 0, 1, 0))).relu()
            part = guess @ self.W_dec
            length = part.norm(dim=-1, keepdim=True) + self.eps
            share = (part * rest).sum(-1, keepdim=True) / length.square()
            predicted = predicted + share * guess
            rest = rest - share * part
        pre = rest @ W_enc
        top = ties.top_places(pre.detach(), self.cfg.k)
        novel = torch.zeros_like(predicted).scatter(-1, top, pre.gather(-1, top).relu())
        return novel, predicted

    def _attention(
        self, layer: int, z: Float[Tensor, "n seq d_dict"], before: Float[Tensor, "n seq d_dict"]
    ) -> Float[Tensor, "n seq d_dict"]:
        def heads(of: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            out = of @ weight[layer] + bias[layer]
            return out.unflatten(-1, (self.cfg.n_heads, -1)).transpose(1, 2)

        mixed = scaled_dot_product_attention(
            heads(z, self.W_query, self.b_query),
            heads(before, self.W_key, self.b_key),
            heads(before, self.W_value, self.b_value),
            is_causal=True,
        )
        return mixed.transpose(1, 2).flatten(2) @ self.W_mix[layer] + self.b_mix[layer]

    @override
    def rate_scales(self) -> dict[str, float]:
        # Adam moves every number by about the rate, which is made for rows of length 1; rows
        # of the dictionary are sqrt(d_in) long.
        return {name: self.cfg.d_in**0.5 for name in ("W_dec", "W_enc")}

    @override
    @torch.no_grad()
    def rescale(self, x: Scaling, y: Scaling) -> None:
        if x.matrix is not None or y.matrix is not None or x.site_scale is not None:
            raise ConfigError(
                "A temporal SAE cannot take whitened or site-wise scaled activations: its "
                "predicted part is an orthogonal projection. Train it without whitening."
            )
        if x.scale != y.scale or not torch.equal(x.mean, y.mean):
            raise ConfigError(
                f"A temporal SAE predicts what it reads, so input and output must be scaled "
                f"alike; got scales {x.scale:.4g} and {y.scale:.4g}."
            )
        if x.mean.shape != self.b_dec.shape:
            raise ConfigError(
                f"A temporal SAE needs one mean of all places of a window, of shape "
                f"{list(self.b_dec.shape)}; got {list(x.mean.shape)}. Take the mean over them too."
            )
        # Every code comes out divided by the scale. Attention weighs by products of queries
        # and keys, which must stay; a projection cancels the size of what it projects on,
        # but for eps.
        self.W_query.mul_(x.scale)
        self.W_key.mul_(x.scale)
        for length in (self.b_value, self.b_mix, self.eps, self.b_dec):
            length.div_(x.scale)
        self.b_dec.add_(x.mean.to(self.b_dec))
