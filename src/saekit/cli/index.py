"""`saekit index`: when each latent fires, and what it writes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.terminal.common_options import AsJson, OtherCorpus, Quiet, SplitName
from saekit.terminal.output import emit, note_lines
from saekit.terminal.sae_options import SAEOptions, takes

if TYPE_CHECKING:
    from saekit.analysis.index_folder import Index
    from saekit.hub.opening import OpenSAE


@takes(SAEOptions)
def index(
    run: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of runs, SAEs or sweeps, or published SAEs' names. Several SAEs of one "
            "model are indexed in one pass of it."
        ),
    ],
    tokens: Annotated[
        int, typer.Option(help="Tokens to read, not counting those that the token rule leaves out.")
    ] = 300_000,
    corpus: OtherCorpus = None,
    site: Annotated[
        str | None,
        typer.Option(help="Which site to index, if several share the SAE, as L3.resid_post. [all]"),
    ] = None,
    split: SplitName = "train",
    codes: Annotated[
        bool,
        typer.Option(
            "--codes",
            help="Keep every code; otherwise an analysis that needs them makes them again.",
        ),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Begin again instead of continuing an index that was interrupted."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the index to. [RUN/index]")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: SAEOptions,
) -> None:
    """Read a text and record where each latent is on: examples, tokens, what it promotes.

    If it was interrupted, the same command continues.

    Example: saekit index demo --tokens 1000000
    """
    from saekit.analysis.index_saes import Ready, index_ready, is_shared, place_of, runs_in
    from saekit.data import parquet
    from saekit.hub.names import results_folder

    parquet.check()
    places = [one for place in run for one in runs_in(place)]
    ready = [
        Ready(one, place_of(one.loaded, out, len(places)), is_shared(one.loaded))
        for one in _ready(places, sae, corpus, site)
    ]
    how: dict[str, Any] = {"tokens": tokens, "codes": codes, "fresh": fresh}
    made = index_ready(ready, shown=not quiet, split=split, **how)
    said = [one.opened.notes for one in ready] + [one.manifest["said"]["notes"] for one in made]
    notes = list(dict.fromkeys(note for some in said for note in some))
    lines = [
        *(_line(one) for one in made),
        *note_lines(notes),
        f"next     saekit report {results_folder(places[0])}",
    ]
    records = [{"index": str(one.folder), "site": one.site, **one.made} for one in made]
    record = records[0] if len(made) == 1 else {"indexes": records}
    emit(record | {"notes": notes}, as_json=as_json, lines=lines)


def _line(made: "Index") -> str:
    found = made.made
    return f"index    {made.folder}: {found['tokens']:,} tokens, {found['entries']:,} activations"


def _ready(
    places: "list[Path | str]", sae: SAEOptions, corpus: str | None, site: str | None
) -> "list[OpenSAE]":
    """Return SAEs opened as the options say; a model that several name is loaded once."""
    from saekit.analysis.index_saes import is_shared
    from saekit.hub.native import load
    from saekit.hub.opening import OpenSAE, complete, model_of, text_of
    from saekit.terminal.sae_options import relocated

    models: dict[str, Any] = {}
    found = []
    for place in places:
        folder, use = Path(place), sae.use(corpus)
        how: dict[str, Any] = {"format": use.format, "hints": use.hints}
        loaded = load(folder, site=site, scaled=site is None, **how)
        if loaded.card.scalings and site is None and not is_shared(loaded):
            loaded = load(folder, site=str(loaded.card.pair.reads[0]), **how)
        loaded.card.check_model()
        loaded = relocated(loaded, folder, model=use.model, corpus=corpus)
        text = text_of(loaded, use.corpus)
        named = repr((loaded.card.model, loaded.card.run.get("model")))
        if named not in models:
            models[named] = model_of(loaded, use.device, use.model, use.dtype, use.processing)
        lm = models[named]
        found.append(OpenSAE(complete(loaded, lm, text, use), lm, text))
    return found
