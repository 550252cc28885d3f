"""`saekit push`: an SAE to the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit, note_lines


def push(
    sae: Annotated[Path, typer.Argument(help="Folder of a run or an SAE.")],
    repo: Annotated[str, typer.Argument(help="Repository to upload to, as OWNER/REPO.")],
    path: Annotated[
        str | None, typer.Option(help="Folder in the repository. [the site's name]")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public. [private]")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch to upload to, made if needed. [main]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Upload an SAE to the Hugging Face hub, where saekit and sae-lens can load it.

    Log in first (hf auth login), and look at the page with `saekit card`. If the upload breaks
    off, the same command continues.

    Example: saekit push runs/mine me/my-saes
    """
    from saekit.hub.publish import push as upload

    done = upload(sae, repo, path_in_repo=path, private=not public, revision=revision)
    record = {"name": done.name, "url": done.url, "sha256": done.sha256, "notes": done.notes}
    lines = [f"url      {done.url}", *(f"file     {name}" for name in done.sha256)]
    lines += [*note_lines(list(done.notes)), f"load     saekit.load({done.name!r})"]
    emit(record, as_json=as_json, lines=lines)
