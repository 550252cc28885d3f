"""`saekit locality depth` and `draw-depth`: entropy against depth, and runs side by side."""

from pathlib import Path
from typing import Annotated, Any

import typer

from saekit.cli.locality import app
from saekit.cli.locality_options import (
    Dataset,
    Format,
    Json,
    Layers,
    Legacy,
    Memory,
    Model,
    PresetName,
    Quiet,
    Resume,
    Root,
    Sae,
    Seed,
    Settings,
    Sites,
    Text,
    Threshold,
    Vector,
    bytes_of,
    end,
    model_of,
    subjects_of,
    text_of,
    threshold_of,
)
from saekit.cli.show import emit
from saekit.core.errors import ConfigError


@app.command("depth")
def depth(
    sae: Sae = None,
    site: Sites = None,
    preset: PresetName = None,
    sae_root: Root = None,
    layer: Layers = None,
    model: Model = None,
    corpus: Text = None,
    dataset: Dataset = None,
    windows: Annotated[int, typer.Option(help="Windows of text.")] = 50,
    n_ctx: Annotated[int, typer.Option(help="Tokens of a window.")] = 64,
    min_active: Annotated[
        int, typer.Option(help="Refuse windows with fewer active latents at a site; 0: none.")
    ] = 0,
    threshold: Threshold = None,
    token_vector: Vector = "hutchinson",
    null: Annotated[
        list[str] | None, typer.Option(help="Baseline: random, shuffled, weights. Repeat.")
    ] = None,
    legacy_encode: Legacy = False,
    seed: Seed = 0,
    settings: Settings = None,
    memory: Memory = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    figures: Annotated[bool, typer.Option(help="Draw figures.")] = True,
    resume: Resume = False,
    tables: Format = "csv",
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("runs/locality-depth"),
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure entropy against depth: the same windows at every site the SAEs read.

    Example: saekit locality depth --sae demo --corpus stdlib --windows 20 --out demo/locality
    """
    from saekit.core.config import override
    from saekit.data.table_files import check
    from saekit.locality.depth import Depth, run
    from saekit.locality.measure import Measure

    check(tables)
    subjects, named = subjects_of(sae, site, preset, sae_root, layer, model)
    text, rule = text_of(corpus, dataset)
    at = threshold_of(threshold, preset)
    how = Measure(
        threshold=at, token_vector=token_vector, nulls=tuple(null or ()), seed=seed,  # type: ignore[arg-type]
        legacy_encode=legacy_encode,
    )  # fmt: skip
    config = Depth(
        corpus=text, filter=rule, n_ctx=n_ctx, windows=windows, min_active_latents=min_active,
        measure=how,
    )  # fmt: skip
    config = override(config, settings or [])
    lm = model_of(named, device)
    done = run(
        lm, subjects, config, out, resume=resume, memory_bytes=bytes_of(memory),
        shown=not quiet, tables=tables,
    )  # fmt: skip
    drawn = _drawn_depth(out, done) if figures else []
    wanted = ("entropy_bits_mean_over_windows", "token_vector_entropy_bits")
    lines = [
        f"  {k:<52} {s.text()} bits" for k, s in done.result.scores.items()
        if k.rpartition("/")[2] in wanted
    ]  # fmt: skip
    end(out, lines, done.result, done.failures, drawn, as_json=as_json)


@app.command("draw-depth")
def draw_depth(
    runs: Annotated[list[Path], typer.Argument(help="Folders of `saekit locality depth`.")],
    kind: Annotated[str, typer.Option(help="Marks: violin or box.")] = "violin",
    out: Annotated[
        Path, typer.Option(help="The figure, .png, .svg or .pdf; a .csv goes beside.")
    ] = Path("entropy_vs_depth.png"),
    as_json: Json = False,
) -> None:
    """Draw runs of several models or corpora side by side, a panel for each.

    Example: saekit locality draw-depth runs/news runs/code --out figures/entropy_vs_depth.png
    """
    from saekit.report.figures import entropy_depth

    labels = [folder.name for folder in runs]
    if len(set(labels)) < len(labels):  # as gpt2-small/wikitext and pythia-70m/wikitext
        labels = [f"{folder.parent.name}, {folder.name}" for folder in runs]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"A run is drawn once; got {', '.join(map(str, runs))}.")
    path = entropy_depth.draw(dict(zip(labels, runs, strict=True)), out, kind)
    emit({"figure": str(path)}, as_json=as_json, lines=[f"figure   {path}"])


def _drawn_depth(out: Path, done: Any) -> list[str]:
    from saekit.report.figures import entropy_depth, windows

    label = out.name
    paths = [entropy_depth.draw({label: out}, out / "figures" / f"entropy_depth_{kind}.png", kind)
             for kind in entropy_depth.KINDS]  # fmt: skip
    return [*map(str, paths), *map(str, windows.draw_all(out, out / "figures" / "windows"))]
