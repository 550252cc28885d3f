"""`saekit index`: when each latent fires, and what it writes."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.cli.show import emit
from saekit.core.errors import ConfigError


def index(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a folder with an SAE.")],
    tokens: Annotated[int, typer.Option(help="Tokens of text that count.")] = 300_000,
    contexts: Annotated[int, typer.Option(help="Top contexts kept per latent.")] = 8,
    corpus: Annotated[str | None, typer.Option(help="Other text. [the run's]")] = None,
    site: Annotated[
        str | None, typer.Option(help="Which site, where several share the SAE. [the one it reads]")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Language model, where the SAE's files do not say.")
    ] = None,
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
    from saekit.analysis.max_acts import MaxActs
    from saekit.cli.evaluate import model_of, relocated, text_of
    from saekit.data.base import SPLITS
    from saekit.hub.complete import complete
    from saekit.hub.native import load

    if split not in SPLITS:
        raise ConfigError(f"`--split` must be one of {', '.join(SPLITS)}; got {split}.")
    max_acts = MaxActs(n=contexts)
    loaded = relocated(load(run, site=site), run, model=model, corpus=corpus)
    chosen = text_of(loaded, corpus)
    text = None if corpus is None and split == "train" else (chosen, split)
    lm = model_of(loaded, device, model)
    loaded = complete(loaded, lm, chosen)
    folder = out or run / "index"
    found = make_index(
        loaded,
        lm,
        folder,
        text=text,
        tokens=tokens,
        max_acts=max_acts,
        shown=not quiet,
    )
    lines = [
        f"index    {folder}: {found['tokens']:,} tokens, {found['entries']:,} activations",
        f"next     saekit report {run}",
    ]
    emit({"index": str(folder), **found}, as_json=as_json, lines=lines)
