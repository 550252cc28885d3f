"""`saekit faithful`: are dictionaries of a model's own text more faithful to it?"""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.common_options import AsJson, Device, Dtype, Model, Quiet, Revision
from saekit.terminal.output import emit
from saekit.terminal.settings_help import lists

app = typer.Typer(
    help="Are SAEs that were trained on a model's own text truer to the model?",
    no_args_is_help=True,
)

# See `saekit.terminal.requirements`.
MAKES: dict[str, str | None] = {"figures": None}
NEEDS = {"figures": ("matplotlib", "figures")}


@app.command("run", cls=lists("saekit.studies.faithful.study:Faithful", but=("texts", "seeds")))
def run_(
    out: Annotated[
        Path,
        typer.Option(
            help="Folder to write to; if it was begun with the same settings, it is continued."
        ),
    ],
    model: Model = "smollm2-135m",
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Text to train SAEs on, named as for saekit train --corpus; generated is "
            "the model's own. Repeatable. [generated, packaged]"
        ),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Seed to train with. Repeatable. [0, 1, 2]")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting, as tokens=100k, of those listed below. Repeatable."),
    ] = None,
    revision: Revision = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Have a model write text, train SAEs on it and on other texts, and say which are better.

    Example: saekit faithful run --set tokens=100k --set d_sae=1024 --out faithful
    """
    from dataclasses import replace

    from saekit.core.config import override
    from saekit.models.hf import load
    from saekit.report.study_file import write_study
    from saekit.studies.faithful.study import Faithful, lines, run

    default = Faithful()
    config = replace(
        default,
        texts=default.texts if text is None else tuple(text),
        seeds=default.seeds if seed is None else tuple(seed),
    )
    lm = load(model, revision=revision, dtype=dtype, device=device)
    found = run(lm, override(config, settings or []), out=out, shown=not quiet)
    page = write_study(out, out / "report.html")
    record = {"verdicts": found.verdicts.rows(), "folder": str(out), "report": str(page)}
    emit(record, as_json=as_json, lines=[*lines(found), f"report   {page}"])


@app.command("compare")
def compare(
    one: Annotated[Path, typer.Argument(help="Result of one SAE: RUN/eval/fake_features.json.")],
    other: Annotated[
        Path, typer.Argument(help="Result of another SAE, made with the same --seed.")
    ],
    as_json: AsJson = False,
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
    out: Annotated[
        Path, typer.Option(help="Folder to write the figures to, each with its numbers as CSV.")
    ],
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="Also draw the latents' directions as points: pca, tsne or umap. Repeatable.",
        ),
    ] = None,
    suffix: Annotated[str, typer.Option(help="File type of figures: svg, pdf or png.")] = "svg",
    as_json: AsJson = False,
) -> None:
    """Draw fake features, probes and cross-data tables of SAEs side by side.

    Example: saekit faithful figures runs/a runs/b --out figures
    """
    from saekit.core.errors import UnknownNameError, nearest
    from saekit.studies.corpus.planes import WAYS
    from saekit.studies.faithful.figure_folder import draw_all

    for word in maps or []:
        if word not in WAYS:
            raise UnknownNameError(
                f"A map is one of {', '.join(WAYS)}; got {word!r}.{nearest(word, WAYS)}"
            )
    ending = f".{suffix.lstrip('.')}"
    drawn = draw_all(runs, out, [way for way in WAYS if way in (maps or [])], ending)
    lines = [f"figure   {path}" for path in drawn.made]
    lines += [f"left out {name}: {why}" for name, why in drawn.left_out.items()]
    record = {"figures": [str(p) for p in drawn.made], "left_out": drawn.left_out}
    emit(record, as_json=as_json, lines=lines)


@app.command("aggregate")
def aggregate_(
    file: Annotated[
        Path,
        typer.Argument(help="JSON file of results, in the published layout or as a list of cells."),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Training text to compare; faithful is the model's own. Repeatable. "
            "[faithful, fineweb, pile-uncopyrighted]"
        ),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Task or model to leave out. Repeatable.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Score to compare. Repeatable. [sae_acc, sae_f1]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Compare training texts over models and tasks, and flag SAEs of another model's text.

    Example: saekit faithful aggregate results.json --without yelp_polarity
    """
    from saekit.studies.faithful.aggregate import aggregate, read_cells, said

    metrics = metric or ["sae_acc", "sae_f1"]
    found = aggregate(read_cells(file), data, without=without or (), metrics=metrics, seed=seed)
    emit(found.record(), as_json=as_json, lines=said(found, metrics))


@app.command("stability")
def stability(
    result: Annotated[
        Path, typer.Argument(help="Result file of saekit eval A B C --eval seed_stability.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder to write the figures to, each with its numbers as CSV.")
    ],
    suffix: Annotated[str, typer.Option(help="File type of figures: svg, pdf or png.")] = "svg",
    as_json: AsJson = False,
) -> None:
    """Draw which latents seeds have in common, from a result of seed_stability.

    Example: saekit faithful stability runs/seeds/eval/seed_stability.json --out figures
    """
    from saekit.core.result import Result
    from saekit.studies.faithful.figures.stability import draw_all

    made = draw_all(Result.read(result), out, f".{suffix.lstrip('.')}")
    lines = [f"figure   {path}" for path in made]
    emit({"figures": [str(path) for path in made]}, as_json=as_json, lines=lines)
