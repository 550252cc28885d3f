"""Watch: runs under way, as text: where they are, how it goes, how long still."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saekit.core.border import bordered, inside, reading
from saekit.core.errors import FormatError
from saekit.core.files import read_object
from saekit.core.progress import clock, seconds_left
from saekit.core.stats.plain import share
from saekit.report.follow import records, status

BARS = "▁▂▃▄▅▆▇█"
SHOWN = {
    "loss": "loss",
    "fvu": "FVU",
    "l0": "L0",
    "dead": "dead latents",
    "tokens_per_second": "tokens/s",
    "memory_bytes": "memory, GB",
    "lr": "learning rate",
}


@bordered("a run or a sweep")
def runs_in(folder: Path) -> list[Path]:
    """Return the runs of a folder: itself, or those of the sweep it holds.

    Raises:
        FormatError: it holds neither.
    """
    if (folder / "manifest.json").exists():
        return [folder]
    if (folder / "sweep.json").exists():
        names = read_object(folder / "sweep.json")["runs"]
        runs = [inside(folder, name) for name in names]
        return [run for run in runs if (run / "manifest.json").exists()]
    raise FormatError(
        f"{folder} holds no run and no sweep: it has no manifest.json and no sweep.json."
    )


@bordered("a run")
def dashboard(run: Path, width: int = 40) -> str:
    """Return a few lines on one run: its place, each number and its course so far.

    Args:
        run: the folder.
        width: characters of a course.
    """
    steps = [r for r in records(run) if r["kind"] == "step"]
    config = next((run / n for n in ("run.json", "fit.json") if (run / n).exists()), None)
    total = 0
    if config is not None:
        raw = read_object(config)
        total = raw["tokens"] * raw["epochs"]
    head = f"{run}: {status(run)}"
    if not steps:
        return f"{head}, no step logged yet"
    last = steps[-1]
    done = share(last["tokens"], total)
    head += f", {100 * done:.0f} % of {total:,} tokens, step {last['step']:,}"
    speed = last["tokens_per_second"]
    if status(run) == "running" and speed > 0:
        head += f", {clock(seconds_left(last['tokens'], total, speed))} left"
    backs = sum(r["kind"] == "rollback" for r in records(run))
    lines = [head + (f", went back {backs} times" if backs else "")]
    for key, name in SHOWN.items():
        values = [float(r[key]) for r in steps if r.get(key) is not None]
        if values:
            lines.append(f"  {name:<14} {_number(key, values[-1]):>10}  {spark(values, width)}")
    return "\n".join(lines)


def _number(key: str, value: float) -> str:
    if key == "memory_bytes":
        return f"{value / 1e9:.2f}"
    if key in ("dead", "tokens_per_second"):
        return f"{value:,.0f}"
    return f"{value:.4g}"


def spark(values: Sequence[float], width: int) -> str:
    """Return a course of values as bars between its least and its largest."""
    n = min(width, len(values))
    picked = [values[(i + 1) * len(values) // n - 1] for i in range(n)]
    finite = [v for v in picked if v == v and abs(v) != float("inf")]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    size = (high - low) or 1.0

    def bar(value: float) -> str:
        if value not in finite:
            return "!"
        return BARS[int((value - low) / size * (len(BARS) - 1) + 0.5)]

    return "".join(map(bar, picked))


def over(runs: Sequence[Path]) -> bool:
    """Tell whether every run is over."""
    return all(status(run) != "running" for run in runs)


def state(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the last step of each run, JSON-ready."""
    out = []
    for run in runs:
        with reading(run, "a run"):
            steps = [r for r in records(run) if r["kind"] == "step"]
        out.append({"run": str(run), "status": status(run), **(steps[-1] if steps else {})})
    return out
