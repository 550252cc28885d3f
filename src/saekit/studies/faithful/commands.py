"""`saekit faithful`: are dictionaries of a model's own text more faithful to it?"""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.output import emit

app = typer.Typer(
    help="Are dictionaries of a model's own text more faithful to it?", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]


@app.command("aggregate")
def aggregate_(
    file: Annotated[Path, typer.Argument(help="JSON of results: the published layout, or ours.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="A data set to compare; faithful is own text. Repeat. [the usual ones]"),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="A task or model to leave out. Repeat.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="What is compared. Repeat. [sae_acc, sae_f1]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """Compare data sets over models and tasks, and flag SAEs of another model's text.

    Example: saekit faithful aggregate results.json --without yelp_polarity
    """
    from saekit.studies.faithful.aggregate import aggregate, read_cells, said

    metrics = metric or ["sae_acc", "sae_f1"]
    found = aggregate(read_cells(file), data, without=without or (), metrics=metrics, seed=seed)
    emit(found.record(), as_json=as_json, lines=said(found, metrics))


@app.command("stability")
def stability(
    result: Annotated[
        Path, typer.Argument(help="Result of `saekit eval A B C --eval seed_stability`.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the figures; a CSV lies next to each.")],
    suffix: Annotated[str, typer.Option(help="svg, pdf or png.")] = "svg",
    as_json: Json = False,
) -> None:
    """Draw which latents seeds share, from a result.

    Example: saekit faithful stability runs/seeds/eval/seed_stability.json --out figures
    """
    from saekit.core.result import Result
    from saekit.studies.faithful.figures.stability import draw_all

    made = draw_all(Result.read(result), out, f".{suffix.lstrip('.')}")
    lines = [f"figure   {path}" for path in made]
    emit({"figures": [str(path) for path in made]}, as_json=as_json, lines=lines)
