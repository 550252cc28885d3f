"""Lockstep: SAEs trained side by side from one rolling buffer, where memory holds no second."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import override

from saekit.activations.harvest import Harvest
from saekit.activations.shuffle import Batch, Rolling, Stream
from saekit.core.errors import ConfigError, Interrupted, TrainingError
from saekit.core.progress import Progress
from saekit.training import checkpoint, record
from saekit.training.loop import RUN, begin, end, open_folder
from saekit.training.run import Run
from saekit.training.scaling import fit_scaling
from saekit.training.session import Session
from saekit.training.signals import StopRequest


class View(Stream):
    """One training's batches out of blocks that several trainings are given in step.

    The order of a rolling buffer does not depend on the size of batches, so these are the
    batches of a buffer of one's own.

    Args:
        batch_events: events of a batch, of which a block holds a multiple or is the last; 0:
            all of a block.
        event_tokens: tokens of an event.
    """

    def __init__(self, batch_events: int, event_tokens: int):
        self._size, self._event_tokens = batch_events, event_tokens
        self._served = 0  # events
        self._block: Batch | None = None
        self._at = 0

    @property
    @override
    def served_tokens(self) -> int:
        return self._served * self._event_tokens

    def give(self, block: Batch) -> None:
        """Take the next block, of which `served` is false until all of it was."""
        self._block, self._at = block, 0

    @property
    def served(self) -> bool:
        """The block was served."""
        return self._block is None or self._at >= len(self._block[0])

    @override
    def batch(self) -> Batch:
        assert self._block is not None
        whole = len(self._block[0])
        part = slice(self._at, self._at + (self._size or whole))
        x, y = (side[part] for side in self._block)
        self._at += len(x)
        self._served += len(x)
        return x, y

    @override
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {"served_events": self._served}

    @override
    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._served = values["served_events"]


def in_step(
    runs: Mapping[str, Run],
    harvests: Mapping[str, Harvest],
    out: Path,
    stop: StopRequest,
    *,
    digest: str,
    shown: bool,
) -> dict[str, str]:
    """Train SAEs side by side, those of one harvest from one buffer; return what broke.

    Args:
        runs: by name, with one length and one order.
        harvests: of each run; one object where activations are the same.
        out: folder of their folders.
        stop: asks for an end.
        digest: identity of the sweep, which its checkpoints belong to.
        shown: show progress on stderr.

    Raises:
        ConfigError: batches do not divide one another, or a run asks to go back by itself.
        Interrupted: a signal asked for a stop; a checkpoint was written.
    """
    group, began = _Group(runs, harvests, out, digest), time.monotonic()
    progress = Progress("train", group.total_tokens, shown=shown)
    progress.start_at(group.served_tokens)
    every = min(run.checkpoint_every or math.inf for run in runs.values())
    next_save = group.served_tokens + every
    minutes = min(run.checkpoint_minutes or math.inf for run in runs.values())
    clock = checkpoint.Clock(minutes)
    try:
        while group.served_tokens < group.total_tokens and len(group.broken) < len(runs):
            group.step()
            progress.reach(group.served_tokens, f"{len(runs) - len(group.broken)} SAEs")
            if group.served_tokens >= group.total_tokens:
                break
            if group.served_tokens >= next_save or clock.due or stop.asked:
                with clock.writing():
                    group.save()
                next_save = group.served_tokens + every
            if stop.asked:
                raise Interrupted(
                    f"{stop.asked} after {group.served_tokens:,} of {group.total_tokens:,} "
                    f"tokens; checkpoints were written."
                )
        for name, session in group.sessions.items():
            if name not in group.broken:
                session.note_text_ended()
    finally:
        progress.close()
        for session in group.sessions.values():
            session.log.close()
    group.finish(time.monotonic() - began)
    return group.broken


class _Group:
    """Trainings side by side, and the buffers that they are fed from.

    A checkpoint of all is each training's own, and the buffers under ``out / checkpoints``,
    which are written last: a state is whole when they are there.
    """

    def __init__(
        self, runs: Mapping[str, Run], harvests: Mapping[str, Harvest], out: Path, digest: str
    ):
        self.runs, self.harvests, self.out, self._digest = runs, harvests, out, digest
        block = _block_tokens(runs)
        scalings = {
            n: fit_scaling(harvests[n], r.sae, r.normalise, r.centre) for n, r in runs.items()
        }
        self._shuffles = _shuffles(runs, harvests, block)
        state, _ = checkpoint.newest(out / "checkpoints", digest)
        self.broken: dict[str, str] = {}
        self._blocks = 0
        if state is not None:
            self.broken, self._blocks = dict(state.values["broken"]), state.step
            # A writer that was killed between a checkpoint and this had no time for it.
            checkpoint.drop_old(out / "checkpoints", state.step)
            for key, shuffle in self._shuffles.items():
                shuffle.load(state.tensors[key], state.values["streams"][key])
        self.views: dict[str, View] = {}
        self.sessions: dict[str, Session] = {}
        for name, run in runs.items():
            if name in self.broken:
                continue
            joint = run.pair.event_tokens > 1
            self.views[name] = View(0 if joint else run.step_tokens, run.pair.event_tokens)
            begun = (out / name / RUN).exists()
            kept = open_folder(run, harvests[name].model, out / name, begun)
            self.sessions[name] = begin(
                run,
                harvests[name],
                self.views[name],
                scalings[name],
                out / name,
                resume=state is not None,
                shown=False,
                kept=kept,
                at_step=None if state is None else state.values["steps"][name],
            )

    @property
    def _first(self) -> Rolling:
        return next(iter(self._shuffles.values()))

    @property
    def served_tokens(self) -> int:
        """Tokens that every training was given."""
        return self._first.served_tokens

    @property
    def total_tokens(self) -> int:
        """Tokens of all epochs; where the text ends early at a site, they end for all."""
        return min(shuffle.total_tokens for shuffle in self._shuffles.values())

    def step(self) -> None:
        """Give every training a block."""
        blocks = {id(s.harvest): s.batch() for s in self._shuffles.values()}
        for name, session in self.sessions.items():
            if name in self.broken:
                continue
            view = self.views[name]
            view.give(blocks[id(self.harvests[name])])
            try:
                while not view.served:
                    session.step()
            except TrainingError as error:
                self.broken[name] = str(error)
                record.note_end(self.out / name, error)
        self._blocks += 1

    def save(self) -> None:
        """Write a checkpoint of all."""
        steps = {}
        for name, session in self.sessions.items():
            if name not in self.broken:
                session.training.save(self.out / name / "checkpoints")
                steps[name] = session.training.index
        states = {key: shuffle.state() for key, shuffle in self._shuffles.items()}
        values = {
            "steps": steps,
            "broken": self.broken,
            "streams": {key: numbers for key, (_, numbers) in states.items()},
        }
        tensors = {key: found for key, (found, _) in states.items()}
        whole = checkpoint.State(self._blocks, tensors, values)
        checkpoint.write(self.out / "checkpoints", whole, self._digest)

    def finish(self, seconds: float) -> None:
        """Write the finished SAEs."""
        for name, session in self.sessions.items():
            if name not in self.broken:
                taken = session.meter.seconds_before + seconds
                end(self.runs[name], self.harvests[name], session, self.out / name, taken)


def _block_tokens(runs: Mapping[str, Run]) -> int:
    """Return the tokens of a block: those of the largest batch."""
    block = max(run.step_tokens for run in runs.values())
    for name, run in runs.items():
        if run.rollbacks:
            raise ConfigError(
                f"SAEs trained side by side cannot go back alone; {name} has "
                f"rollbacks={run.rollbacks}. Set it to 0, or raise `buffer_tokens` to `tokens`."
            )
        if block % run.step_tokens or (run.pair.window and run.step_tokens != block):
            raise ConfigError(
                f"SAEs trained side by side need batches that divide the largest, or of one "
                f"size where windows are coded; {name} has {run.step_tokens}, the largest is "
                f"{block}. Set `batch_tokens`."
            )
    return block


def _shuffles(
    runs: Mapping[str, Run], harvests: Mapping[str, Harvest], block: int
) -> dict[str, Rolling]:
    """Return the buffer of each harvest, by a name for its checkpoint."""
    found: dict[int, Rolling] = {}
    for name, run in runs.items():
        harvest = harvests[name]
        if id(harvest) not in found:
            found[id(harvest)] = Rolling(
                harvest,
                buffer_tokens=run.buffer_tokens,
                tokens=run.tokens,
                epochs=run.epochs,
                batch_tokens=block,
                seed=run.order,
            )
    return {f"buffer-{i}": shuffle for i, shuffle in enumerate(found.values())}
