"""`saekit index`: when each latent fires, and what it writes."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.cli.show import emit


def index(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a folder with an SAE.")],
    tokens: Annotated[int, typer.Option(help="Tokens of text that count.")] = 300_000,
    contexts: Annotated[int, typer.Option(help="Top contexts kept per latent.")] = 8,
    corpus: Annotated[str | None, typer.Option(help="Other text. [the run's]")] = None,
    split: Annotated[str, typer.Option(help="Part of the text: train or test.")] = "train",
    out: Annotated[Path | None, typer.Option(help="Folder to make. [RUN/index]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Encode a corpus and find the contexts in which each latent is most active.

    Example: saekit index demo --tokens 1000000
    """
    from saekit.analysis.indexing import make_index
    from saekit.cli.evaluate import model_of
    from saekit.hub.native import load

    loaded = load(run)
    lm = model_of(loaded, device)
    folder = out or run / "index"
    found = make_index(
        loaded,
        lm,
        folder,
        corpus=corpus,
        split=split,
        tokens=tokens,
        n_contexts=contexts,
        shown=not quiet,
    )
    lines = [
        f"index    {folder}: {found['tokens']:,} tokens, {found['entries']:,} activations",
        f"next     saekit report {run}",
    ]
    emit({"index": str(folder), **found}, as_json=as_json, lines=lines)
