"""`saekit faithful`: which of some dictionaries is more the model's own."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.output import emit

app = typer.Typer(help="Which of some SAEs is more the model's own.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    pass


@app.command("compare")
def compare(
    one: Annotated[Path, typer.Argument(help="Result of an SAE: RUN/eval/fake_features.json.")],
    other: Annotated[Path, typer.Argument(help="Result of another, with the same seed.")],
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """Compare how many fake features two SAEs have, on the noise that both have seen.

    Example: saekit faithful compare a/eval/fake_features.json b/eval/fake_features.json
    """
    from saekit.core.result import Result
    from saekit.studies.faithful.fakes.statistics import differences

    found = differences(Result.read(one), Result.read(other))
    emit({"differences": found.rows()}, as_json=as_json, lines=[str(found)])
