"""`saekit locality convert`: published locality files as saekit's own."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.studies.locality.commands import app
from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit


@app.command()
def convert(
    path: Annotated[Path, typer.Argument(help="Published file, or a folder of such files.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not list what was left out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert published locality data to CSV, npz and JSON, without running its pickles.

    Example: saekit locality convert sae-locality-data/pythia-70m --out converted
    """
    from saekit.core.errors import FormatError
    from saekit.studies.locality.published.convert import MANIFEST
    from saekit.studies.locality.published.convert import convert as convert_tree

    manifest = convert_tree(path, out)
    done, failed, skipped = (manifest[k] for k in ("files", "failed", "skipped"))
    if failed and not done:
        raise FormatError(failed[0]["why"])
    lines = [f"{out}: {len(done)} files; {len(failed)} failed, {len(skipped)} left"]
    if not quiet:
        lines += [f"failed   {e['source']}: {e['why']}" for e in failed]
        lines += [f"left     {e['source']}: {e['why']}" for e in skipped]
    record = {
        "out": str(out),
        "manifest": str(out / MANIFEST),
        "files": len(done),
        "failed": failed,
        "skipped": skipped,
    }
    emit(record, as_json=as_json, lines=lines)
    if failed:
        raise typer.Exit(3)
