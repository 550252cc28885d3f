"""Optimisers: how gradients move weights, each leaving a state that a run can go on from."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from typing_extensions import override

from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, MissingExtraError
from saekit.training.half_moments import HalfMomentsAdam

State = tuple[dict[str, Tensor], list[dict[str, Any]]]  # moments; numbers of each group
BETA1, MUON_BETA1 = 0.9, 0.95  # the defaults of the sources
EPSILON = 1e-8  # added to Adam's denominator


@dataclass(frozen=True, kw_only=True)
class Optimiser(Config):
    """How gradients move weights.

    "adam"           p -= lr * m / (sqrt(v) + eps), moments corrected for their start
    "adamw"          the same after p *= 1 - lr * weight_decay
    "muon"           matrices: p -= 0.2 * sqrt(longer side) * lr * U V^T, where m = U S V^T;
                     all else by Adam
    "signum"         p -= lr * sign(m);  m = beta1 * m + (1 - beta1) * gradient
    "schedule_free"  Adam without a schedule: gradients are taken at
                     y = (1 - beta1) * z + beta1 * x, where z takes the steps and x is the
                     mean of all z so far; the finished SAE has x

    With unit decoder rows: the length of a row is put back after each step, so that decay
    does nothing to W_dec but turn it a little faster. Muon mixes rows after the part of the
    gradient along each of them was taken out, so its steps have such a part again, and
    lose it when rows are put back to length 1. Schedule-free puts y back, and moves z and
    x by as much; x, a mean, is put back to length 1 once more at the end. Its checkpoints
    hold y and z, its log is of y, and running thresholds are those found at y.

    Signum moves every number by the whole rate, in latents that were silent too, for as
    long as their momentum is not exactly 0: hundreds of steps. With `beta1` 0 silent latents
    stay where they are.

    Args:
        kind: which optimiser: "adam", "adamw", "muon", "signum" or "schedule_free".
        beta1: weight of the past in the mean gradient; for "schedule_free", where y lies, above 0;
            null: 0.95 for the matrices of "muon", else 0.9.
        beta2: weight of the past in the mean squared gradient; not read by "signum".
        moments: how "adam" and "adamw" keep their two means: "float32", or "bfloat16", in
            half the memory and rounded by chance, a step of which takes longer on a CPU.
        weight_decay: strength of decoupled decay of parameters that have two axes or more (not
            biases and thresholds); none with "adam".

    Raises:
        ConfigError: a value is out of range, or decay does not go with the kind.

    Source:
        Kingma & Ba 2015, arXiv:1412.6980 (Adam); Loshchilov & Hutter 2019, arXiv:1711.05101
        (AdamW); Jordan et al. 2024, "Muon", with the rate of Liu et al. 2025,
        arXiv:2502.16982, that fits Adam's; Bernstein et al. 2018, arXiv:1802.04434 (Signum);
        Defazio et al. 2024, arXiv:2405.15682 (schedule-free).
        Differs: biases and thresholds do not decay.
    """

    name: ClassVar[str] = "optimiser"
    kind: Literal["adam", "adamw", "muon", "signum", "schedule_free"] = "adam"
    beta1: float | None = setting(None, least=0, below=1, hint="0.9 to 0.999 are usual.")
    beta2: float = setting(0.999, least=0, below=1, hint="0.9 to 0.999 are usual.")
    moments: Literal["float32", "bfloat16"] = "float32"
    weight_decay: float = setting(0.0, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "schedule_free" and self.beta1 == 0:
            raise ConfigError(
                "`beta1` of schedule_free must be above 0; got 0: the mean could not be told "
                "from y. Use 0.9, or null."
            )
        if self.moments != "float32" and self.kind not in ("adam", "adamw"):
            raise ConfigError(
                f"`moments` can be {self.moments} with kind adam or adamw; got {self.kind}."
            )
        if self.kind == "adam" and self.weight_decay:
            raise ConfigError(
                f"`adam` has no decay; got weight_decay={self.weight_decay}. Use kind adamw."
            )
        if self.kind == "adamw" and not self.weight_decay:
            raise ConfigError(
                "`weight_decay` of adamw must be above 0; got 0. 0.01 is usual; without decay "
                "use kind adam."
            )

    @property
    def averages(self) -> bool:
        """Whether finished weights are a mean over steps."""
        return self.kind == "schedule_free"


@runtime_checkable
class Trainable(Protocol):
    """What an optimiser needs to know of an SAE, or of several."""

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Return parameters by name."""
        ...

    def rate_scales(self) -> dict[str, float]:
        """Return multiples of the learning rate."""
        ...


class Descent:
    """The optimisers of an SAE's parameters, used as one.

    Args:
        cfg: what kind.
        sae: whose parameters.
        lr: the rate, until `step` is given another.

    Raises:
        MissingExtraError: "schedule_free" needs a library that is not installed.
    """

    def __init__(self, cfg: Optimiser, sae: Trainable, lr: float):
        self.cfg = cfg
        self.named = {name: _in_order(p) for name, p in sae.named_parameters()}
        self._given = dict(sae.named_parameters())
        scales = sae.rate_scales()
        groups = [
            {
                "params": [p],
                "scale": scales.get(name, 1.0),
                "weight_decay": cfg.weight_decay if p.ndim >= 2 else 0.0,
            }
            for name, p in self.named.items()
        ]
        self.parts = _optimisers(cfg, groups, lr)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in (*self._given.values(), *self.named.values()):
            parameter.grad = None

    def step(self, lr: float) -> None:
        """Move the parameters; `lr` is multiplied with the scale of each."""
        for name, parameter in self.named.items():
            given = self._given[name]
            if parameter is not given:
                parameter.grad = None if given.grad is None else given.grad.t()
        for group in self._groups():
            group["lr"] = lr * group["scale"]
        for part in self.parts:
            part.step()

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """A context in which parameters are moved by hand, as onto a constraint.

        What schedule-free keeps beside them moves as far: its mean is a function of both.
        """
        if not self.cfg.averages:
            yield
            return
        before = [p.detach().clone() for p in self.named.values()]
        yield
        with torch.no_grad():
            for parameter, old in zip(self.named.values(), before, strict=True):
                if "z" in (state := self._state(parameter)):
                    state["z"].add_(parameter - old)

    @torch.no_grad()
    def restart(self, name: str, latents: Tensor, axis: int) -> None:
        """Forget the past of some latents of a parameter, which have new weights.

        Args:
            name: of the parameter.
            latents: which, ``[n]`` int64.
            axis: of the parameter, along which latents lie.
        """
        parameter = self.named[name]
        if parameter is not self._given[name]:
            axis = 1 - axis
        for key, value in self._state(parameter).items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                if key == "z":
                    value.index_copy_(axis, latents, parameter.index_select(axis, latents))
                else:
                    value.index_fill_(axis, latents, 0)

    def finish(self) -> None:
        """Put the finished weights where the training weights are; no step may follow."""
        for part in self.parts:
            if self.cfg.averages:
                part.eval()  # pyright: ignore[reportAttributeAccessIssue]

    def state(self) -> State:
        """Return what `load` needs to go on from here: tensors, and numbers for JSON."""
        tensors = {
            f"{name}.{key}": self._turned(name, value)
            for name, parameter in self.named.items()
            for key, value in self._state(parameter).items()
        }
        numbers = [
            {k: v for k, v in group.items() if isinstance(v, bool | int | float)}
            for group in self._groups()
        ]
        return tensors, numbers

    def load(self, tensors: dict[str, Tensor], numbers: list[dict[str, Any]]) -> None:
        """Go on from where `state` was taken."""
        for group, saved in zip(self._groups(), numbers, strict=True):
            group.update(saved)
        owner = {id(group["params"][0]): group for group in self._groups()}
        for name, parameter in self.named.items():
            state = self._state(parameter)
            for full, saved in tensors.items():
                parent, _, key = full.rpartition(".")
                if parent != name:
                    continue
                if saved.shape == self._given[name].shape:
                    turned = self._turned(name, saved)  # in its layout, for the same bits again
                    state[key] = torch.empty_like(parameter, dtype=saved.dtype).copy_(turned)
                else:  # a count of steps, which fused kernels read where the parameter is
                    fused = owner[id(parameter)].get("fused")
                    state[key] = saved.clone().to(parameter.device if fused else "cpu")

    def _turned(self, name: str, value: Tensor) -> Tensor:
        """Return a moment in the other order than it came in, where a parameter is turned."""
        turned = self.named[name] is not self._given[name] and value.ndim == 2
        return value.t() if turned else value

    def _groups(self) -> Iterable[dict[str, Any]]:
        for part in self.parts:
            yield from part.param_groups

    def _state(self, parameter: torch.nn.Parameter) -> dict[str, Any]:
        for part in self.parts:
            if any(parameter is p for group in part.param_groups for p in group["params"]):
                return part.state[parameter]
        raise AssertionError("every parameter belongs to an optimiser")


def _in_order(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    """Return a parameter in the order of its memory: its transpose where it is stored so.

    Optimisers copy what is stored otherwise, in and out, at every step.
    """
    if parameter.ndim != 2 or parameter.is_contiguous() or not parameter.t().is_contiguous():
        return parameter
    return torch.nn.Parameter(parameter.detach().t())  # the same memory


def _optimisers(
    cfg: Optimiser, groups: list[dict[str, Any]], lr: float
) -> list[torch.optim.Optimizer]:
    betas = (BETA1 if cfg.beta1 is None else cfg.beta1, cfg.beta2)
    common: dict[str, Any] = {"lr": lr, "betas": betas, "eps": EPSILON}
    if cfg.moments == "bfloat16":
        return [HalfMomentsAdam(groups, **common)]
    if cfg.kind == "adam":
        return [torch.optim.Adam(groups, fused=True, **common)]
    if cfg.kind == "adamw":
        return [torch.optim.AdamW(groups, fused=True, **common)]
    if cfg.kind == "signum":
        return [Signum(groups, lr, betas[0])]
    if cfg.kind == "schedule_free":
        return [_schedule_free(groups, common)]
    flat = [g for g in groups if g["params"][0].ndim == 2]
    rest = [g for g in groups if g["params"][0].ndim != 2]
    momentum = MUON_BETA1 if cfg.beta1 is None else cfg.beta1
    # This rate does not depend on which side is the longer: W_enc and W_dec move alike.
    parts: list[torch.optim.Optimizer] = []
    if flat:
        muon = torch.optim.Muon(flat, lr=lr, momentum=momentum, adjust_lr_fn="match_rms_adamw")
        parts.append(muon)
    if rest:
        parts.append(torch.optim.AdamW(rest, fused=True, **common))
    return parts


def _schedule_free(groups: list[dict[str, Any]], common: dict[str, Any]) -> torch.optim.Optimizer:
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError as error:
        raise MissingExtraError("schedulefree", "schedule-free") from error
    found = AdamWScheduleFree(groups, **common)
    found.train()
    return found


class Signum(torch.optim.Optimizer):
    """Steps by the sign of the momentum, each number by the whole rate.

    m = momentum * m + (1 - momentum) * gradient;  p = p * (1 - lr * weight_decay) - lr * sign(m)

    Args:
        params: parameters, or groups of them.
        lr: the rate.
        momentum: weight of the past, 0 <= momentum < 1.
        weight_decay: strength of decoupled decay.

    Source:
        Bernstein et al. 2018, arXiv:1802.04434, algorithm 2.
        Differs: decay is decoupled.
    """

    def __init__(self, params: Any, lr: float, momentum: float = BETA1, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @override
    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                mean = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                p.mul_(1 - lr * decay).add_(mean.sign(), alpha=-lr)
