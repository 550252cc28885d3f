"""`saekit reproduce`: make something again, and say which numbers are the same."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.core.errors import ConfigError
from saekit.terminal.output import emit


def reproduce(
    source: Annotated[
        Path,
        typer.Argument(
            help="A run, a result, a comparison, an index, a written text or a study's folder; or "
            "the JSON file that says what one was made from."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to make. [reproduced/NAME]")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what of the environment is different.")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Share of a quantity within which a difference is rounding. [0 where the same "
            "bits are expected, else 0.001]"
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress of the command.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Run the command that made something again, and compare the numbers.

    Exit code 3 where one differs; with --check, where the environment does.

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
