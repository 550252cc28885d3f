"""`saekit eval`: how good an SAE is, on text it was not trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.cli.sweep_folder import (
    Measured,
    evaluate_all,
    evaluate_several,
    is_sweep,
    kept_as,
    split_for,
    trained_runs,
)
from saekit.core.result import score_lines, split_lines
from saekit.terminal.common_options import AsJson, OneSite, Quiet
from saekit.terminal.output import emit, note_lines
from saekit.terminal.sae_options import SAEOptions, takes

if TYPE_CHECKING:
    from collections.abc import Callable

    from saekit.core.result import Result
    from saekit.hub.opening import OpenSAE
    from saekit.models.base import LanguageModel


@takes(SAEOptions)
def evaluate(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="What to measure, one or several: folder of a run, of an SAE or of a sweep, or a "
            "published SAE's name."
        ),
    ],
    name: Annotated[
        str, typer.Option("--eval", help="Which evaluation to run (see: saekit list evals).")
    ] = "core",
    suite: Annotated[
        str | None,
        typer.Option(
            help="Run several evaluations with their floors and print one table (see: "
            "saekit list suites)."
        ),
    ] = None,
    tier: Annotated[
        str,
        typer.Option(
            help="With --suite: small, which runs offline on a CPU, or full, which reads more text."
        ),
    ] = "small",
    floors: Annotated[
        str | None,
        typer.Option(
            help="With --suite: which floors to measure, as untrained,pca, or none (see: saekit "
            "list floors). [the suite's]"
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="With --suite: also draw the scores into this .svg, .pdf or .png."),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="Text to measure on, named as for saekit train --corpus; its held-out part is "
            "read. [the one it was trained on]"
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Part of the text to measure on: test, or validation to choose between settings. "
            "[test; for a sweep validation, if its runs held some out]"
        ),
    ] = None,
    site: OneSite = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting of the evaluation, as ce_tokens=4096; with --suite as "
            "core.ce_tokens=4096. Repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the result (.json); for a sweep or several SAEs, file for a table of "
            "scores (.csv); with --suite, a folder. [RUN/eval/NAME.json, for validation text "
            "RUN/eval/validation/NAME.json; RUN/suites/NAME]"
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of what the evaluation draws at random; core draws nothing.")
    ] = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: SAEOptions,
) -> None:
    """Measure how good SAEs are on held-out text: one, several, or all of a sweep.

    Example: saekit eval runs/mine
    """
    import contextlib

    from saekit.core.config import override
    from saekit.core.lock import claimed_file
    from saekit.evals.base import Eval, JointEval, registry
    from saekit.evals.evaluate import measure_all, measure_together
    from saekit.hub.names import results_folder

    models: dict[str, LanguageModel] = {}
    several = [part for run in runs for part in (trained_runs(run) if is_sweep(run) else [run])]

    def opened(folder: Path) -> "OpenSAE":
        return sae.open(folder, corpus=corpus, site=site, models=models)

    _check_suite(suite, name, of_suite=tier != "small" or bool(floors or figure))
    alone = suite is None and not registry.get(name).joint
    part = split_for(runs, split, alone=alone)
    if suite is not None:
        asked = {"suite": suite, "tier": tier, "floors": _words(floors), "seed": seed}
        asked |= {"changes": settings or [], "split": part}
        place = out or _together(several) / "suites" / kept_as(suite, part)
        _evaluate_suite(several, opened, asked, site, (place, figure), not quiet, as_json=as_json)
        return
    config = override(registry.get(name)(), settings or [])
    one = isinstance(config, JointEval) or (len(runs) == 1 and not is_sweep(runs[0]))
    _check_out(out, is_table=not one)
    kept = kept_as(name, part)

    def path_of(folder: Path) -> Path:
        return results_folder(folder) / "eval" / f"{kept}.json"

    def measured(found: "dict[Path, OpenSAE]", paths: list[Path]) -> "dict[Path, Result]":
        with contextlib.ExitStack() as held:
            for path in paths:
                lost = "Nothing was measured to its end."
                held.enter_context(claimed_file(path, "saekit eval", lost))
            every = list(found.values())
            results = measure_all(every, config, site, seed, not quiet, part == "test", part)
            for result, path in zip(results, paths, strict=True):
                result.write(path)
        return dict(zip(found, results, strict=True))

    again = sae.typed(corpus=corpus, site=site)
    if isinstance(config, JointEval):
        every = [opened(run) for run in several]
        path = out or _together(several) / "eval" / f"{kept}.json"
        with claimed_file(path, "saekit eval", "Nothing was measured to its end."):
            tables = part == "test"
            result = measure_together(every, config, site, seed, not quiet, tables, part)
            result.write(path)
        _say(result, path, list(result.provenance["notes"]), "", as_json=as_json)
    elif one:
        path = out or path_of(runs[0])
        found = {runs[0]: opened(runs[0])}
        result = measured(found, [path])[runs[0]]
        notes = list(result.provenance["notes"])
        next_one = f"next     saekit index {runs[0]}{again}"
        _say(result, path, notes, next_one, as_json=as_json)
    else:
        shared = type(config).run_all is not Eval.run_all  # or else one after another, for memory
        each = Measured(opened, lambda f: measured(f, [path_of(p) for p in f]), shared)
        if len(runs) == 1:
            evaluate_all(runs[0], kept, each, out, as_json)
        else:
            evaluate_several(several, kept, each, out, as_json)


def _check_suite(suite: str | None, name: str, *, of_suite: bool) -> None:
    """Refuse options of a suite without one, and an evaluation next to one."""
    from saekit.core.errors import ConfigError

    if suite is None and of_suite:
        raise ConfigError("`--tier`, `--floors` and `--figure` are of a suite: name one, --suite.")
    if suite is not None and name != "core":
        raise ConfigError(f"A suite has its own evaluations; leave `--eval {name}` out.")


def _check_out(out: Path | None, *, is_table: bool) -> None:
    """Refuse a file to write that is there and is something else, as the settings of an SAE."""
    from saekit.core.errors import ConfigError, FormatError
    from saekit.core.result import Result
    from saekit.core.writable import check_ending

    if out is None:
        return
    check_ending(out, (".csv",) if is_table else (".json",), "A table" if is_table else "A result")
    try:
        if out.exists() and not is_table:
            Result.read(out)
    except FormatError as error:
        raise ConfigError(f"{out} is there and is no result. Choose another: --out.") from error


def _words(names: str | None) -> list[str] | None:
    """Return names with commas between as a list; "none" is an empty one."""
    return None if names is None else [one for one in names.split(",") if one not in ("none", "")]


def _evaluate_suite(
    folders: list[Path],
    opened: "Callable[[Path], OpenSAE]",
    asked: dict[str, Any],
    site: str | None,
    places: tuple[Path, Path | None],
    shown: bool,
    *,
    as_json: bool,
) -> None:
    """Run a suite and say what came of it; what cannot be opened is named, and the others go on."""
    from saekit.core.errors import SaekitError
    from saekit.core.writable import check_writable
    from saekit.evals.suite import SuiteSettings, lines, run_suite
    from saekit.report import style, suite_figure
    from saekit.report.study_file import write_study

    config, (out, figure) = SuiteSettings.from_dict(asked), places
    if figure is not None:
        style.check(figure.suffix)
        check_writable(figure)
    found: list[OpenSAE] = []
    broken: dict[str, SaekitError] = {}
    for folder in dict.fromkeys(folders):
        try:
            found.append(opened(folder))
        except SaekitError as error:
            broken[str(folder)] = error
    result = run_suite(found, config, site=site, out=out, broken=broken, tables=True, shown=shown)
    page = write_study(out, out / "report.html")
    drawn = [] if figure is None else [f"figure   {suite_figure.draw(result.rows, figure)}"]
    record = {
        "suite": str(out / "suite.json"),
        "report": str(page),
        "measured": result.provenance["measured"],
        "counts": result.counts,
        "rows": result.rows.rows(),
    }
    ends = [f"result   {out / 'suite.json'}", f"report   {page}", *drawn]
    emit(record, as_json=as_json, lines=[*lines(result), *ends])
    if result.failures:
        raise typer.Exit(3)


def _together(folders: list[Path]) -> Path:
    """Return where results of several SAEs go: their folder, or that of the first."""
    from saekit.hub.names import results_folder

    places = [results_folder(folder) for folder in folders]
    parents = {place.resolve().parent for place in places}
    return places[0].parent if len(parents) == 1 and len(places) > 1 else places[0]


def _say(result: "Result", path: Path, notes: list[str], more: str, *, as_json: bool) -> None:
    record = {k: s.value for k, s in result.scores.items()} | {"result": str(path)}
    record |= {"split": result.provenance["split"], "notes": notes}
    said = [*split_lines(result.provenance), *note_lines(notes)]
    lines = [*score_lines(result.scores), *said, f"result   {path}"]
    emit(record, as_json=as_json, lines=[*lines, *([more] if more else [])])
