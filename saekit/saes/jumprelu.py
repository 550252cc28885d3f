"""JumpReLU: a threshold per latent, learnt through pseudo-derivatives."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.errors import ConfigError
from saekit.saes import _parts, _sparse
from saekit.saes.base import SAE, Loss, SAEConfig, Scaling, Step, registry


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class JumpReLU(SAEConfig):
    """Pre-activations above a learnt threshold per latent; a penalty steers L0 to a target.

    acts = pre * 1[pre > threshold];  pre = x @ W_enc + b_enc;  y_hat = acts @ W_dec + b_dec
    loss = mean (y_hat - y)^2  +  l0_coefficient * (L0 / target_l0 - 1)^2

    The step has no gradient, so the threshold learns from pre-activations within half a
    bandwidth of it. Decoder rows have length 1.

    Args:
        target_l0: latents per token to aim at, above 0 and at most d_sae.
        l0_coefficient: weight of the penalty.
        bandwidth: width of the window that gives the threshold its gradient, for inputs of
            mean square 1 a dimension; above 0.
        warm_up: share of training over which the penalty grows to its weight, 0 <= share < 1.

    Raises:
        ConfigError: a value is out of range.

    Source:
        Rajamanoharan et al. 2024, arXiv:2407.14435, sections 3 and 4 (pseudo-derivatives,
        threshold); the target form of the penalty is that of Gemma Scope 2 (2025).
        Differs: the threshold itself is the parameter, not its logarithm, so that Adam's
        step is in act units; it starts where `target_l0` latents of a random direction fire.
    """

    name: ClassVar[str] = "jumprelu"
    target_l0: float = 32.0
    l0_coefficient: float = 1.0
    bandwidth: float = 0.1
    warm_up: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _parts.check_coefficient("l0_coefficient", self.l0_coefficient)
        _parts.check_share("warm_up", self.warm_up)
        if not 0 < self.target_l0 <= self.d_sae:
            raise ConfigError(
                f"`target_l0` must lie in (0, d_sae]; got target_l0={self.target_l0}, "
                f"d_sae={self.d_sae}. Lower it or widen the SAE."
            )
        if not self.bandwidth > 0:
            raise ConfigError(f"`bandwidth` must be above 0; got {self.bandwidth}.")

    @classmethod
    @override
    def example(cls) -> "JumpReLU":
        return cls(d_in=8, d_out=8, d_sae=16, target_l0=4.0, l0_coefficient=0.01)

    @override
    def build(self, generator: torch.Generator) -> "JumpReLUSAE":
        return JumpReLUSAE(self, generator)


@final
class JumpReLUSAE(SAE):
    """The weights and maps of `JumpReLU`."""

    W_enc: nn.Parameter  # [d_in, d_sae]
    W_dec: nn.Parameter  # [d_sae, d_out], unit rows
    b_enc: nn.Parameter  # [d_sae]
    b_dec: nn.Parameter  # [d_out]
    threshold: nn.Parameter  # [d_sae], act units, never negative

    def __init__(self, cfg: JumpReLU, generator: torch.Generator):
        super().__init__()
        self.cfg: JumpReLU = cfg
        _parts.tied_init(self, cfg.d_in, cfg.d_out, cfg.d_sae, generator)
        share = torch.tensor(min(cfg.target_l0 / cfg.d_sae, 0.5), dtype=torch.float64)
        start = torch.special.ndtri(1 - share)  # a unit direction of a unit-variance input
        self.threshold = nn.Parameter(torch.full((cfg.d_sae,), float(start)))

    @override
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        return _parts.encode_above(self, x, self.threshold)

    @override
    def decode(self, acts: Codes) -> Float[Tensor, "..."]:
        return _parts.decode(self, acts)

    @override
    def directions(self) -> Float[Tensor, "d_sae d_out"]:
        return self.W_dec

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        width = self.cfg.bandwidth
        window = (self.threshold - width / 2).clamp_min(0)
        chosen = _parts.above(x, self.W_enc, self.b_enc, window)  # all that has a gradient
        pre = _sparse.pre_acts(x, self.W_enc, self.b_enc, chosen)
        at = self.threshold[chosen.latents]
        values, on = _Jump.apply(pre, at, width), _Step.apply(pre, at, width)
        acts = chosen._replace(values=values)
        y_hat = self.decode(acts)
        weight = self.cfg.l0_coefficient * _parts.ramp(step.progress, self.cfg.warm_up)
        off_target = on.sum() / len(x) / self.cfg.target_l0 - 1
        terms = {"mse": _parts.mse(y_hat, y), "l0": weight * off_target.square()}
        return Loss(_parts.add(terms), terms, acts.detach().live(), y_hat)

    @override
    def rate_scales(self) -> dict[str, float]:
        # Adam moves every number by about the rate. A threshold is of the size of a
        # pre-activation, which is sqrt(d_in) times that of an entry of a unit column.
        return {"threshold": self.cfg.d_in**0.5}

    @override
    def before_step(self) -> None:
        _parts.project_out(self.W_dec)

    @override
    @torch.no_grad()
    def after_step(self, out: Loss) -> None:
        _parts.unit_rows(self.W_dec)
        self.threshold.clamp_min_(0)

    @override
    @torch.no_grad()
    def rescale(self, x: Scaling, y: Scaling) -> None:
        _parts.to_raw_units(self, x, y)
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
