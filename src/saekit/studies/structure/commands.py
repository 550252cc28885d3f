"""`saekit structure`: which latents are for a letter, and which took words over."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit

app = typer.Typer(
    help="Which latents stand for a first letter, and which words other latents took over.",
    no_args_is_help=True,
)


@app.command("letters")
def letters(
    run: Annotated[
        Path, typer.Argument(help="Folder of an SAE that saekit eval --eval absorption measured.")
    ],
    letter: Annotated[
        str | None, typer.Option(help="Letter to show, with its words. [all letters]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the latents for each first letter, and the words that other latents took over.

    Example: saekit structure letters runs/mine --letter s
    """
    from saekit.core.errors import ConfigError
    from saekit.core.result import Result
    from saekit.hub.names import results_folder
    from saekit.studies.structure.reading import lines, told

    path = results_folder(run) / "eval" / "absorption.json"
    if not path.exists():
        raise ConfigError(
            f"There is no {path}. Measure it first: saekit eval {run} --eval absorption"
        )
    found = told(Result.read(path), letter)
    emit({"letters": found}, as_json=as_json, lines=lines(found, words=letter is not None))
