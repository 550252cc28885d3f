"""Fit: how an SAE is fitted to activations, wherever these come from."""

import math
from dataclasses import dataclass

from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError
from saekit.saes.base import SAEConfig, Start
from saekit.training.optim import Optimiser
from saekit.training.resample import Resample
from saekit.training.scaling import Centre, Normalise
from saekit.training.schedule import Fall, Schedule

# Measured: docs/measurements/training.md.
REFERENCE_LR, REFERENCE_D_SAE, REFERENCE_STEPS = 6e-4, 2**14, 2000
HIGHEST_LR = 1e-2
SMALLEST_BATCH, LARGEST_BATCH = 2**8, 2**12  # tokens
LONGEST_WARM_UP = 1000  # steps


@dataclass(frozen=True, kw_only=True)
class Fit(Config):
    """What training does, whatever the activations: architecture, length, rates, order.

    Args:
        sae: architecture and sizes.
        tokens: tokens to train on, not counting those that the token rule leaves out; each is read
            once per epoch.
        epochs: passes over these tokens.
        normalise: how activations are scaled for training, estimated on the first rows; the
            finished SAE takes raw activations all the same. "scale": to a mean square of 1 on
            average over dimensions, at each site where several are coded jointly; "whiten": to
            covariance 1, which not every architecture can fold into its weights; "none": not at
            all.
        centre: what is subtracted from activations first: "mean", "geometric_median" (which a few
            far activations hardly move) or "none".
        start: where weights begin: "random" directions; "geometric_median", the same with the
            geometric median of activations as what is predicted where no latent is on; "k_means",
            directions of clusters of activations; or "subspace", random directions in the subspace
            that activations vary in.
        start_from: SHA-256 of the weights that training begins from, which `--start-from`, or
            `start_from=` in Python, sets; null: new weights.
        batch_tokens: tokens in an optimiser step; null: the power of two from 256 to 4096 that
            gives about 2,000 steps or more.
        lr: peak learning rate; null: 6e-4 x sqrt(16,384 / latents) x sqrt(2,000 / steps), at most
            1e-2.
        warm_up_steps: optimiser steps over which the learning rate grows linearly from 0; null: a
            twentieth of all steps, at most 1,000.
        schedule: how the learning rate falls at the end: "linear", "cosine", or "constant", which
            does not fall and ignores `decay`.
        decay: share of training, at its end, over which the learning rate falls.
        final_lr_share: learning rate at the end, as a share of the peak.
        optimiser: how gradients move weights.
        clip_norm: gradients longer than this are shortened to it; null: never.
        ema: weight of the past in a running mean of the weights, which becomes the finished SAE,
            with decoder rows put back to their length and running thresholds computed again; the
            log is about the weights themselves; null: no mean.
        resample: gives dead latents new weights at intervals; null: never. On a command
            line: --set 'resample={"every_tokens": 1000000}'.
        spike: a step fails if its loss is above this many times the median of the last 50 steps;
            null: only if it is not finite.
        rollbacks: how often training may return to its last checkpoint and continue at half the
            learning rate when a step fails; 0: a failed step ends training.
        dead_after_tokens: a latent that was off for this many training tokens counts as dead; null:
            a tenth of all, at least 100,000 and at most 10 million.
        checkpoint_tokens: training tokens between checkpoints; null: a quarter of all where
            `rollbacks` may go back to them, otherwise only `checkpoint_minutes` decides.
        checkpoint_minutes: minutes between checkpoints; more if writing one takes over a fiftieth
            of that. Null: only `checkpoint_tokens` decides.
        log_steps: optimiser steps between records of the log.
        seed: decides the first weights and the order of activations.

    Raises:
        ConfigError: a value is out of range, or two settings exclude each other.

    Source:
        Gao et al. 2024, arXiv:2406.04093, appendix A.3 (rate with the root of the width).
        Rates, batches and warm-up were measured: docs/measurements/training.md.
    """

    sae: SAEConfig
    tokens: int = setting(10_000_000, least=1)
    epochs: int = setting(1, least=1)
    normalise: Normalise = "scale"
    centre: Centre = "mean"
    start: Start = "random"
    start_from: str | None = None
    batch_tokens: int | None = setting(None, least=1)
    lr: float | None = setting(None, above=0)
    warm_up_steps: int | None = setting(None, least=0)
    schedule: Fall = "linear"
    decay: float = setting(0.5, least=0, most=1, unit="of training")
    final_lr_share: float = setting(0.0, least=0, most=1, unit="of the peak rate")
    optimiser: Optimiser = Optimiser()
    clip_norm: float | None = setting(1.0, above=0)
    ema: float | None = setting(None, above=0, below=1, hint="0.999 is usual; null: none.")
    resample: Resample | None = None
    spike: float | None = setting(None, above=1, unit="times the median loss", hint="5 is usual.")
    rollbacks: int = setting(0, least=0)
    dead_after_tokens: int | None = setting(None, least=1)
    checkpoint_tokens: int | None = setting(None, least=1)
    checkpoint_minutes: float | None = setting(5.0, above=0)
    log_steps: int = setting(20, least=1)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_together()

    def _check_together(self) -> None:
        if self.start_from is not None and self.start != "random":
            raise ConfigError(
                f"`start` makes new weights, and training begins from those of an SAE; got "
                f"start={self.start}. Leave one of them out."
            )
        if self.schedule == "constant" and self.final_lr_share:
            raise ConfigError(
                f"`final_lr_share` has no use with a constant schedule; got "
                f"{self.final_lr_share}. Set it to 0, or `schedule` to linear or cosine."
            )
        if self.optimiser.averages and self.schedule != "constant":
            raise ConfigError(
                f"`{self.optimiser.kind}` averages weights instead of lowering the rate; got "
                f"schedule={self.schedule}. Set `schedule` to constant."
            )
        if self.ema is not None and self.optimiser.averages:
            raise ConfigError(
                f"`{self.optimiser.kind}` averages weights itself; got ema={self.ema}. Set `ema` "
                f"to null."
            )
        if self.resample is not None:
            first = max(self.resample.every_tokens, self.dead_after)
            last = self.resample.until * self.total_tokens
            if first > last:
                raise ConfigError(
                    f"`resample` would never happen: the first round with a dead latent is after "
                    f"{first:,} tokens or later, the last before {last:,.0f}. Lower "
                    f"`resample.every_tokens` or `dead_after_tokens`, or train longer."
                )

    @property
    def total_tokens(self) -> int:
        """Training tokens of all epochs."""
        return self.tokens * self.epochs

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return math.ceil(self.total_tokens / self.step_tokens)

    @property
    def step_tokens(self) -> int:
        """Tokens of an optimiser step; the last may have fewer."""
        if self.batch_tokens is not None:
            return self.batch_tokens
        wanted = max(self.total_tokens // REFERENCE_STEPS, 1)
        return min(max(2 ** (wanted.bit_length() - 1), SMALLEST_BATCH), LARGEST_BATCH)

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up."""
        wider, longer = self.sae.d_sae / REFERENCE_D_SAE, self.total_steps / REFERENCE_STEPS
        return self.lr or min(REFERENCE_LR / math.sqrt(wider * longer), HIGHEST_LR)

    @property
    def warm_up(self) -> int:
        """Optimiser steps over which the rate grows."""
        if self.warm_up_steps is not None:
            return self.warm_up_steps
        return min(self.total_steps // 20, LONGEST_WARM_UP)

    @property
    def dead_after(self) -> int:
        """Training tokens of silence after which a latent is dead."""
        return self.dead_after_tokens or min(max(self.total_tokens // 10, 10**5), 10**7)

    @property
    def checkpoint_every(self) -> int | None:
        """Training tokens between checkpoints; None: the clock alone decides."""
        if self.checkpoint_tokens is None and self.rollbacks:
            return max(self.total_tokens // 4, 1)
        return self.checkpoint_tokens

    def lr_at(self, step: int) -> float:
        """Return the learning rate of an optimiser step, counted from 0."""
        schedule = Schedule(
            self.total_steps, self.warm_up, self.schedule, self.decay, self.final_lr_share
        )
        return self.peak_lr * schedule.at(step)
