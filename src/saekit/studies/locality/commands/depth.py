"""`saekit locality depth` and `draw-depth`: entropy against depth, and runs side by side."""

from pathlib import Path
from typing import Annotated, Any

import typer

from saekit.core.errors import ConfigError
from saekit.studies.locality.commands import app
from saekit.studies.locality.commands.options import (
    Dataset,
    Documents,
    Folders,
    Format,
    Layers,
    Legacy,
    Memory,
    NCtx,
    Out,
    PresetName,
    Resume,
    Root,
    Saes,
    Seed,
    Settings,
    Sites,
    Text,
    Threshold,
    Vector,
    WindowOptions,
    bytes_of,
    end,
    held_out_text,
    model_of,
    subjects_of,
    threshold_of,
)
from saekit.terminal.common_options import AsJson, Device, Quiet
from saekit.terminal.output import emit
from saekit.terminal.sae_options import takes
from saekit.terminal.settings_help import lists


@app.command("depth", cls=lists("saekit.studies.locality.runs.depth:Depth"))
@takes(WindowOptions)
def depth(
    folders: Folders = None,
    saes: Saes = None,
    site: Sites = None,
    preset: PresetName = None,
    sae_root: Root = None,
    layers: Layers = None,
    corpus: Text = None,
    dataset: Dataset = None,
    documents: Documents = 0,
    windows: Annotated[int, typer.Option(help="Number of windows of text.")] = 50,
    n_ctx: NCtx = 64,
    min_active: Annotated[
        int,
        typer.Option(
            help="Refuse windows in which fewer latents than this are on at some site; 0 "
            "refuses none."
        ),
    ] = 0,
    threshold: Threshold = None,
    token_vector: Vector = "hutchinson",
    null: Annotated[
        list[str] | None,
        typer.Option(
            help="Baseline to measure too: random, shuffled or weights (docs/locality.md). "
            "Repeatable. [none]"
        ),
    ] = None,
    legacy_encode: Legacy = False,
    seed: Seed = 0,
    settings: Settings = None,
    memory: Memory = None,
    device: Device = "auto",
    figures: Annotated[bool, typer.Option(help="Draw figures, or not.")] = True,
    resume: Resume = False,
    tables: Format = "csv",
    out: Out = Path("runs/locality-depth"),
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: WindowOptions,
) -> None:
    """Measure on how many tokens latents depend at each layer, on the same windows of text.

    Example: saekit locality depth demo --corpus stdlib --windows 20 --out demo/locality
    """
    from saekit.core.config import override
    from saekit.studies.locality.runs.depth import Depth, run
    from saekit.studies.locality.runs.measure import Measure
    from saekit.studies.locality.runs.run_folder import RunOptions

    options = RunOptions(
        resume=resume, memory_bytes=bytes_of(memory), shown=not quiet, tables=tables
    )
    every = [*(folders or []), *(saes or [])]
    subjects, named = subjects_of(every, site, layers, (preset, sae_root), sae)
    text, rule = held_out_text(corpus, dataset, subjects)
    at = threshold_of(threshold, preset)
    how = Measure(
        threshold=at,
        token_vector=token_vector,  # type: ignore[arg-type]
        nulls=tuple(null or ()),
        seed=seed,
        legacy_encode=legacy_encode,
    )
    config = Depth(
        corpus=text,
        filter=rule,
        n_ctx=n_ctx,
        windows=windows,
        documents=documents,
        min_active_latents=min_active,
        measure=how,
    )
    config = override(config, sae.settings(settings))
    lm = model_of(named, device)
    done = run(lm, subjects, config, out, options)
    drawn = _drawn_depth(out, done) if figures else []
    wanted = ("entropy_bits_mean_over_windows", "token_vector_entropy_bits")
    lines = [
        f"  {k:<52} {s.text()} bits"
        for k, s in done.result.scores.items()
        if k.rpartition("/")[2] in wanted
    ]
    found = (done.result.scores, [out / "result.json"])
    end(out, lines, found, done.failures, drawn, as_json=as_json)


@app.command("draw-depth")
def draw_depth(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders that saekit locality depth wrote, folders of the data set "
            "(published, converted or released), or folders above them."
        ),
    ],
    kind: Annotated[
        str, typer.Option(help="How to draw a distribution: violin or box.")
    ] = "violin",
    each: Annotated[
        bool,
        typer.Option(
            "--each",
            help="Draw a figure for each run into the folder --out, named as in the data set.",
        ),
    ] = False,
    out: Annotated[
        Path,
        typer.Option(
            help="File for the figure (.png, .svg or .pdf); its numbers go next to it as CSV."
        ),
    ] = Path("entropy_vs_depth.png"),
    as_json: AsJson = False,
) -> None:
    """Draw runs of several models or corpora side by side, a panel for each.

    Example: saekit locality draw-depth runs/news runs/code --out figures/entropy_vs_depth.png
    """
    from saekit.studies.locality.figures import entropy_depth
    from saekit.studies.locality.runs import depth_data

    if len({run.resolve() for run in runs}) < len(runs):
        raise ConfigError(f"A run is drawn once; got {', '.join(map(str, runs))}.")
    folders = list(dict.fromkeys(found for run in runs for found in depth_data.below(run)))
    data = [depth_data.read(folder) for folder in folders]
    named = dict(zip(_labels(folders, data), data, strict=True))
    if len(named) < len(folders):
        raise ConfigError(f"A run is drawn once; got {', '.join(map(str, folders))}.")
    jobs = {out: named}
    if each:
        names = {label: label.replace(", ", "__").replace("/", "_") for label in named}
        jobs = {
            out / f"entropy_vs_depth__{names[label]}.png": {label: one}
            for label, one in named.items()
        }
    paths = [str(entropy_depth.draw(some, path, kind)) for path, some in jobs.items()]
    record = {"figure": paths[0], "figures": paths, "runs": list(named)}
    emit(record, as_json=as_json, lines=[f"figure   {path}" for path in paths])


def _labels(folders: list[Path], data: list[Any]) -> list[str]:
    """Return titles that tell panels apart, longer where short ones do not."""
    from saekit.studies.locality.runs.depth_data import label

    labels = [label(folder, one) for folder, one in zip(folders, data, strict=True)]
    if len(set(labels)) < len(labels):  # as gpt2-small/wikitext and pythia-70m/wikitext
        labels = [f"{folder.parent.name}, {folder.name}" for folder in folders]
    return labels


def _drawn_depth(out: Path, done: Any) -> list[str]:
    from saekit.studies.locality.figures import entropy_depth, windows

    label = out.name
    paths = [
        entropy_depth.draw({label: out}, out / "figures" / f"entropy_depth_{kind}.png", kind)
        for kind in entropy_depth.KINDS
    ]
    return [*map(str, paths), *map(str, windows.draw_all(out, out / "figures" / "windows"))]
