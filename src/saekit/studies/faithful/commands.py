"""`saekit faithful`: are dictionaries of a model's own text more faithful to it?"""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.output import emit

app = typer.Typer(
    help="Are dictionaries of a model's own text more faithful to it?", no_args_is_help=True
)

# See `saekit.terminal.requirements`.
MAKES: dict[str, str | None] = {"figures": None}
NEEDS = {"figures": ("matplotlib", "figures")}

Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]


@app.command("compare")
def compare(
    one: Annotated[Path, typer.Argument(help="Result of an SAE: RUN/eval/fake_features.json.")],
    other: Annotated[Path, typer.Argument(help="Result of another, with the same seed.")],
    as_json: Json = False,
) -> None:
    """Compare how many fake features two SAEs have, on the noise that both have seen.

    Example: saekit faithful compare a/eval/fake_features.json b/eval/fake_features.json
    """
    from saekit.core.result import Result
    from saekit.studies.faithful.fakes.statistics import differences

    found = differences(Result.read(one), Result.read(other))
    emit({"differences": found.rows()}, as_json=as_json, lines=[str(found)])


@app.command("figures")
def figures(
    runs: Annotated[list[Path], typer.Argument(help="Folders of SAEs that were measured.")],
    out: Annotated[Path, typer.Option(help="Folder of the figures; each has a CSV.")],
    maps: Annotated[
        list[str] | None,
        typer.Option("--map", help="Dictionaries as points too: pca, tsne or umap; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw fake features, probes and cross-data tables of SAEs side by side.

    Example: saekit faithful figures runs/a runs/b --out figures
    """
    from saekit.core.errors import UnknownNameError, nearest
    from saekit.studies.faithful.figure_folder import draw_all
    from saekit.studies.faithful.figures.dictionary_map import WAYS

    for word in maps or []:
        if word not in WAYS:
            raise UnknownNameError(
                f"A map is one of {', '.join(WAYS)}; got {word!r}.{nearest(word, WAYS)}"
            )
    drawn = draw_all(runs, out, [way for way in WAYS if way in (maps or [])])
    lines = [f"figure   {path}" for path in drawn.made]
    lines += [f"left out {name}: {why}" for name, why in drawn.left_out.items()]
    record = {"figures": [str(p) for p in drawn.made], "left_out": drawn.left_out}
    emit(record, as_json=as_json, lines=lines)
