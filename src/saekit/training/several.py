"""Several: SAEs of one shape, trained on one stream as one batched step."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saekit.activations.shuffle import Stream
from saekit.core.codes import Codes
from saekit.core.errors import ConfigError, TrainingError
from saekit.core.seeds import generator
from saekit.kernels import choose, sparse
from saekit.saes import _parts
from saekit.saes.base import Loss
from saekit.saes.topk import TopK, TopKSAE
from saekit.training.fit import Fit
from saekit.training.optim import Descent


class _Member(NamedTuple):
    """The weights of one SAE, as parts of those of all."""

    W_enc: Tensor  # [d_in, d_sae]
    W_dec: Tensor  # [d_sae, d_out]
    b_enc: Tensor  # [d_sae]
    b_dec: Tensor  # [d_out]


class _Bank(nn.Module):
    """The weights of several SAEs side by side: latents of one after those of another."""

    def __init__(self, saes: Sequence[TopKSAE]):
        super().__init__()
        self.n = len(saes)
        self.W_enc = nn.Parameter(torch.cat([s.W_enc.detach().t() for s in saes]).t())
        self.W_dec = nn.Parameter(torch.cat([s.W_dec.detach() for s in saes]))
        self.b_enc = nn.Parameter(torch.cat([s.b_enc.detach() for s in saes]))
        self.b_dec = nn.Parameter(torch.stack([s.b_dec.detach() for s in saes]))
        self._rates = saes[0].rate_scales()

    def rate_scales(self) -> dict[str, float]:
        """Return multiples of the learning rate, as of one SAE."""
        return self._rates

    def member(self, i: int) -> _Member:
        """Return the weights of one SAE, with their graph."""
        size = len(self.b_enc) // self.n
        own = slice(i * size, (i + 1) * size)
        return _Member(self.W_enc[:, own], self.W_dec[own], self.b_enc[own], self.b_dec[i])

    def gradients(self, i: int) -> list[Tensor]:
        """Return the parts of the gradients that belong to one SAE."""
        size = len(self.b_enc) // self.n
        own = slice(i * size, (i + 1) * size)
        given = (self.W_enc.grad, self.W_dec.grad, self.b_enc.grad, self.b_dec.grad)
        W_enc, W_dec, b_enc, b_dec = (g if g is not None else torch.zeros(()) for g in given)
        return [W_enc[:, own], W_dec[own], b_enc[own], b_dec[i]]


class Several:
    """TopK SAEs that differ in their seeds alone, trained on the same batches at once.

    One encoder product, one choice, one backward pass and one optimiser step for all: where SAEs
    are small, or on a GPU, most of a step is what it costs to start operations. Each SAE ends
    with the weights it would have alone on this stream, up to the rounding of sums.

    Args:
        fits: of `topk`, equal but for `seed`; without `ema` and `resample`.
        stream: batches for all; its order is its own.
        device: where weights live.

    Raises:
        ConfigError: fits differ in more than their seeds, or cannot be trained at once.
    """

    def __init__(self, fits: Sequence[Fit], stream: Stream, device: torch.device | str = "cpu"):
        self.fit, self.stream = _checked(fits), stream
        built = [f.sae.build(generator(f.seed, "init")) for f in fits]
        self.saes = [s.to(device) for s in built if isinstance(s, TopKSAE)]
        self.bank = _Bank(self.saes).to(device)
        self.descent = Descent(self.fit.optimiser, self.bank, self.fit.peak_lr)
        self.silent_tokens = torch.zeros(  # [n, d_sae]
            len(fits), self.fit.sae.d_sae, dtype=torch.int64, device=device
        )
        self.index = 0  # optimiser steps done

    @property
    def dead(self) -> Bool[Tensor, "n d_sae"]:
        """Latents silent for `dead_after` training tokens."""
        return self.silent_tokens >= self.fit.dead_after

    def step(self, x: Float[Tensor, "b d_in"], y: Float[Tensor, "b d_out"]) -> list[Loss]:
        """Do one optimiser step on scaled activations and return the loss of each SAE.

        Raises:
            TrainingError: a loss is not finite; the weights are those before the step.
        """
        losses = self._losses(x, y)
        total = torch.stack([loss.total for loss in losses]).sum()
        if not total.isfinite():
            each = [float(loss.total.detach()) for loss in losses]
            raise TrainingError(f"A loss is not finite at step {self.index}: {each}. Lower `lr`.")
        self.descent.zero_grad()
        total.backward()
        unit = self.fit.sae.decoder == "unit"  # pyright: ignore[reportAttributeAccessIssue]
        if unit:
            _parts.project_out(self.bank.W_dec)
        if self.fit.clip_norm is not None:
            for i in range(self.bank.n):
                _clip(self.bank.gradients(i), self.fit.clip_norm)
        self.descent.step(self.fit.lr_at(self.index))
        if unit:
            _parts.unit_rows(self.bank.W_dec)
        for i, loss in enumerate(losses):
            self.silent_tokens[i] += len(x)
            self.silent_tokens[i, loss.acts.latents[loss.acts.values != 0]] = 0
        self.index += 1
        return losses

    def _losses(self, x: Tensor, y: Tensor) -> list[Loss]:
        cfg, bank, n = self.fit.sae, self.bank, self.bank.n
        assert isinstance(cfg, TopK)
        done = self.index / self.fit.total_steps
        k = round(_parts.annealed(cfg.k, cfg.start_k, cfg.anneal, done))
        chosen = choose.top_latents(x, bank.W_enc, bank.b_enc, k, groups=n)
        pre = sparse.pre_acts(x.repeat_interleave(n, 0), bank.W_enc, bank.b_enc, chosen)
        acts = chosen._replace(values=pre.relu())
        y_hat = sparse.decode(acts, bank.W_dec).view(len(x), n, -1) + bank.b_dec
        dead, losses = self.dead, []
        some_dead = dead.any(-1)
        latents, values = (v.view(len(x), n, k) for v in (acts.latents, acts.values.detach()))
        for i in range(n):
            terms = {"mse": _parts.mse(y_hat[:, i], y)}
            if cfg.aux_coefficient:
                aux = x.new_zeros(())
                if some_dead[i]:
                    member = bank.member(i)
                    err = y_hat[:, i] - y
                    aux = _parts.aux_k(member, x, err, dead[i], cfg.aux_k)  # pyright: ignore[reportArgumentType]
                terms["aux"] = cfg.aux_coefficient * aux
            own = Codes.fixed(values[:, i], latents[:, i] - i * cfg.d_sae, cfg.d_sae)
            losses.append(Loss(_parts.add(terms), terms, own, y_hat[:, i]))
        return losses

    @torch.no_grad()
    def finish(self) -> list[TopKSAE]:
        """Return the trained SAEs; no step may follow."""
        self.descent.finish()
        for i, sae in enumerate(self.saes):
            for name, value in self.bank.member(i)._asdict().items():
                getattr(sae, name).copy_(value)
        return self.saes


def _checked(fits: Sequence[Fit]) -> Fit:
    if not fits:
        raise ConfigError("`fits` is empty; give one for each SAE.")
    first = fits[0]
    for other in fits[1:]:
        if dataclasses.replace(other, seed=first.seed) != first:
            raise ConfigError(
                "SAEs trained as one batched step may differ in their seeds alone; got other "
                "settings too. Train them one after another."
            )
    if not isinstance(first.sae, TopK):
        raise ConfigError(f"Only `topk` is trained as one batched step; got `{first.sae.name}`.")
    if first.ema is not None or first.resample is not None or first.optimiser.averages:
        raise ConfigError(
            "A batched step takes no `ema`, no `resample` and no optimiser that averages weights. "
            "Leave them out, or train SAEs one after another."
        )
    return first


def _clip(gradients: list[Tensor], norm: float) -> None:
    """Shorten the gradients of one SAE, together, to a norm."""
    total = torch.stack([g.norm() for g in gradients]).norm()
    share = (norm / (total + 1e-6)).clamp(max=1.0)
    for g in gradients:
        g.mul_(share)
