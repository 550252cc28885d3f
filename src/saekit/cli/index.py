"""`saekit index`: when each latent fires, and what it writes."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.core.errors import ConfigError
from saekit.terminal.output import emit, note_lines
from saekit.terminal.sae_options import SAEOptions, beside, takes


@takes(SAEOptions)
def index(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a folder with an SAE.")],
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
    from saekit.analysis.indexing import make_index
    from saekit.analysis.max_acts import MaxActs
    from saekit.data.base import SPLITS

    if split not in SPLITS:
        raise ConfigError(f"`--split` must be one of {', '.join(SPLITS)}; got {split}.")
    max_acts = MaxActs(n=contexts)
    opened = sae.open(run, corpus=corpus, site=site)
    folder = out or beside(run) / "index"
    found = make_index(
        opened.loaded,
        opened.lm,
        folder,
        text=(opened.text, "train" if split == "train" else "test"),
        tokens=tokens,
        max_acts=max_acts,
        shown=not quiet,
    )
    lines = [
        f"index    {folder}: {found['tokens']:,} tokens, {found['entries']:,} activations",
        *note_lines(opened.notes),
        f"next     saekit report {beside(run)}",
    ]
    record = {"index": str(folder), **found, "notes": opened.notes}
    emit(record, as_json=as_json, lines=lines)
