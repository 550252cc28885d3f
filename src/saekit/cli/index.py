"""`saekit index`: when each latent fires, and what it writes."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.output import emit, note_lines
from saekit.terminal.sae_options import SAEOptions, takes


@takes(SAEOptions)
def index(
    run: Annotated[
        Path, typer.Argument(help="A run's folder, one with an SAE, or a published SAE.")
    ],
    tokens: Annotated[int, typer.Option(help="Tokens of text that count.")] = 300_000,
    contexts: Annotated[int, typer.Option(help="Top contexts kept per latent.")] = 8,
    corpus: Annotated[str | None, typer.Option(help="Other text. [the run's]")] = None,
    site: Annotated[
        str | None, typer.Option(help="Which site, where several share the SAE. [the one it reads]")
    ] = None,
    split: Annotated[str, typer.Option(help="Part of the text: train or test.")] = "train",
    out: Annotated[Path | None, typer.Option(help="Folder to make. [RUN/index]")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    *,
    sae: SAEOptions,
) -> None:
    """Encode a corpus and find the contexts in which each latent is most active.

    Example: saekit index demo --tokens 1000000
    """
    from saekit.analysis.index_folder import index as encode
    from saekit.hub.names import results_folder

    opened = sae.open(run, corpus=corpus, site=site)
    made = encode(
        opened.loaded,
        opened.lm,
        tokens=tokens,
        contexts=contexts,
        corpus=opened.text,
        split=split,
        out=out or results_folder(run) / "index",
        shown=not quiet,
    )
    folder, found = made.folder, made.made
    lines = [
        f"index    {folder}: {found['tokens']:,} tokens, {found['entries']:,} activations",
        *note_lines(opened.notes),
        f"next     saekit report {results_folder(run)}",
    ]
    record = {"index": str(folder), **found, "notes": opened.notes}
    emit(record, as_json=as_json, lines=lines)
