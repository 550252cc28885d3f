"""JumpReLU: a threshold per latent, learnt through pseudo-derivatives."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.config import setting
from saekit.core.errors import ConfigError
from saekit.core.processes import ALONE, Mesh
from saekit.kernels import choose, sparse
from saekit.saes import _parts
from saekit.saes._affine import RATES, AffineConfig, AffineSAE
from saekit.saes.base import Loss, Scaling, Step, registry

# A threshold is of the size of a pre-activation, as a bias is. Faster than this, L0 is no closer
# to its target and more latents die: measured, docs/measurements/training.md.
THRESHOLD_RATE = 6.0


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class JumpReLU(AffineConfig):
    """Pre-activations above a learnt threshold per latent, kept few by a penalty on L0.

    acts = pre * 1[pre > threshold];  pre = x @ W_enc + b_enc;  y_hat = acts @ W_dec + b_dec
    loss = mean (y_hat - y)^2  +  l0_coefficient * penalty
    "target": (L0 / target_l0 - 1)^2
    "step":   L0 / d_out
    "tanh":   mean_tokens sum_i tanh(tanh_scale * acts_i |W_dec[i]|) / d_out

    The step has no gradient, so the threshold learns from pre-activations within half a
    bandwidth of it.

    Args:
        penalty: "target" steers L0 to `target_l0`; "step" and "tanh" weigh it against the error.
        target_l0: latents per token to aim at, at most d_sae; with any penalty,
            thresholds start where so many latents of a random direction fire.
        l0_coefficient: weight of the penalty.
        bandwidth: width of the window that gives the threshold its gradient, for inputs of mean
            square 1 a dimension.
        tanh_scale: steepness of "tanh".
        pre_act_coefficient: weight of a loss that pulls dead latents up to their threshold,
            mean_tokens sum_dead relu(threshold - pre) |W_dec| / d_out; 0 turns it off.
        warm_up: share of training over which the penalty grows to its weight.

    Raises:
        ConfigError: a value is out of range.

    Source:
        Rajamanoharan et al. 2024, arXiv:2407.14435, sections 3 and 4 (pseudo-derivatives,
        threshold, step); Conerly et al. 2025, "Circuits Updates - January 2025" (tanh and
        pre-activation loss); the target form is that of Gemma Scope 2 (2025).
        Differs: the threshold itself is the parameter, not its logarithm, so that Adam's
        step is in act units; below half a bandwidth it learns nothing from negative
        pre-activations.
    """

    name: ClassVar[str] = "jumprelu"
    penalty: Literal["target", "step", "tanh"] = "target"
    target_l0: float = setting(32.0, above=0)
    l0_coefficient: float = setting(1.0, least=0)
    bandwidth: float = setting(0.5, above=0)
    tanh_scale: float = setting(4.0, above=0)
    pre_act_coefficient: float = setting(0.0, least=0)
    warm_up: float = setting(0.1, least=0, below=1, unit="of training")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_l0 > self.d_sae:
            raise ConfigError(
                f"`target_l0` must be at most `d_sae`; got target_l0={self.target_l0}, "
                f"d_sae={self.d_sae}. Lower it or widen the SAE."
            )

    @classmethod
    @override
    def example(cls) -> "JumpReLU":
        return cls(d_in=8, d_out=8, d_sae=16, target_l0=4.0, l0_coefficient=0.01)

    @override
    def build(self, generator: torch.Generator) -> "JumpReLUSAE":
        return JumpReLUSAE(self, generator)

    @override
    def build_share(self, generator: torch.Generator, mesh: Mesh) -> "JumpReLUSAE":
        return JumpReLUSAE(self, generator, mesh)


@final
class JumpReLUSAE(AffineSAE):
    """The weights and maps of `JumpReLU`."""

    cfg: JumpReLU
    threshold: nn.Parameter  # [d_sae], act units, never negative

    def __init__(self, cfg: JumpReLU, generator: torch.Generator, mesh: Mesh = ALONE):
        super().__init__(cfg, generator, mesh)
        share = torch.tensor(min(cfg.target_l0 / cfg.d_sae, 0.5), dtype=torch.float64, device="cpu")
        start = torch.special.ndtri(1 - share)  # a unit direction of a unit-variance input
        self.threshold = nn.Parameter(torch.full_like(self.b_enc, float(start)))

    @override
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        return _parts.encode_above(self, x, self.threshold)

    @override
    def encode_only(
        self, x: Float[Tensor, "..."], latents: Int[Tensor, "m"]
    ) -> Float[Tensor, "*batch m"]:
        return _parts.only_above(self, x, self.threshold, latents)

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        cfg = self.cfg
        window = (self.threshold - cfg.bandwidth / 2).clamp_min(0)
        chosen = choose.above(x, self.W_enc, self.b_enc, window)  # all that has a gradient
        pre = sparse.pre_acts(x, self.W_enc, self.b_enc, chosen)
        at = self.threshold[chosen.latents]
        acts = chosen._replace(values=_Jump.apply(pre, at, cfg.bandwidth))
        y_hat = self.decode(acts)
        weight = cfg.l0_coefficient * _parts.ramp(step.progress, cfg.warm_up)
        terms = {"mse": _parts.mse(y_hat, y), "l0": weight * self._penalty(acts, pre, at)}
        if cfg.pre_act_coefficient:
            terms["pre_act"] = cfg.pre_act_coefficient * self._below(x, step.dead)
        return Loss(_parts.add(terms), terms, acts.detach().live(), y_hat)

    def _penalty(self, acts: Codes, pre: Tensor, at: Tensor) -> Float[Tensor, ""]:
        cfg, n, joined = self.cfg, max(acts.n_rows, 1), self.mesh.latent.joined
        if cfg.penalty == "tanh":
            sizes = acts.values * self.W_dec.norm(dim=-1)[acts.latents]
            return joined(torch.tanh(cfg.tanh_scale * sizes).sum()) / n / cfg.d_out
        l0 = joined(_Step.apply(pre, at, cfg.bandwidth).sum()) / n  # type: ignore[union-attr]
        if cfg.penalty == "step":
            return l0 / cfg.d_out
        return (self.mesh.data.averaged(l0) / cfg.target_l0 - 1).square()

    def _below(self, x: Float[Tensor, "n d_in"], dead: Tensor) -> Float[Tensor, ""]:
        """Return how far dead latents stay below their threshold, per token and dimension."""
        index = dead.nonzero().squeeze(-1)
        pre = x @ self.W_enc[:, index] + self.b_enc[index]
        sizes = self.W_dec[index].norm(dim=-1)
        below = (self.threshold[index] - pre).relu() * sizes
        return self.mesh.latent.joined(below.sum()) / max(len(x), 1) / self.cfg.d_out

    @override
    def rate_scales(self) -> dict[str, float]:
        return RATES | {"threshold": THRESHOLD_RATE}

    @override
    @torch.no_grad()
    def after_step(self, out: Loss) -> None:
        super().after_step(out)
        self.threshold.clamp_min_(0)

    @override
    @torch.no_grad()
    def rescale(self, x: Scaling, y: Scaling) -> None:
        super().rescale(x, y)
        self.threshold.div_(x.scale)


class _Jump(torch.autograd.Function):
    """pre * 1[pre > threshold]; d/dthreshold = -threshold / bandwidth inside the window."""

    @override
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @override
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        d_threshold = -threshold / ctx.bandwidth * near * grads[0]
        return (pre > threshold) * grads[0], d_threshold, None


class _Step(torch.autograd.Function):
    """1[pre > threshold]; d/dthreshold = -1 / bandwidth inside the window."""

    @override
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @override
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        return None, -(near / ctx.bandwidth) * grads[0], None
