"""`saekit causal`: figures of what latents do when they are taken out."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.output import emit

app = typer.Typer(
    help="What latents do: figures of evaluations by intervention.", no_args_is_help=True
)
NEEDS = {"curves": ("matplotlib", "figures")}


@app.callback()
def _root() -> None:
    pass


@app.command("curves")
def curves_(
    runs: Annotated[list[Path], typer.Argument(help="Folders of SAEs with results in eval.")],
    out: Annotated[Path, typer.Option(help="Figure to draw; its CSV lies next to it.")],
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Draw TPP and SCR by the number of latents taken out, with their floors.

    Example: saekit causal curves runs/mine --out curves.svg
    """
    from saekit.studies.causal.figures import curves
    from saekit.studies.causal.results import results_of

    results = results_of(runs)
    curves.draw(results, out)
    found = {name: [one.name for one in each] for name, each in results.items()}
    emit({"figure": str(out), "results": found}, as_json=as_json, lines=[f"figure   {out}"])
