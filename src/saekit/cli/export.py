"""`saekit export`: what others read: a site of the pages, a bundle for Neuronpedia."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.output import emit

app = typer.Typer(help="Write pages or bundles for others to read.", no_args_is_help=True)
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]


@app.callback()
def _root() -> None:
    pass


@app.command("site")
def site(
    place: Annotated[Path, typer.Argument(help="An SAE's folder, or one with SAEs below it.")],
    out: Annotated[Path, typer.Argument(help="Folder to make; one that holds a site is replaced.")],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the explorer's pages as files, for any static host; small ones work from a disk.

    Example: saekit export site demo site
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
