"""`saekit causal`: figures of what latents do when they are taken out."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit

app = typer.Typer(
    help="Figures of evaluations that change latents and see what follows.", no_args_is_help=True
)
NEEDS = {"curves": ("matplotlib", "figures")}


@app.callback()
def _root() -> None:
    pass


@app.command("curves")
def curves_(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of SAEs that saekit eval --eval tpp or scr measured."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="File for the figure (.svg, .pdf or .png); its numbers go next to it as CSV."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Draw TPP and SCR against the number of latents set to 0, with their floors.

    Example: saekit causal curves runs/mine --out curves.svg
    """
    from saekit.studies.causal.figures import curves
    from saekit.studies.causal.results import results_of

    results = results_of(runs)
    curves.draw(results, out)
    found = {name: [one.name for one in each] for name, each in results.items()}
    emit({"figure": str(out), "results": found}, as_json=as_json, lines=[f"figure   {out}"])
