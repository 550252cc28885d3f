"""`saekit watch` and `saekit track`: a run under way, here and in other tools."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit


def watch(
    folder: Annotated[Path, typer.Argument(help="Folder of a run or a sweep.")],
    once: Annotated[
        bool, typer.Option("--once", help="Print the current state once and end.")
    ] = False,
    every: Annotated[float, typer.Option(help="Seconds between updates.")] = 2.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the last records as one line of JSON and end.")
    ] = False,
) -> None:
    """Show how training is going: loss, FVU, L0, dead latents, speed, memory, time left.

    Example: saekit watch runs/mine
    """
    from saekit.report.watch import dashboard, over, runs_in, state

    if as_json or once:
        runs = runs_in(folder)
        lines = [dashboard(run) for run in runs] or ["no run has begun"]
        emit({"runs": state(runs)}, as_json=as_json, lines=lines)
        return
    redraw, drawn = sys.stdout.isatty(), 0
    while True:
        runs = runs_in(folder)
        text = "\n".join(dashboard(run) for run in runs) or "no run has begun"
        if redraw and drawn:
            sys.stdout.write(f"\x1b[{drawn}A\x1b[J")
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        drawn = text.count("\n") + 1
        if runs and over(runs):
            return
        time.sleep(max(every, 0.1))


def track(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    to: Annotated[str, typer.Option(help="Tracker to copy to: tensorboard, wandb or trackio.")],
    place: Annotated[
        str | None,
        typer.Option(
            help="Project of the tracker; for tensorboard, a folder. [saekit, or RUN/tensorboard]"
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--follow", help="Keep copying until the run is over.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy a training log to TensorBoard, wandb or Trackio, once or while the run goes on.

    Example: saekit track runs/mine --to wandb --follow
    """
    from saekit.core.files import read_json
    from saekit.report.follow import status
    from saekit.report.trackers.base import registry

    tracker = registry.get(to)(place)
    status(run)
    config = next((run / n for n in ("run.json", "fit.json") if (run / n).exists()), None)
    n = tracker.copy(run, read_json(config) if config else {}, wait=wait)
    emit({"run": str(run), "to": to, "steps": n}, as_json=as_json, lines=[f"copied   {n} steps"])
