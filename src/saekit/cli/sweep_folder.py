"""What `saekit eval` and `saekit report` do with the folder of a sweep: every SAE in it."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from saekit.core.errors import ConfigError, FormatError, SaekitError
from saekit.terminal.output import emit

if TYPE_CHECKING:
    from saekit.core.result import Result

SHOWN = ("fvu", "l0", "ce_rise", "kl", "dead")


def is_sweep(folder: Path) -> bool:
    """Return whether a folder is that of a sweep."""
    from saekit.report.sweep_page import SWEEP

    return (folder / SWEEP).exists()


def evaluate_all(
    folder: Path, name: str, measure: Callable[[Path], "Result"], out: Path | None, as_json: bool
) -> None:
    """Evaluate every trained SAE of a sweep; each result goes to its own run, all to one table.

    An SAE that was not trained, or cannot be measured, is named, and the others go on.

    Args:
        folder: the sweep's.
        name: of the evaluation.
        measure: evaluates one run, writes its result and returns it.
        out: the table; SWEEP/eval/NAME.csv where None.
        as_json: end with one line of JSON.

    Raises:
        FormatError: no SAE of the sweep is trained.
    """
    from saekit.core.result import Table
    from saekit.report.sweep_page import varied_settings

    runs = _runs(folder)
    found: dict[str, Result] = {}
    failed = {n: "not trained" for n in runs if not _is_trained(folder / n)}
    if len(failed) == len(runs):
        again = f"saekit sweep --resume {shlex.quote(str(folder))}"
        raise FormatError(f"No SAE of {folder} is trained. Go on: {again}")
    for run in runs:
        if run not in failed:
            try:
                found[run] = measure(folder / run)
            except (ConfigError, FormatError) as error:
                failed[run] = str(error)
    if not found:
        raise _none_measured(failed)
    varied = varied_settings(runs)
    scores = list(dict.fromkeys(s for result in found.values() for s in result.scores))
    columns: dict[str, list[Any]] = {"run": list(found)}
    columns |= {key: [varied[run][key] for run in found] for key in next(iter(varied.values()))}
    for score in scores:
        each = [result.scores.get(score) for result in found.values()]
        for end, part in (("", "value"), ("_low", "low"), ("_high", "high")):
            columns[score + end] = [getattr(one, part, None) for one in each]
    path = out or folder / "eval" / f"{name}.csv"
    Table(columns=columns).write_csv(path)
    lines = [*_lines(found), *(f"left out {n}: {why}" for n, why in failed.items())]
    lines += [f"table    {path}", f"next     saekit report {shlex.quote(str(folder))}"]
    record = {
        "table": str(path),
        "left_out": failed,
        "runs": {n: {k: s.value for k, s in r.scores.items()} for n, r in found.items()},
    }
    emit(record, as_json=as_json, lines=lines)
    if failed:
        raise typer.Exit(3)


def report_all(folder: Path, out: Path | None, as_json: bool) -> None:
    """Write a page of every SAE of a sweep that was trained, and one page of them all."""
    from saekit.core.result import Result
    from saekit.report.page import write_report
    from saekit.report.sweep_page import write_sweep_page

    results: dict[str, Result | None] = {}
    pages: dict[str, Path] = {}
    for run in _runs(folder):
        place = folder / run
        core = place / "eval" / "core.json"
        results[run] = Result.read(core) if core.exists() else None
        if (place / "run.json").exists():
            pages[run] = write_report(place, place / "report.html")
    path = write_sweep_page(folder, out or folder / "report.html", results, pages)
    record = {
        "report": str(path),
        "bytes": path.stat().st_size,
        "pages": {n: str(p) for n, p in pages.items()},
    }
    lines = [f"report   {path}: {len(results)} SAEs, a page each"]
    emit(record, as_json=as_json, lines=lines)


def _runs(folder: Path) -> dict[str, dict[str, Any]]:
    from saekit.core.files import read_json
    from saekit.report.sweep_page import SWEEP

    raw = read_json(folder / SWEEP)
    runs = raw.get("runs") if isinstance(raw, dict) else None
    if not isinstance(runs, dict) or not runs:
        raise FormatError(f"{folder / SWEEP} names no runs. Sweep again into another folder.")
    return runs


def _is_trained(run: Path) -> bool:
    return (run / "sae" / "config.json").exists()


def _none_measured(failed: dict[str, str]) -> SaekitError:
    """Return what stops a sweep of which no SAE could be measured: the first reason."""
    name, why = next((n, w) for n, w in failed.items() if w != "not trained")
    return ConfigError(f"No SAE of the sweep could be measured. {name}: {why}")


def _lines(found: "dict[str, Result]") -> list[str]:
    width = max(len("run"), *(len(name) for name in found))
    lines = [f"  {'run':<{width}}" + "".join(f"{n:>12}" for n in SHOWN)]
    for name, result in found.items():
        scores = [result.scores.get(n) for n in SHOWN]
        cells = ["" if s is None or s.value is None else f"{s.value:.4g}" for s in scores]
        lines.append(f"  {name:<{width}}" + "".join(f"{c:>12}" for c in cells))
    return lines
