"""`saekit locality release`: a run's results in the layout of the published data set."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.core.errors import DataError
from saekit.studies.locality.commands import app
from saekit.studies.locality.commands.options import PARTLY
from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit


@app.command()
def release(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder that saekit locality depth, context, events, geometry, autocorr "
            "or levels wrote, or a cache of neuronpedia."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder of the data set; it is made if it is not there.")
    ],
    preset: Annotated[str, typer.Option(help="Name of the model and its SAEs in the data set.")],
    dataset: Annotated[str, typer.Option(help="Name of the text in the data set.")] = "local",
    timestamp: Annotated[
        str | None, typer.Option(help="Name of the folder. [the time of the run]")
    ] = None,
    figures: Annotated[
        bool,
        typer.Option(
            "--figures", help="Also draw every window, and the figures of depth and context."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a run where "SAE Locality Data" has it, in safe formats.

    Example: saekit locality release runs/depth --out data --preset smollm2-135m
    --dataset news
    """
    from saekit.studies.locality.published.release import release as written

    if figures:
        from saekit.report import style

        style.check()  # before anything is written
    files = written(run, out, label=preset, corpus=dataset, timestamp=timestamp)
    home = files[-1].parent
    missing: list[str] = []
    if figures:
        from saekit.studies.locality.release_figures import draw

        try:
            files += draw(run, out, home, preset)
        except DataError as error:
            missing.append(str(error))
    record = {"folder": str(home), "files": [str(f) for f in files], "missing": missing}
    lines = [f"{home}: {len(files)} files", *(f"left out {why}" for why in missing)]
    emit(record, as_json=as_json, lines=lines)
    if missing:
        raise typer.Exit(PARTLY)
