"""Fitting: training on vectors that come from no language model, in a folder or in none.

`Training` does the steps, `Scaling` the scaling, `SAE.rescale` folds it, checkpoints are those of
any run: only where batches come from differs, and what else decides the weights.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saekit.activations.shuffle import Stream
from saekit.core import provenance
from saekit.core.border import bordered
from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import read_json, sha256_of, write_json
from saekit.core.lock import claimed
from saekit.core.parts import check_empty
from saekit.hub import native
from saekit.hub.card import Card
from saekit.saes.base import SAE
from saekit.training import record
from saekit.training.fit import Fit
from saekit.training.record import Record
from saekit.training.scaling import Scalings
from saekit.training.session import Session
from saekit.training.signals import StopRequest
from saekit.training.trainer import Training

FIT = "fit.json"


class FitFolder:
    """What a fit leaves in its folder; nothing where it has none.

    As a context, it holds the folder, writes what decides the weights first, and how the fit ended
    where it failed.

    Args:
        fit: what training does.
        out: an empty or new folder, or that of the fit to go on with; None: write nothing.
        resume: go on with the fit in `out`.
        command: who holds the folder meanwhile, as "saekit truth train".
        go_on: the command or call that goes on with a fit that was stopped.
        begun_with: what decides the weights beside the settings, JSON-ready.
        same: is given what the fit in `out` was begun with, and refuses another; what it leaves is
            compared word by word.
        manifest: what the manifest says beside how the fit stands.

    Raises:
        ConfigError: `resume` without a folder.
    """

    def __init__(  # noqa: PLR0913 - what a folder is begun with and compared with
        self,
        fit: Fit,
        out: Path | None,
        *,
        resume: bool,
        command: str,
        go_on: str,
        begun_with: dict[str, Any],
        same: Callable[[dict[str, Any]], None],
        manifest: dict[str, Any],
    ):
        if out is None and resume:
            raise ConfigError("`resume` goes on with the run in `out`; got no folder. Give one.")
        self.fit, self.out, self.resume = fit, out, resume
        self._command, self._same = command, same
        self.go_on = "" if out is None else go_on
        self._made_from = manifest
        self._begun_with = {} if out is None else record.begun_with(None, None, out, **begun_with)
        self._held = contextlib.ExitStack()
        self._found: Record | None = None
        self._began = 0.0

    @property
    def identity(self) -> str | None:
        """What checkpoints are marked with, where the run goes on with those of another time."""
        return None if self._found is None else self._found.identity

    def __enter__(self) -> "FitFolder":
        self._began = time.monotonic()
        if self.out is None:
            return self
        try:
            self._held.enter_context(claimed(self.out, self._command, f"Go on with: {self.go_on}"))
            self._found = self._checked(self.out)
            if self._found is None:
                record.begin(self.out / FIT, self.fit.to_dict(), self._begun_with)
            write_json(self.out / record.MANIFEST, self._manifest(record.RUNNING))
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self.out is not None and error is not None:
            record.note_end(self.out, error)
        self._held.close()

    def finish(self, sae: SAE, card: Card, seconds_before: float) -> None:
        """Write the finished SAE; the run took some seconds before it was taken up again."""
        if self.out is None:
            return
        native.save(sae, card, self.out / "sae")
        more = {
            "seconds": seconds_before + time.monotonic() - self._began,
            "weights_sha256": sha256_of(self.out / "sae" / "weights.safetensors"),
        }
        write_json(self.out / record.MANIFEST, self._manifest(record.DONE) | more)

    def _manifest(self, status: str) -> dict[str, Any]:
        more = {"status": status, "provenance": provenance.collect(self.fit.seed)}
        return self._made_from | more

    def _checked(self, out: Path) -> Record | None:
        """Refuse a folder that is in use or holds another run; return what is recorded of this."""
        if not self.resume:
            check_empty(
                out, f"Choose another folder, delete it, or go on with the run in it: {self.go_on}"
            )
            return None
        return _compared(out, self.fit, self._begun_with, self._same)


@bordered("a run")
def _compared(
    out: Path, fit: Fit, now: dict[str, Any], same: Callable[[dict[str, Any]], None]
) -> Record:
    """Return the record of the fit in a folder, which is this one."""
    if not (out / FIT).exists():
        raise FormatError(f"{out} holds no run to go on with: it has no {FIT}.")
    found = record.read(out / FIT)
    begun = found.begun_with
    if not found.version:  # an early version noted it in the manifest alone, right afterwards
        there = (out / record.MANIFEST).exists()
        told = read_json(out / record.MANIFEST) if there else now
        begun = {"truth": told["truth"]}
    same(begun)
    before = Record(record.completed(found.settings, type(fit)), begun)
    record.compare(before, Record(fit.to_dict(), now), out)
    return found


def fit_stream(  # noqa: PLR0913 - a training, and what its folder says of it
    fit: Fit,
    stream: Stream,
    scalings: Scalings,
    folder: FitFolder,
    *,
    autoencoder: bool,
    device: torch.device | str = "cpu",
    shown: bool = True,
    first: Callable[[int], tuple[Tensor, Tensor]] | None = None,
    weights: dict[str, Tensor] | None = None,
    at_start: Callable[[Training], None] = lambda training: None,
    after_step: Callable[[Training], None] = lambda training: None,
) -> tuple[SAE, float]:
    """Train an SAE on a stream.

    Args:
        fit: what training does.
        stream: where batches come from, new.
        scalings: what they go through.
        folder: entered.
        autoencoder: the target is the input.
        device: where weights live.
        shown: show progress on stderr.
        first: see `Training`.
        weights: see `Training`.
        at_start: is called before the first step, where a fit that goes on is taken up again.
        after_step: is called after each step.

    Returns:
        the SAE, folded to take raw vectors, and the seconds that training took before it was taken
        up again, for `FitFolder.finish`.

    Raises:
        ConfigError: the architecture cannot be trained with these settings.
        Interrupted: Ctrl-C or SIGTERM came; where there is a folder, a checkpoint was written.
        TrainingError: the loss became NaN or infinite.
    """
    training = Training(fit, stream, device, identity=folder.identity, first=first, weights=weights)
    session = Session(
        training,
        scalings,
        autoencoder=autoencoder,
        out=folder.out,
        resume=folder.resume,
        go_on=folder.go_on,
        shown=shown,
    )
    at_start(training)
    with session, StopRequest() as stop:
        while not session.done:
            session.step()
            after_step(training)
            session.keep(stop.asked)
    return session.finish().eval(), session.meter.seconds_before
