"""The moving parts of a run, and what one step does to them."""

import math
import statistics
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from saekit.activations.cache.full_shuffle import FullShuffle
from saekit.activations.cache.recorded import CachedHarvest
from saekit.activations.harvest import Harvest
from saekit.activations.mixing import Mixing
from saekit.activations.shuffle import Resident, Rolling, Shuffle, Stream
from saekit.core.codes import Codes
from saekit.core.errors import ConfigError, TrainingError
from saekit.core.finite import all_finite
from saekit.core.processes import ALONE, Mesh
from saekit.core.seeds import derive, generator
from saekit.saes.base import SAE, Loss, Step
from saekit.training import checkpoint, resample
from saekit.training.ema import WeightMean
from saekit.training.fit import Fit
from saekit.training.optim import Descent
from saekit.training.parallel import checkpoint as parts
from saekit.training.parallel import gradients, shards
from saekit.training.parallel.mesh import check_fits
from saekit.training.parallel.streams import open_streams
from saekit.training.run import Run
from saekit.training.starting import check_start

SPIKE_STEPS = 50  # whose median a spike is measured against
SETTLED_TOKENS = 2**13  # of the last batches, from which running statistics are taken at the end


class Training:
    """The moving parts of a run: SAE, optimiser, stream, and how long each latent was silent.

    Args:
        run: the description.
        stream: of batches.
        device: where weights live.
        mesh: the processes that train together.
        identity: what checkpoints are marked with (`checkpoint.run_digest`); None: that of `run`
            as this version writes it.
        first: returns so many of the first activations, scaled, for a run whose weights start
            from these; None: the first batch serves.
        weights: to begin from, for scaled activations; None: new ones.

    Raises:
        ConfigError: the architecture cannot be trained with these settings, or the run begins from
            weights that were not given.
        MissingExtraError: the optimiser's library is not installed.
    """

    def __init__(
        self,
        run: Fit,
        stream: Stream,
        device: torch.device | str = "cpu",
        mesh: Mesh = ALONE,
        identity: str | None = None,
        first: Callable[[int], tuple[Tensor, Tensor]] | None = None,
        weights: dict[str, Tensor] | None = None,
    ):
        check_fits(run, mesh)
        check_start(run, given=weights is not None, mesh=mesh)
        self._first, self._weights = first, weights
        self.run, self.stream, self.mesh = run, stream, mesh
        self._identity = identity or checkpoint.run_digest(run.to_dict())
        self._device = device
        self.rollbacks = 0  # times that training went back
        self._build()
        if run.resample is not None:
            resample.check(self.sae)

    def _build(self) -> None:
        run = self.run
        chance = generator(run.seed, "init")
        self.sae: SAE = shards.build(run.sae, chance, self.mesh).to(self._device)
        if self._weights is not None:
            self.sae.load_state_dict(self._weights)
        self.descent = Descent(run.optimiser, self.sae, run.peak_lr)
        self.mean = None if run.ema is None else WeightMean(self.sae, run.ema)
        self.silent_tokens = torch.zeros(  # [d_sae], or this process's share
            run.sae.d_sae // self.mesh.latent.size, dtype=torch.int64, device=self._device
        )
        self.index = self.due_step = 0  # optimiser steps done; and at the last due checkpoint
        self._recent: list[float] = []  # losses of the last steps, where spikes are looked for
        self._last: Loss | None = None
        self._batches: deque[Tensor] = deque(maxlen=self._settling_steps)  # the last inputs

    @property
    def _settling_steps(self) -> int:
        """Steps whose batches hold SETTLED_TOKENS, also where the last has few."""
        return math.ceil(SETTLED_TOKENS / self.run.step_tokens) + 1

    @property
    def _averages(self) -> bool:
        """Whether finished weights are other than those of the last step."""
        return self.mean is not None or self.run.optimiser.averages

    def begin(self, stream: tuple[dict[str, Tensor], dict[str, Any]]) -> None:
        """Go back to the beginning: weights as initialised, the stream in the state it had."""
        self._build()
        self.stream.load(*stream)

    @property
    def lr_share(self) -> float:
        """What the learning rate is multiplied by: halved each time training went back."""
        return 0.5**self.rollbacks

    @property
    def dead(self) -> Bool[Tensor, "d_sae"]:
        """Latents silent for `run.dead_after` training tokens."""
        return self.silent_tokens >= self.run.dead_after

    def step(self, x: Tensor, y: Tensor) -> Loss:
        """Do one optimiser step on scaled activations and return its loss.

        Raises:
            TrainingError: the loss is not finite, or a spike where these are looked for; the
                weights are those before the step.
        """
        if self.index == 0 and self.run.start != "random":
            self._start(x, y)
        lr = self.run.lr_at(self.index) * self.lr_share
        self.descent.zero_grad()  # first, so that the loss may use their memory
        loss = self.sae.loss(x, y, self._now())
        self._check(loss, lr)
        loss.total.backward()
        gradients.average(self.sae, self.mesh.data)
        self.sae.before_step()
        if self.run.clip_norm is not None:
            gradients.clip(self.sae, self.run.clip_norm, self.mesh)
        self.descent.step(lr)
        with self.descent.followed():
            self.sae.after_step(loss)
        self.silent_tokens += loss.acts.n_rows * self.mesh.data.size
        self.silent_tokens.masked_fill_(self.mesh.data.max(_fired(loss.acts)).bool(), 0)
        self.index += 1
        if self.mean is not None:
            self.mean.update(self.index)
        self._revive(x, y, loss)
        if self.sae.settles:
            self._batches.append(x)
        if self._averages:
            self._last = loss._replace(
                total=loss.total.detach(),
                terms={},
                acts=loss.acts.detach(),
                y_hat=loss.y_hat.detach(),
            )
        return loss

    def _start(self, x: Tensor, y: Tensor) -> None:
        """Set the weights from the first activations: those of `first`, or of the first batch."""
        if self.mesh.every.size > 1:
            raise ConfigError(
                f"`start` {self.run.start} looks at activations in one process; this run has "
                f"{self.mesh.every.size}. Leave `start` out."
            )
        if self._first is not None:
            x, y = self._first(self.sae.start_rows(self.run.start))
        chance = generator(self.run.seed, "start")
        x = x.to(self._device)
        self.sae.start(self.run.start, x, x if y is x else y.to(self._device), chance)

    def _check(self, loss: Loss, lr: float) -> None:
        """Refuse a loss that is not finite or, where that is asked, a spike."""
        total = float(self.mesh.every.mean(loss.total.detach()))  # not finite where one is not
        if not math.isfinite(total):
            terms = {k: float(v.detach()) for k, v in loss.terms.items()}
            raise TrainingError(
                f"The loss is {total} at step {self.index} ({terms}). The last checkpoint is "
                f"kept; lower `lr` (now {lr:.3g}), or let training go back with `rollbacks`."
            )
        if self.run.spike is None:
            return
        if len(self._recent) == SPIKE_STEPS:
            usual = statistics.median(self._recent)
            if total > self.run.spike * usual:
                raise TrainingError(
                    f"The loss jumped to {total:.4g} at step {self.index}, over "
                    f"{self.run.spike:g} times its median of {usual:.4g} over {SPIKE_STEPS} steps. "
                    f"The last checkpoint is kept; lower `lr` (now {lr:.3g}), or let training go "
                    f"back with `rollbacks`."
                )
        self._recent = [*self._recent, total][-SPIKE_STEPS:]

    def _now(self) -> Step:
        seed = derive(self.run.seed, "step", self.index)  # of 63 bits: generators take 64
        return Step(self.index, self.index / self.run.total_steps, self.dead, seed)

    def _revive(self, x: Tensor, y: Tensor, loss: Loss) -> None:
        cfg, size = self.run.resample, self.run.step_tokens
        total = self.run.total_tokens
        if cfg is None or not cfg.is_due((self.index - 1) * size, self.index * size, total):
            return
        chance = generator(self.run.seed, "resample", self.index)
        y_hat = loss.y_hat.detach()
        latents = resample.resample(cfg, self.sae, x, y, y_hat, self.dead, chance)
        for name in resample.parameters(self.sae):
            self.descent.restart(name, latents, resample.AXES[name])
            if self.mean is not None:
                self.mean.restart(name, latents, resample.AXES[name])
        self.silent_tokens[latents] = 0

    def finish(self) -> None:
        """Put finished weights in place of training weights; no step may follow.

        They differ where weights are averaged. A mean of rows of length 1 is shorter, so
        constraints are kept once more. Running thresholds, which lag behind training and
        belong to no mean of weights, are taken anew from the last batches.
        """
        if self._averages:
            self._take_averages()
        self.settle(self.sae)

    def settle(self, sae: SAE) -> None:
        """Take the running thresholds of an SAE anew, from the last batches of this training."""
        if sae.settles and self._batches:
            sae.settle(torch.cat(list(self._batches))[-SETTLED_TOKENS:])

    def _take_averages(self) -> None:
        self.descent.finish()
        if self.mean is not None:
            self.mean.finish()
        assert self._last is not None  # a checkpoint is never of the last step
        kept = {name: b.clone() for name, b in self.sae.named_buffers()}
        self.sae.after_step(self._last)
        for name, buffer in self.sae.named_buffers():
            buffer.copy_(kept[name])

    def save(self, folder: Path, *, due: bool = True) -> None:
        """Write a checkpoint.

        Args:
            folder: of checkpoints.
            due: it is one that training may go back to; others, of interruptions, are not, so
                that a run that was interrupted goes back to where any other would.

        Raises:
            TrainingError: a weight is not finite; no checkpoint was written.
        """
        weights = dict(self.sae.state_dict())
        if self.mesh.every.any(not all(map(all_finite, weights.values()))):
            raise TrainingError(f"A weight is not finite at step {self.index}; lower `lr`.")
        moments, numbers = self.descent.state()
        tensors, values = self.stream.state()
        groups = {"weights": weights, "counters": {"silent_tokens": self.silent_tokens}}
        groups |= {"optimiser": moments} if moments else {}
        groups |= {"mean": self.mean.mean} if self.mean is not None else {}
        groups |= {"stream": tensors} if tensors else {}
        if self.sae.settles and self.index + self._settling_steps > self.run.total_steps:
            # Few steps follow, so those that go on from here end with some of these batches.
            whole = (self.mesh.data.gather(x).flatten(0, 1) for x in self._batches)
            groups["batches"] = {f"{i:04d}": x for i, x in enumerate(whole)}
        self.due_step = self.index if due else self.due_step
        more = {"rollbacks": self.rollbacks, "recent": self._recent, "due_step": self.due_step}
        state = checkpoint.State(
            self.index, groups, {"stream": values, "optimiser": numbers, **more}
        )
        parts.write(folder, state, self._identity, self.mesh, self.due_step)

    def restore(self, folder: Path, step: int | None = None) -> tuple[int, list[str]]:
        """Take up the newest whole checkpoint, or that of a step.

        Returns:
            its step, 0 where there is none, and why newer ones were passed over.
        """
        state, passed_over = parts.newest(folder, self._identity, self.mesh, self.stream, step)
        if state is None:
            return 0, passed_over
        self.sae.load_state_dict(state.tensors["weights"])
        self.descent.load(state.tensors.get("optimiser", {}), state.values["optimiser"])
        if self.mean is not None:
            self.mean.load(state.tensors["mean"])
        self.silent_tokens.copy_(state.tensors["counters"]["silent_tokens"])
        self._batches.clear()
        for _, whole in sorted(state.tensors.get("batches", {}).items()):
            own = self.mesh.data.share(len(whole))
            self._batches.append(whole[own].to(self._device))
        self.stream.load(state.tensors.get("stream", {}), state.values["stream"])
        self.index = state.step
        self.rollbacks, self._recent = state.values["rollbacks"], state.values["recent"]
        self.due_step = state.values["due_step"]
        if self.mesh.every.first:  # a killed writer had no time for it
            checkpoint.drop_old(folder, self.due_step, state.step)
        return state.step, passed_over


def _fired(acts: Codes) -> Tensor:
    """Return which latents are on for some token, ``[d_sae]`` uint8."""
    on = (acts.values.detach() != 0).float()  # added up, which takes a fraction of indexing
    counts = on.new_zeros(acts.d_sae).scatter_add_(0, acts.latents, on)
    return (counts > 0).to(torch.uint8)


def open_stream(run: Run, harvest: Harvest, mesh: Mesh = ALONE, *, shown: bool) -> Stream:
    """Return the training batches of a process: all, or those of its part of the text."""
    return open_streams(run, harvest, mesh, lambda part, own: open_shuffle(part, own, shown=shown))


def open_shuffle(run: Run, harvest: Harvest, *, shown: bool) -> Shuffle:
    """Return the stream of training batches, as the run says; in memory where an epoch fits.

    Raises:
        ConfigError: a full shuffle was asked of what fits neither memory nor a cache.
    """
    common: dict[str, Any] = {
        "tokens": run.tokens,
        "epochs": run.epochs,
        "batch_tokens": run.step_tokens,
        "seed": run.order,
    }
    if run.mixing is not None:
        return Mixing(harvest, buffer_tokens=run.buffer_tokens, mixing=run.mixing, **common)
    if run.tokens <= run.buffer_tokens:
        return Resident(harvest, shown=shown, **common)
    if run.shuffle == "full":
        if not isinstance(harvest, CachedHarvest):
            raise ConfigError(
                f"A full shuffle of {run.tokens:,} tokens needs a cache of activations "
                f"(saekit cache write, then saekit train --cache), or `buffer_tokens` of as many; "
                f"got buffer_tokens={run.buffer_tokens:,}. Or set `shuffle` to rolling."
            )
        sizes = {"window_tokens": run.buffer_tokens, "block_tokens": run.block_tokens}
        return FullShuffle(harvest, **sizes, **common)
    return Rolling(harvest, buffer_tokens=run.buffer_tokens, **common)
