"""`saekit locality events, draw, cards`: H_pos where latents are strongest."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.core.errors import ConfigError, FormatError
from saekit.hub.names import results_folder
from saekit.studies.locality.commands import app
from saekit.studies.locality.commands.options import (
    PARTLY,
    Above,
    Folder,
    Format,
    Layers,
    MaxDensity,
    Memory,
    MinDensity,
    NLatents,
    OutOrBeside,
    PresetName,
    Resume,
    Sites,
    bytes_of,
    codes_of,
    float32_model,
    numbers,
    opened,
)
from saekit.terminal.common_options import AsJson, Device, Quiet, SplitName
from saekit.terminal.output import emit, note_lines
from saekit.terminal.sae_options import HintOptions, takes

if TYPE_CHECKING:
    from saekit.activations.latents import LatentStore
    from saekit.hub.trained import TrainedSAE
    from saekit.studies.locality.events.candidates import Feature

Latents = Annotated[
    str | None,
    typer.Option(help="Numbers of latents, as 3,17,200-210. [drawn from those that are not dead]"),
]
Index = Annotated[Path | None, typer.Option(help="Folder that saekit index wrote. [SAE/index]")]
Corpus = Annotated[
    str | None,
    typer.Option(help="Text to read in place of an index. [the one the SAE was trained on]"),
]
PASS = (1024, 256)  # tokens of a pass over documents, and of its overlap with the one before


@app.command("events")
@takes(HintOptions)
def events(
    home: Folder,
    site: Sites = None,
    layers: Layers = None,
    preset: PresetName = None,
    index: Index = None,
    corpus: Corpus = None,
    split: SplitName = "train",
    tokens: Annotated[
        int,
        typer.Option(
            help="Tokens of whole documents to read from --corpus; 0 takes the index instead."
        ),
    ] = 0,
    latents: Latents = None,
    n_latents: NLatents = 50,
    features: Annotated[
        Path | None,
        typer.Option(
            help="Take latents from a file: YAML or JSON with `features` (feature_id, "
            "tier, description), or candidate_features_l<L>.md."
        ),
    ] = None,
    min_density: MinDensity = 1e-5,
    max_density: MaxDensity = 0.1,
    top: Annotated[int, typer.Option(help="Most events for each latent.")] = 16,
    per: Annotated[
        str, typer.Option(help="Take at most one event from each document, or from each row.")
    ] = "document",
    n_ctx: Annotated[
        list[int] | None,
        typer.Option(help="Tokens in a window of text. Repeatable. [16 32 64 96 128]"),
    ] = None,
    threshold: Above = 0.0,
    same_tokens: Annotated[
        int,
        typer.Option(help="Events of a latent whose last tokens, this many, are equal count once."),
    ] = 32,
    legacy_encode: Annotated[
        bool,
        typer.Option(
            "--legacy-encode",
            help="Encode as the published code does, mistakes included, to compare with "
            "its numbers.",
        ),
    ] = False,
    sae_id: Annotated[
        str | None,
        typer.Option(
            help="Name of the SAE in the files, as 12-gemmascope-res-16k. [its folder's name]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed that decides which latents are drawn.")] = 0,
    figures: Annotated[bool, typer.Option(help="Draw figures and pages of cases, or not.")] = True,
    tables: Format = "csv",
    out: OutOrBeside = None,
    resume: Resume = False,
    memory: Memory = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: HintOptions,
) -> None:
    """Score how far back latents look at the tokens where they are strongest.

    Example: saekit locality events demo --n-latents 40 --top 8 --n-ctx 32 --n-ctx 64
    """
    from saekit.studies.locality.events import base as found_events
    from saekit.studies.locality.events.candidates import read as read_features
    from saekit.studies.locality.events.event_run import AboutEvents, EventRun
    from saekit.studies.locality.runs.run_folder import RunOptions
    from saekit.studies.locality.windows.drawing import check_length

    options = RunOptions(
        resume=resume, memory_bytes=bytes_of(memory), shown=not quiet, tables=tables
    )
    if per not in ("document", "row"):
        raise ConfigError(f"`--per` is document or row; got {per}.")
    run = EventRun(threshold=threshold, legacy_encode=legacy_encode)
    run = replace(run, n_ctx=tuple(n_ctx)) if n_ctx else run
    about = {f.latent: f for f in read_features(features)} if features else {}
    loaded = opened(home, site, layers, preset, sae, corpus if tokens else "")
    folder = out or results_folder(home) / "locality" / "events"
    _check_source(index, corpus, tokens)
    _check_latents(about, loaded, features)
    named = numbers(latents, loaded.sae.cfg.d_sae) if latents else list(about)
    if tokens:
        lm = float32_model(loaded, device, sae.model)
        store = codes_of(
            loaded,
            lm,
            (corpus, split),
            folder.with_name(f"{folder.name}_index"),
            tokens,
            sizes=(min(PASS[0], lm.n_ctx_max), min(PASS[1], lm.n_ctx_max // 4)),
            shown=not quiet,
        )
    else:
        store = open_index(index or results_folder(home) / "index", loaded)
        lm = float32_model(loaded, device, sae.model)
    from saekit.studies.locality.latents.drawing import draw_latents

    chosen = named or draw_latents(store, n_latents, (min_density, max_density), seed)
    check_length(lm, max(run.n_ctx) + (loaded.card.bos_id(lm.tokenizer) is not None), "n_ctx")
    places = _places(store, chosen, top, per, threshold)
    found = found_events.from_store(store, *places, n_ctx=max(run.n_ctx))
    found = found_events.strongest(found_events.distinct(found, same_tokens), top)
    source = {
        "index": str(store.folder),
        "tokens": store.n_tokens,
        "per": per,
        "top": top,
        "same_tokens": same_tokens,
        "latents": "named" if named else "drawn",
        "seed": seed,
        "density": None if named else [min_density, max_density],
        "densities": {str(a): float(store.density[a]) for a in sorted(chosen)},
    }
    known = AboutEvents(
        source=source,
        descriptions={a: f.description for a, f in about.items()},
        tiers={a: f.tier for a, f in about.items() if f.tier},
        sae_id=sae_id or home.resolve().name,
    )
    counts = run.write(loaded, lm, found, folder, known, options)
    finish(folder, counts | {"notes": store.meta.get("notes", [])}, figures, as_json)


def _check_source(index: Path | None, corpus: str | None, tokens: int) -> None:
    """Refuse text that would not be read, or an index and text together.

    Raises:
        ConfigError: the options contradict each other.
    """
    if tokens < 0:
        raise ConfigError(f"`--tokens` must be 0 (use an index) or more; got {tokens}.")
    if tokens and index is not None:
        raise ConfigError("--index and --tokens both say what is read. Give one of them.")
    if corpus is not None and not tokens:
        raise ConfigError(
            "--corpus is text to read in place of an index. Say how much with --tokens, as "
            "--tokens 200000."
        )


def _check_latents(about: "dict[int, Feature]", loaded: "TrainedSAE", path: Path | None) -> None:
    """Refuse latents of a file that the SAE has not.

    Raises:
        ConfigError: one is out of range.
    """
    d_sae = loaded.sae.cfg.d_sae
    if far := [a for a in about if not 0 <= a < d_sae]:
        raise ConfigError(
            f"{path} names latents {', '.join(map(str, far[:5]))}; the SAE has 0..{d_sae - 1}. It "
            f"is of another SAE, or choose another with the SAE's folder, --site or --layers."
        )


@app.command("draw-events")
def draw(
    folder: Annotated[Path, typer.Argument(help="Folder that saekit locality events wrote.")],
    n_ctx: Annotated[
        int | None, typer.Option(help="Window length to take, in tokens. [the longest]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw the figures of events again from their files, also from those of the published data.

    Example: saekit locality draw-events demo/locality/events --n-ctx 64
    """
    from saekit.studies.locality.event_pages import draw_all

    drawn, missing = draw_all(folder, n_ctx)
    lines = [f"figure   {path}" for path in drawn] + [f"left out {m}" for m in missing]
    emit({"figures": [str(p) for p in drawn], "missing": missing}, as_json=as_json, lines=lines)


@app.command("cards")
def cards(
    folder: Annotated[Path, typer.Argument(help="Folder that saekit locality events wrote.")],
    n_ctx: Annotated[
        int | None, typer.Option(help="Window length to take, in tokens. [the longest]")
    ] = None,
    latents: Latents = None,
    top: Annotated[int, typer.Option(help="Most events to show for each latent.")] = 5,
    tokens: Annotated[int, typer.Option(help="Most tokens to show of each event.")] = 16,
    out: Annotated[
        Path | None, typer.Option(help="File for the page. [FOLDER/feature_case_studies.html]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a page with a card for each latent, whose texts are tinted by influence.

    Example: saekit locality cards demo/locality/events --latents 12,40 --tokens 32
    """
    from saekit.studies.locality.event_pages import write_cards

    if top < 1 or tokens < 1:
        raise ConfigError(f"`--top` and `--tokens` must be at least 1; got {top} and {tokens}.")
    path = write_cards(
        folder,
        out or folder / "feature_case_studies.html",
        n_ctx=n_ctx,
        latents=numbers(latents, 2**31) if latents else None,
        top=top,
        tokens=tokens,
    )
    record = {"page": str(path), "bytes": path.stat().st_size}
    emit(record, as_json=as_json, lines=[f"page     {path}"])


@app.command("table")
def feature_table(
    folder: Annotated[Path, typer.Argument(help="Folder that saekit locality events wrote.")],
    n_ctx: Annotated[
        int | None, typer.Option(help="Window length to take, in tokens. [the longest]")
    ] = None,
    max_peak_diversity: Annotated[
        float,
        typer.Option(
            help="Leave out latents whose peaks have a larger share of different tokens than this."
        ),
    ] = 1.0,
    min_recall: Annotated[
        float | None,
        typer.Option(
            help="Leave out latents whose explanation has a lower recall than this. [none]"
        ),
    ] = None,
    exclude_bos_dominated: Annotated[
        bool,
        typer.Option(
            "--exclude-bos-dominated", help="Leave out latents that are mostly on at BOS."
        ),
    ] = False,
    neuronpedia: Annotated[
        Path | None,
        typer.Option(
            help="Folder MODEL/SAE of a cache of saekit locality neuronpedia, for recall and BOS."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a page with a table of the latents in a folder of events, the most local first.

    Example: saekit locality table demo/locality/events --max-peak-diversity 0.5
    """
    from saekit.studies.locality.event_pages import write_table
    from saekit.studies.locality.events.quality import LatentFilter

    kept = LatentFilter(
        min_recall=min_recall,
        max_peak_diversity=max_peak_diversity,
        exclude_bos_dominated=exclude_bos_dominated,
    )
    path = write_table(folder, n_ctx=n_ctx, kept=kept, cache=neuronpedia)
    emit({"page": str(path)}, as_json=as_json, lines=[f"page     {path}"])


def finish(folder: Path, counts: dict[str, Any], figures: bool, as_json: bool) -> None:
    """Draw where asked, print what there is, and end with 3 where events failed."""
    drawn: list[Path] = []
    missing: list[str] = []
    if figures:
        from saekit.studies.locality.event_pages import draw_all, write_cards, write_table

        drawn, missing = draw_all(folder)
        drawn += [write_cards(folder, folder / "feature_case_studies.html"), write_table(folder)]
    ok = ", ".join(f"N={n}: {k}" for n, k in counts["ok"].items())
    lines = [
        f"events   {folder}: {counts['latents']} latents, {counts['events']} events",
        f"scored   {ok}",
        *(f"figure   {path}" for path in drawn),
        *(f"left out {m}" for m in missing),
        *note_lines(counts.get("notes", [])),
    ]
    if counts["failed"]:
        lines.append(f"failed   {counts['failed']} events; see {folder / 'manifest.json'}")
    unanswered = counts.get("without_answer", [])
    lines += [f"failed   latent {one['latent']}: {one['why']}" for one in unanswered]
    record = {"events_folder": str(folder), "figures": [str(p) for p in drawn], **counts}
    emit(record | {"missing": missing}, as_json=as_json, lines=lines)
    if counts["failed"] or unanswered:
        raise typer.Exit(PARTLY)


def open_index(folder: Path, loaded: "TrainedSAE") -> "LatentStore":
    """Return the store of an SAE's codes.

    Raises:
        FormatError: there is none, or it is of an SAE of another width.
    """
    from saekit.analysis.analyse import codes_of
    from saekit.hub.index_manifest import sites_in

    here = str(loaded.card.site)
    store = codes_of(folder / here if here in sites_in(folder) else folder)
    if store.d_sae != loaded.sae.cfg.d_sae:
        raise FormatError(
            f"{folder} is of an SAE with {store.d_sae} latents; this has "
            f"{loaded.sae.cfg.d_sae}. Index again, or name the right one with --index."
        )
    said = store.meta.get("site")
    if said is not None and said != here:
        raise FormatError(
            f"{folder} is of {said}, and {here} is asked for. Name another with --index, or read "
            f"text with --tokens."
        )
    return store


def _places(store: "LatentStore", chosen: list[int], top: int, per: str, threshold: float) -> Any:
    """Return latent, place and value of candidates: twice as many as wanted, for some are alike."""
    import torch

    from saekit.activations.text_axis import axis_of
    from saekit.analysis.document_peaks import DocumentPeaks
    from saekit.analysis.max_acts import MaxActs

    latents = torch.tensor(chosen)
    if per == "document":
        peaks = DocumentPeaks(n=2 * top, threshold=threshold).peaks(store).of(latents)
        return peaks.latent, peaks.place, peaks.value
    rows = MaxActs(n=2 * top).peaks(store)
    mine = torch.isin(rows.latent, latents) & (rows.value.abs() > threshold)
    place = axis_of(store).place(rows.row[mine], rows.pos[mine])
    return rows.latent[mine], place, rows.value[mine]
