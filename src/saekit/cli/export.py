"""`saekit export`: what others read: a site, a bundle for Neuronpedia, SAEBench's result files."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.common_options import AsJson, Quiet
from saekit.terminal.output import emit

app = typer.Typer(
    help="Write an SAE's pages as files for a web server, or files for Neuronpedia and SAEBench.",
    no_args_is_help=True,
)


@app.callback()
def _root() -> None:
    pass


@app.command("site")
def site(
    place: Annotated[Path, typer.Argument(help="Folder of an SAE, or one with SAEs below it.")],
    out: Annotated[
        Path, typer.Option(help="Folder to write the site to; a site that is there is replaced.")
    ],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the explorer's pages as files, for any static host; small ones work from a disk.

    Example: saekit export site demo --out site
    """
    from saekit.explorer.export import export_site

    made = export_site(place, out, shown=not quiet)
    sizes = ", ".join(f"{name} {n / 1e6:.2f} MB" for name, n in made.parts.items())
    lines = [f"site     {made.folder}: {sum(made.saes.values()):,} latents ({sizes})"]
    lines += [f"note     {name} has no latents in it: {why}" for name, why in made.without.items()]
    if made.from_disk:
        lines.append(f"next     open {made.folder / 'index.html'} in a browser")
    else:
        lines.append(f"next     python3 -m http.server --directory {made.folder}")
    emit(made.to_dict(), as_json=as_json, lines=lines)


@app.command("neuronpedia")
def neuronpedia(
    run: Annotated[Path, typer.Argument(help="Folder of an SAE that has an index.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    name: Annotated[
        str, typer.Option("--source-set", help="Name of the source set on Neuronpedia.")
    ] = "saekit",
    model_id: Annotated[
        str,
        typer.Option(help="Neuronpedia's name for the model. [the last part of the model's name]"),
    ] = "",
    release: Annotated[str, typer.Option(help="Name of the release. [the source set's]")] = "",
    title: Annotated[str, typer.Option(help="Title of the release, for readers.")] = "",
    creator: Annotated[str, typer.Option(help="Who made the SAE.")] = "",
    creator_id: Annotated[str, typer.Option(help="Account on the server that imports it.")] = "",
    url: Annotated[str, typer.Option(help="Address of a paper or a page about the SAE.")] = "",
    weights: Annotated[
        str, typer.Option(help="Repository on the Hugging Face hub that has the weights.")
    ] = "",
    weights_path: Annotated[
        str, typer.Option(help="Folder of the weights in that repository.")
    ] = "",
    vectors: Annotated[
        bool,
        typer.Option(
            "--vectors", help="Also write the latents' directions, for steering on Neuronpedia."
        ),
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write an index as the JSON lines that a Neuronpedia server imports.

    Example: saekit export neuronpedia demo --out bundle --source-set res-2k --creator "A. Author"
    """
    from saekit.explorer.neuronpedia import export_neuronpedia

    made = export_neuronpedia(
        run,
        out,
        source_set=name,
        model_id=model_id,
        release=release,
        title=title,
        creator=creator,
        creator_id=creator_id,
        url=url,
        weights=weights,
        weights_path=weights_path,
        vectors=vectors,
        shown=not quiet,
    )
    lines = [
        f"source   {source}: {n['latents']:,} latents, {n['activations']:,} texts, "
        f"{n['explanations']:,} explanations"
        for source, n in made["sources"].items()
    ]
    emit(made, as_json=as_json, lines=[*lines, f"bundle   {made['folder']}"])


@app.command("saebench")
def saebench(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs or SAEs that have results.")],
    out: Annotated[
        Path, typer.Option(help="Folder to write the results to; results that are there are kept.")
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files there that hold other results.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the results in RUN/eval as JSON that tools for SAEBench read.

    Example: saekit export saebench runs/a runs/b --out results
    """
    from saekit.evals.saebench.export import export_saebench

    made = export_saebench(runs, out, overwrite=overwrite)
    written = [str(path) for path in made.written]
    lines = [f"result   {path}" for path in written]
    lines += [f"left out {path}: {why}" for path, why in made.left_out.items()]
    emit({"results": written, "left_out": made.left_out}, as_json=as_json, lines=lines)
