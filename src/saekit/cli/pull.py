"""`saekit pull`: a published SAE to a folder."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit, note_lines


def pull(
    name: Annotated[str, typer.Argument(help="Name of the published SAE (see: saekit published).")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    catalogue: Annotated[
        Path | None,
        typer.Option(help="Catalogue of your own to look the name up in. [$SAEKIT_CATALOGUE]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download a published SAE into a folder, with all that its registry says about it.

    Example: saekit pull saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre --out sae
    """
    from saekit.hub.publish import pull as fetch

    loaded = fetch(name, out, catalogue=catalogue)
    said = loaded.card.provenance["published"]
    notes = loaded.card.provenance.get("notes", [])
    record = {
        "out": str(out),
        "repo": said["repo"],
        "path": said["path"],
        "revision": said["revision"],
        "sha256": said["sha256"],
        "notes": notes,
    }
    lines = [f"{out}: {loaded}", f"from     {said['repo']}/{said['path']} at {said['revision']}"]
    lines += [*note_lines(notes), f"next     saekit eval {out}"]
    emit(record, as_json=as_json, lines=lines)
