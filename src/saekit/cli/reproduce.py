"""`saekit reproduce`: make something again, and say which numbers are the same."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.core.errors import ConfigError
from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit


def reproduce(
    source: Annotated[
        Path,
        typer.Argument(
            help="What is made again: folder of a run, comparison, index, written text or "
            "study, a result file, or the JSON file that says how it was made."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the new one to. [reproduced/NAME]")
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Run nothing; only say how this environment differs from the one it was made in.",
        ),
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest relative difference that is taken for rounding. [0 if the same bits are "
            "expected, otherwise 0.001]"
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Do not show the output of the command.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the command that made something again, and compare the numbers.

    Exit code 3 if a number differs; with --check, if the environment does.

    Example: saekit reproduce demo/eval/core.json
    """
    from saekit.report.reproduction.rerun import carried_out, lines, plan_of

    if check and (out is not None or tolerance is not None):
        raise ConfigError("`--check` runs nothing: leave out --out and --tolerance.")
    plan = plan_of(source, out=out, tolerance=tolerance, check=check)
    if check:
        facts = [one._asdict() for one in plan.facts]
        record = {"of": str(plan.origin.file), "exact": plan.exact, "environment": facts}
        emit(record, as_json=as_json, lines=plan.lines())
        if any(one.decides for one in plan.different):
            raise typer.Exit(3)
        return
    if not as_json:
        emit({}, as_json=False, lines=plan.lines())
    found = carried_out(plan, shown=not quiet)
    ends = [f"made     {plan.out}"]
    emit(found.record(), as_json=as_json, lines=[*lines(found), *ends])
    if not found.same:
        raise typer.Exit(3)
