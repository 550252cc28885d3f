"""`saekit toy_study`: what a run weighs."""

from pathlib import Path
from typing import Annotated

import typer
from saekit.studies.toy_study import weigh as weight_of

from saekit.terminal.output import emit

app = typer.Typer(help="What runs weigh.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Keep the name of the only command."""


@app.command("weigh")
def weigh(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Say how many bytes an SAE has.

    Example: saekit toy_study weigh runs/mine
    """
    found = weight_of(run)
    emit({"bytes": found}, as_json=as_json, lines=[f"{found:,} bytes"])
