"""A training under way: steps, log, progress, checkpoints, and going back where it broke."""

import contextlib
import math
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from saekit.core.errors import FormatError, Interrupted, SaekitError, TrainingError
from saekit.core.progress import Progress
from saekit.saes.base import SAE, Loss
from saekit.training.checkpoint import Clock
from saekit.training.log import Log
from saekit.training.meter import Meter
from saekit.training.scaling import Scalings
from saekit.training.trainer import Training


class Session:
    """A training under way in its folder, one optimiser step at a time.

    Use as a context, which closes the log. Where the fit allows rollbacks, a step whose loss
    is not finite, or is a spike, takes training back to its last checkpoint, or to its
    beginning, and halves the learning rate; the log says so.

    Args:
        training: its moving parts, new.
        scalings: what activations go through before a step.
        autoencoder: the target is the input.
        out: folder of the log and of checkpoints; None: nothing is written.
        resume: go on from the newest checkpoint there.
        at_step: or from that of a step, where several trainings go on together.
        start: what the first record of the log says beside step and tokens.
        go_on: the command that goes on with a run that was stopped.
        shown: show progress on stderr.
    """

    def __init__(  # noqa: PLR0913 - a training, and what its folder says of it
        self,
        training: Training,
        scalings: Scalings,
        *,
        autoencoder: bool,
        out: Path | None,
        resume: bool = False,
        at_step: int | None = None,
        start: dict[str, Any] | None = None,
        go_on: str = "",
        shown: bool = True,
    ):
        self.training, self.out = training, out
        self._x, self._y, baseline = scalings
        self._autoencoder, self._go_on = autoencoder, go_on
        step, self._begin = 0, training.stream.state()
        if resume and out is not None:
            step, passed_over = training.restore(out / "checkpoints", at_step)
            for complaint in passed_over:
                sys.stderr.write(f"warning   {complaint} The checkpoint before it is used.\n")
        if at_step is not None and step != at_step:
            raise FormatError(
                f"{out} has no whole checkpoint of step {at_step:,}. Name the step of one in "
                f"its folder `checkpoints`."
            )
        writes = out is not None and training.mesh.every.first
        path = out / "log.jsonl" if out is not None and writes else None
        self.log = Log(path, keep_to_step=step if resume else None)
        served = training.stream.served_tokens
        self.log.write("start", step=step, tokens=served, **(start or {}))
        self.meter = Meter(self.log.last_seconds, baseline)
        self._next_save = self._after(served)
        self._clock = Clock(training.run.checkpoint_minutes or math.inf)
        self.progress = Progress("train", training.run.total_tokens, shown=shown)
        self.progress.start_at(served)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.progress.close()
        if error is not None:
            step, served = self.training.index, self.training.stream.served_tokens
            with contextlib.suppress(SaekitError):  # the error under way says more
                self.log.write("stopped", step=step, tokens=served, reason=str(error))
        self.log.close()

    @property
    def done(self) -> bool:
        """All tokens were served."""
        stream, asked = self.training.stream, self.training.run.total_tokens
        return stream.served_tokens >= getattr(stream, "total_tokens", asked)

    def note_text_ended(self) -> None:
        """Log that the text ended before the tokens asked, and where the rate then was."""
        training = self.training
        served, run = training.stream.served_tokens, training.run
        if served >= run.total_tokens:
            return
        share = run.lr_at(max(training.index - 1, 0)) / run.peak_lr
        self.log.write(
            "text_ended",
            step=training.index,
            tokens=served,
            asked=run.total_tokens,
            lr_share_of_peak=share,
        )
        sys.stderr.write(
            f"warning   The text ended after {served:,} training tokens of {run.total_tokens:,} "
            f"asked. What was trained is kept; the learning rate had come to {share:.0%} of its "
            f"peak, where the schedule ends at {run.final_lr_share:.0%}.\n"
        )

    def step(self) -> Loss | None:
        """Do the next step and log it where that is due; None where training went back.

        Raises:
            TrainingError: the loss is not finite or a spike, and no rollback is left.
        """
        training = self.training
        try:
            x, y = self._scaled(*training.stream.batch())
            loss = training.step(x, y)
        except TrainingError as error:
            self._roll_back(error)
            return None
        self.meter.add(loss, y)
        if training.index % training.run.log_steps == 0 or self.done:
            record = self.meter.record(training)
            self.log.write("step", **record)
            self.progress.note = f"FVU {record['fvu']:.3f}  L0 {record['l0']:.1f}"
        self.progress.reach(training.stream.served_tokens)
        if self.done:
            self.note_text_ended()
        return loss

    def keep(self, asked: str | None = None) -> None:
        """Write a checkpoint where one is due, and stop where a signal asked for it.

        Raises:
            Interrupted: it did.
        """
        training, served = self.training, self.training.stream.served_tokens
        wanted = training.mesh.every.largest(2 if asked else int(self._clock.due))
        if wanted == 2:
            asked = asked or "A signal to another process"
        if self.done:
            return
        due = served >= self._next_save
        if self.out is not None and (due or wanted):
            with self._clock.writing():
                training.save(self.out / "checkpoints", due=due)
        if due:
            self._next_save = self._after(served)
        if asked:
            kept = "a checkpoint was written" if self.out is not None else "nothing was kept"
            hint = f" Go on with: {self._go_on}" if self._go_on else ""
            raise Interrupted(
                f"{asked} after {served:,} of {training.run.total_tokens:,} tokens; {kept}.{hint}"
            )

    def finish(self) -> SAE:
        """Return the finished SAE, which takes activations as they come."""
        self.training.finish()
        self.training.sae.rescale(self._x, self._y)
        return self.training.sae

    def _after(self, served: int) -> float:
        """Return the tokens at which the next checkpoint is due: a multiple, wherever begun."""
        every = self.training.run.checkpoint_every
        return math.inf if every is None else (served // every + 1) * every

    def _scaled(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = self._x.apply(x)
        return x, x if self._autoencoder else self._y.apply(y)

    def _roll_back(self, error: TrainingError) -> None:
        training = self.training
        count = training.rollbacks + 1
        if count > training.run.rollbacks:
            raise error
        at, step = training.index, training.due_step
        if step and self.out is not None:
            found, _ = training.restore(self.out / "checkpoints", step)
            if found != step:
                raise error
        else:
            training.begin(self._begin)
        training.rollbacks = count
        self.meter.clear()
        served = training.stream.served_tokens
        self._next_save = self._after(served)
        self.progress.start_at(served)
        self.log.rewind(step)
        self.log.write("rollback", step=step, tokens=served, from_step=at, reason=str(error))
        sys.stderr.write(
            f"rollback  {count} of {training.run.rollbacks}: from step {at:,} to {step:,}, "
            f"learning rate times {training.lr_share:g}\n"
        )
