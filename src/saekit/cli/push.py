"""`saekit push`: an SAE to the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.output import emit, note_lines


def push(
    sae: Annotated[Path, typer.Argument(help="A run's folder, or a folder with an SAE.")],
    repo: Annotated[str, typer.Argument(help="Where to: OWNER/REPO.")],
    path: Annotated[
        str | None, typer.Option(help="Folder in the repository. [the name of the site]")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Others can see a repository that is made.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, made if needed. [main]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """Upload an SAE so that saekit and sae-lens load it; repeat it to go on after a break.

    Log in first: hf auth login. See the page with `saekit card` before.

    Example: saekit push runs/mine me/my-saes
    """
    from saekit.hub.publish import push as upload

    done = upload(sae, repo, path_in_repo=path, private=not public, revision=revision)
    record = {"name": done.name, "url": done.url, "sha256": done.sha256, "notes": done.notes}
    lines = [f"url      {done.url}", *(f"file     {name}" for name in done.sha256)]
    lines += [*note_lines(list(done.notes)), f"load     saekit.load({done.name!r})"]
    emit(record, as_json=as_json, lines=lines)
