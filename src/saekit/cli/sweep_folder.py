"""What `saekit eval` and `saekit report` do with the folder of a sweep: every SAE in it."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from saekit.core.errors import ConfigError, FormatError, SaekitError
from saekit.terminal.output import emit

if TYPE_CHECKING:
    from saekit.core.result import Result
    from saekit.data.base import HeldOut
    from saekit.hub.opening import OpenSAE

SHOWN = ("fvu", "l0", "ce_rise", "kl", "dead")


def is_sweep(folder: Path) -> bool:
    """Return whether a folder is that of a sweep."""
    from saekit.report.sweep_page import SWEEP

    return (folder / SWEEP).exists()


def kept_as(name: str, split: "HeldOut") -> str:
    """Return where a result goes below the folder of results: those to choose by lie apart."""
    return name if split == "test" else f"{split}/{name}"


def split_for(runs: list[Path], asked: str | None, *, alone: bool) -> "HeldOut":
    """Return which part of the text is read.

    The SAEs of a sweep are told apart by validation text, where its runs keep any: the test text
    then stays for the one that is chosen.

    Args:
        runs: what is measured.
        asked: what the user says; None: nothing.
        alone: each SAE has a result of its own.

    Raises:
        ConfigError: there is no such part, or it is trained on.
    """
    from saekit.data.base import as_held_out

    if asked is not None:
        return as_held_out(asked)
    of_sweep = alone and len(runs) == 1 and is_sweep(runs[0])
    return "validation" if of_sweep and _keep_validation(runs[0]) else "test"


def _keep_validation(sweep: Path) -> bool:
    from saekit.data.held_out import shares_of

    shares = (shares_of(run.get("corpus")) for run in _runs(sweep).values())
    return all(one is not None and one.validation for one in shares)


class Measured(NamedTuple):
    """How SAEs are measured: opened each, and then all that are open together."""

    open: "Callable[[Path], OpenSAE]"
    measure: "Callable[[dict[Path, OpenSAE]], dict[Path, Result]]"  # and writes each result
    shared: bool  # the evaluation can share the model's pass among SAEs

    def each(
        self, folders: "dict[str, Path]"
    ) -> "tuple[dict[str, Result], dict[str, SaekitError]]":
        """Return the result of every SAE by name, and why others have none."""
        found: dict[str, Result] = {}
        failed: dict[str, SaekitError] = {}
        opened: dict[Path, OpenSAE] = {}
        for name, folder in folders.items():
            try:
                one = self.open(folder)
                if self.shared:
                    opened[folder] = one
                else:
                    found[name] = self.measure({folder: one})[folder]
            except (ConfigError, FormatError) as error:
                failed[name] = error
        if opened:
            names = {folder: name for name, folder in folders.items()}
            try:
                results = self.measure(opened)
            except (ConfigError, FormatError):  # one that stops all: each by itself tells which
                return self._replace(shared=False).each(folders)
            found = {names[folder]: result for folder, result in results.items()}
        return found, failed


def trained_runs(folder: Path) -> list[Path]:
    """Return the folders of the SAEs of a sweep that are trained.

    Raises:
        FormatError: none is.
    """
    found = [folder / name for name in _runs(folder) if _is_trained(folder / name)]
    if not found:
        again = f"saekit sweep --resume {shlex.quote(str(folder))}"
        raise FormatError(f"No SAE of {folder} is trained. Go on: {again}")
    return found


def evaluate_all(
    folder: Path, name: str, measured: Measured, out: Path | None, as_json: bool
) -> None:
    """Evaluate every trained SAE of a sweep; each result goes to its own run, all to one table.

    An SAE that was not trained, or cannot be measured, is named, and the others go on.

    Args:
        folder: the sweep's.
        name: of the evaluation, or of where its results go (see `kept_as`).
        measured: opens and evaluates runs.
        out: the table; SWEEP/eval/NAME.csv where None.
        as_json: end with one line of JSON.

    Raises:
        FormatError: no SAE of the sweep is trained.
    """
    from saekit.report.sweep_page import varied_settings

    runs = _runs(folder)
    trained = {place.name: place for place in trained_runs(folder)}
    found, failed = measured.each(trained)
    varied = varied_settings(runs)
    columns = {key: [varied[run][key] for run in found] for key in next(iter(varied.values()))}
    lost = {n: "not trained" for n in runs if n not in trained}
    lost |= {n: str(error) for n, error in failed.items()}
    path = out or folder / "eval" / f"{name}.csv"
    more = [f"next     saekit report {shlex.quote(str(folder))}"]
    if not _keep_validation(folder):
        note = "its runs keep no text for validation, so that what is chosen by these scores is"
        more.insert(0, f"note     {note} chosen on test text")
    _tell((found, lost), columns, path, more, as_json)


def evaluate_several(
    folders: list[Path], name: str, measured: Measured, out: Path | None, as_json: bool
) -> None:
    """Evaluate several SAEs; each result goes to its own folder, and all to one table where asked.

    Args:
        folders: of the SAEs.
        name: of the evaluation, or of where its results go (see `kept_as`).
        measured: opens and evaluates them.
        out: the table; None: none is written.
        as_json: end with one line of JSON.
    """
    from saekit.hub.names import results_folder

    places = {str(folder): folder for folder in folders}
    if len(places) < len(folders):
        raise ConfigError(f"An SAE is named twice: {', '.join(map(str, folders))}.")
    found, failed = measured.each(places)
    files = [results_folder(places[run]) / "eval" / f"{name}.json" for run in found]
    more = [f"result   {file}" for file in files if file.is_file()]
    _tell((found, {n: str(error) for n, error in failed.items()}), {}, out, more, as_json)


def _tell(
    found_and_failed: "tuple[dict[str, Result], dict[str, str]]",
    columns: dict[str, list[Any]],
    path: Path | None,
    more: list[str],
    as_json: bool,
) -> None:
    """Write the table of several SAEs' scores and say what became of each."""
    from saekit.core.result import Table, split_lines

    found, failed = found_and_failed
    if not found:
        raise _none_measured(failed)
    scores = list(dict.fromkeys(s for result in found.values() for s in result.scores))
    columns = {"run": list(found), **columns}
    for score in scores:
        each = [result.scores.get(score) for result in found.values()]
        for end, part in (("", "value"), ("_low", "low"), ("_high", "high")):
            columns[score + end] = [getattr(one, part, None) for one in each]
    made = next(iter(found.values())).provenance
    lines = [*_lines(found), *split_lines(made)]
    lines += [f"left out {n}: {why}" for n, why in failed.items()]
    if path is not None:
        Table(columns=columns).write_csv(path)
        lines.append(f"table    {path}")
    lines += more
    record = {
        "table": None if path is None else str(path),
        "split": made.get("split"),
        "left_out": failed,
        "runs": {n: {k: s.value for k, s in r.scores.items()} for n, r in found.items()},
    }
    emit(record, as_json=as_json, lines=lines)
    if failed:
        raise typer.Exit(3)


def report_all(folder: Path, out: Path | None, as_json: bool) -> None:
    """Write a page of every SAE of a sweep that was trained, and one page of them all.

    The page of all has the scores of validation text, by which one is chosen, where there are any.
    """
    from saekit.core.result import Result
    from saekit.report.bare_page import check
    from saekit.report.page import write_report
    from saekit.report.sweep_page import write_sweep_page

    place = out or folder / "report.html"
    check(place)  # before the page of every SAE
    results: dict[str, Result | None] = {}
    pages: dict[str, Path] = {}
    files = [f"eval/{kept_as('core', split)}.json" for split in ("validation", "test")]
    file = next((f for f in files if any((folder / run / f).exists() for run in _runs(folder))), "")
    for run in _runs(folder):
        one = folder / run
        core = one / (file or files[-1])
        results[run] = Result.read(core) if core.exists() else None
        if (one / "run.json").exists():
            pages[run] = write_report(one, one / "report.html")
    path = write_sweep_page(folder, place, results, pages)
    record = {
        "report": str(path),
        "bytes": path.stat().st_size,
        "pages": {n: str(p) for n, p in pages.items()},
    }
    lines = [f"report   {path}: {len(results)} SAEs, a page each"]
    emit(record, as_json=as_json, lines=lines)


def _runs(folder: Path) -> dict[str, dict[str, Any]]:
    from saekit.core.border import inside
    from saekit.core.files import read_json
    from saekit.report.sweep_page import SWEEP

    raw = read_json(folder / SWEEP)
    runs = raw.get("runs") if isinstance(raw, dict) else None
    if not isinstance(runs, dict) or not runs:
        raise FormatError(f"{folder / SWEEP} names no runs. Sweep again into another folder.")
    for name in runs:
        inside(folder, name)
    return runs


def _is_trained(run: Path) -> bool:
    return (run / "sae" / "config.json").exists()


def _none_measured(failed: dict[str, str]) -> SaekitError:
    """Return what stops a sweep of which no SAE could be measured: the first reason."""
    name, why = next((n, w) for n, w in failed.items() if w != "not trained")
    return ConfigError(f"No SAE of the sweep could be measured. {name}: {why}")


def _lines(found: "dict[str, Result]") -> list[str]:
    """Return a line an SAE with its most important scores."""
    scored = list(dict.fromkeys(n for result in found.values() for n in result.scores))
    core = [n for n in SHOWN if n in scored]
    shown = core or _headline(next(iter(found.values())).name, scored)
    rows = [["run", *shown]]
    for name, result in found.items():
        scores = [result.scores.get(n) for n in shown]
        cells = ["" if s is None or s.value is None else f"{s.value:.4g}" for s in scores]
        rows.append([name, *cells])
    widths = [max(10, *map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"  {row[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]


def _headline(name: str, scored: list[str]) -> list[str]:
    """Return the scores that an evaluation puts first, or its first few where it says none."""
    from saekit.evals.base import picked, registry

    patterns = registry.get(name).headline if name in registry.names() else ()
    return picked(patterns, scored) or scored[: len(SHOWN)]
