"""Adam with moments in bfloat16: half of their memory, rounded so that nothing is lost."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

CHUNK = 2**20  # numbers raised to float32 at once


class HalfMomentsAdam(torch.optim.Optimizer):
    """Adam whose two moments are kept in bfloat16.

    bfloat16 has 8 bits: an update of the mean square by a thousandth would round to nothing.
    So each number is rounded up or down by chance, with the probability that makes its mean
    right, from a sequence that the count of steps decides.

    Args:
        params: parameters, or groups of them.
        lr: the rate.
        betas: weights of the past in the two means.
        eps: added to the denominator.
        weight_decay: strength of decoupled decay.

    Source:
        Kingma & Ba 2015, arXiv:1412.6980, algorithm 1; stochastic rounding: Gupta et al. 2015,
        arXiv:1502.02551, section 3.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float = 0.0,
    ):
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @override
    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for number, group in enumerate(self.param_groups):
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float64)
                    state["exp_avg"] = torch.zeros_like(p, dtype=torch.bfloat16)
                    state["exp_avg_sq"] = torch.zeros_like(p, dtype=torch.bfloat16)
                state["step"] += 1
                seed = int(state["step"]) * 1009 + number  # another sequence for each parameter
                chance = torch.Generator(p.device).manual_seed(seed)
                order = sorted(range(p.ndim), key=lambda axis, p=p: -p.stride(axis))
                flat = [
                    x.permute(order).reshape(-1)  # a view of all but a gradient stored otherwise
                    for x in (p, p.grad, state["exp_avg"], state["exp_avg_sq"])
                ]
                for part in zip(*(x.split(CHUNK) for x in flat), strict=True):
                    _move(part, group, int(state["step"]), chance)


def _move(
    part: tuple[Tensor, ...], group: dict[str, Any], step: int, chance: torch.Generator
) -> None:
    p, grad, mean, square = part
    (beta1, beta2), lr = group["betas"], group["lr"]
    m = mean.float().lerp_(grad.float(), 1 - beta1)
    v = square.float().mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    mean.copy_(_rounded(m, chance))
    square.copy_(_rounded(v, chance))
    size = v.div_(1 - beta2**step).sqrt_().add_(group["eps"])
    p.mul_(1 - lr * group["weight_decay"]).addcdiv_(m, size, value=-lr / (1 - beta1**step))


def _rounded(x: Tensor, chance: torch.Generator) -> Tensor:
    """Return numbers of bfloat16 whose mean over chance is `x`."""
    more = torch.randint(0, 2**16, x.shape, dtype=torch.int32, device=x.device, generator=chance)
    return ((x.view(torch.int32) + more) & -(2**16)).view(torch.float32)
