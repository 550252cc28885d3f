"""`saekit locality autocorr`: how long latents stay on, beside how far back they look."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.core.errors import ConfigError
from saekit.hub.names import results_folder
from saekit.studies.locality.commands import _autocorr_files as files
from saekit.studies.locality.commands import app
from saekit.studies.locality.commands.events import Corpus, Index, Latents, open_index
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
from saekit.terminal.common_options import AsJson, Device, Quiet, Seed, SplitName
from saekit.terminal.output import emit, note_lines
from saekit.terminal.sae_options import HintOptions, takes

if TYPE_CHECKING:
    from saekit.activations.latents import LatentStore
    from saekit.analysis.autocorrelation import Curves
    from saekit.core.result import Table
    from saekit.hub.trained import TrainedSAE
    from saekit.models.base import LanguageModel
    from saekit.studies.locality.events.event_entropy import EventScores
    from saekit.studies.locality.events.neuronpedia import Record
    from saekit.studies.locality.runs.run_folder import RunOptions


TARGETS = "targets"  # folder of the journal of scored positions


@app.command("autocorr")
@takes(HintOptions)
def autocorr(
    home: Folder,
    site: Sites = None,
    layers: Layers = None,
    preset: PresetName = None,
    index: Index = None,
    tokens: Annotated[
        int,
        typer.Option(
            "--tokens",
            "--documents",
            help="Tokens of whole documents to read; 0 takes the index instead.",
        ),
    ] = 200_000,
    corpus: Corpus = None,
    split: SplitName = "train",
    window: Annotated[int, typer.Option(help="Tokens in a pass over documents.")] = 1024,
    overlap: Annotated[
        int, typer.Option(help="Tokens by which passes over a document overlap.")
    ] = 256,
    lags: Annotated[int, typer.Option(help="Largest lag, in tokens.")] = 64,
    threshold: Above = 0.0,
    latents: Latents = None,
    n_latents: NLatents = 200,
    min_density: MinDensity = 1e-5,
    max_density: MaxDensity = 0.1,
    top: Annotated[
        int,
        typer.Option(
            help="Peaks for each latent, one per document; only latents with that many are drawn."
        ),
    ] = 20,
    targets: Annotated[
        int,
        typer.Option(
            help="Positions for each latent, where it is on, at which to compute H_pos; 0 is none."
        ),
    ] = 32,
    n_ctx: Annotated[int, typer.Option(help="Tokens in the windows for H_pos.")] = 256,
    neuronpedia: Annotated[
        Path | None,
        typer.Option(
            help="Folder MODEL/SAE of a cache of saekit locality neuronpedia, for "
            "explanations, recall and texts."
        ),
    ] = None,
    sae_id: Annotated[
        str | None, typer.Option(help="Name of the SAE in the files. [its folder's name]")
    ] = None,
    seed: Seed = 0,
    resume: Resume = False,
    memory: Memory = None,
    tables: Format = "csv",
    out: OutOrBeside = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: HintOptions,
) -> None:
    """Measure how long latents stay on along a document.

    Example: saekit locality autocorr demo --tokens 60000 --window 256 --overlap 64
    --n-latents 40 --targets 8 --n-ctx 128
    """
    from saekit.analysis.autocorrelation import Autocorrelation
    from saekit.analysis.document_peaks import DocumentPeaks
    from saekit.data.table_files import write
    from saekit.studies.locality.events.quality import BOS_DOMINATED, records
    from saekit.studies.locality.runs.run_folder import RunOptions
    from saekit.studies.locality.windows.drawing import check_length

    options = RunOptions(
        resume=resume, memory_bytes=bytes_of(memory), shown=not quiet, tables=tables
    )
    question = Autocorrelation(lags=lags, threshold=threshold)
    peaks_of = DocumentPeaks(n=top, threshold=threshold)
    folder = out or results_folder(home) / "locality" / "autocorr"
    loaded = opened(home, site, layers, preset, sae, corpus if tokens else "")
    request = files.Request(
        tokens=tokens,
        corpus=corpus,
        split=split,
        n_latents=n_latents,
        top=top,
        latents=numbers(latents, loaded.sae.cfg.d_sae) if latents else None,
        density=(min_density, max_density),
        threshold=threshold,
        targets=targets,
        n_ctx=n_ctx,
        seed=seed,
    )
    _check_request(request, folder, options)
    lm = float32_model(loaded, device, sae.model)
    if targets:
        check_length(lm, n_ctx + (loaded.card.bos_id(lm.tokenizer) is not None), "n_ctx")
    if tokens:
        store = codes_of(
            loaded,
            lm,
            (corpus, split),
            folder / "index",
            tokens,
            sizes=(window, overlap),
            shown=not quiet,
        )
    else:
        store = open_index(index or results_folder(home) / "index", loaded)
    from saekit.studies.locality.latents.drawing import draw_latents

    pool = request.latents or draw_latents(store, store.d_sae, request.density, seed)
    curves, peaks = question.curves(store), peaks_of.peaks(store)
    explained = records(neuronpedia, pool) if neuronpedia else {}
    selected = _select(pool, curves, store, request, explained)
    peaks = peaks.of(files.as_tensor(selected.latents))
    files.tables(folder, store, curves, peaks, selected, tables)
    files.contexts(folder, lm, store, peaks)
    scored = None
    if targets:
        journal = folder / TARGETS
        scored, targeted = _targets(loaded, lm, store, selected.latents, request, journal, options)
        write(targeted, folder / "entropy_targets", tables)
    H = _entropies(scored)
    corner = files.summary(folder, curves, selected, H, tables)
    made = files.draw(folder, curves, selected, H)
    if corner and scored is not None:
        made.append(files.corner_cards(folder, store, lm, scored, peaks, corner))
    if (
        corner
        and explained
        and (page := files.neuronpedia_cards(folder, explained, H, n_ctx, corner))
    ):
        made.append(page)
    failed = len(scored.failures) if scored is not None else 0
    record = {
        "autocorr": str(folder),
        "tokens": curves.n_tokens,
        "latents": len(selected.latents),
        "failed": failed,
        "corners": {k: len(v) for k, v in corner.items()},
        "figures": [str(p) for p in made],
        "notes": store.meta.get("notes", []),
    }
    bos = BOS_DOMINATED if request.latents is None and explained else None
    filters = request.filters | {"frac_bos": bos}  # largest share of Neuronpedia's peaks at BOS
    about = {
        "layer": loaded.card.site.layer,
        "site": str(loaded.card.site),
        "sae_id": sae_id or home.resolve().name,
        "filters": filters,
        "n_latents": n_latents,
        "targets": targets,
        "ctx_len": n_ctx,
    }
    files.manifest(folder, record | about, store, question, request, lm)
    files.corpus_meta(folder, store, curves.n_tokens, lm, request)
    _end(record, as_json)


def _check_request(request: files.Request, folder: Path, options: "RunOptions") -> None:
    """Refuse what can be refused before a model is loaded and text is read.

    Raises:
        ConfigError: a number is out of range, or the folder holds a run.
    """
    from saekit.studies.locality.events.event_entropy import EventEntropy
    from saekit.studies.locality.runs.journal import holds_a_run

    if request.targets < 0 or request.tokens < 0:
        raise ConfigError(
            f"`--targets` and `--tokens` must be 0 or more; got {request.targets} and "
            f"{request.tokens}."
        )
    if not request.targets:
        return
    EventEntropy(n_ctx=request.n_ctx, threshold=request.threshold)
    if not options.resume and (folder / TARGETS).exists():
        raise holds_a_run(folder)


def _end(record: dict[str, Any], as_json: bool) -> None:
    """Print what there is, and end with 3 where positions failed."""
    lines = [
        f"autocorr {record['autocorr']}: {record['tokens']:,} tokens, {record['latents']} latents",
        *([f"corners  {record['corners']}"] if record["corners"] else []),
        *(f"figure   {path}" for path in record["figures"]),
        *note_lines(record["notes"]),
    ]
    emit(record, as_json=as_json, lines=lines)
    if record["failed"]:
        raise typer.Exit(PARTLY)


def _select(
    pool: list[int],
    curves: "Curves",
    store: "LatentStore",
    request: files.Request,
    explained: "dict[int, Record]",
) -> files.SelectedLatents:
    """Return the latents looked at, and why the others of the pool are not.

    Where they are not named, latents must be on in enough documents, and those whose texts on
    Neuronpedia mostly peak at BOS are left out.
    """
    import torch

    from saekit.analysis.firing import Firing
    from saekit.core.seeds import generator
    from saekit.studies.locality.events.quality import Quality, beginning, of_record

    top, filtered = request.top, request.latents is None
    known = {a: of_record(explained[a]) if a in explained else Quality() for a in pool}
    docs = Firing(threshold=request.threshold).measure(store).docs
    ok = [a for a in pool if not filtered or (int(docs[a]) >= top and not beginning(known[a]))]
    if not ok or request.n_latents < 1:
        raise ConfigError(
            f"Of {len(pool)} latents in the range of density none is on in {top} documents. Read "
            f"more text (--tokens), or lower --top."
        )
    order = torch.randperm(len(ok), generator=generator(request.seed, "autocorr")).tolist()
    latents = sorted(ok[i] for i in order[: request.n_latents]) if filtered else ok
    passes, selected = set(ok), set(latents)
    density = curves.lengths().columns["density"]
    rows = {
        "feature_id": pool,
        "density": [density[a] for a in pool],
        "n_active": [int(curves.counts[a]) for a in pool],
        "max_act": [float(store.maxima[a]) for a in pool],
        "n_docs_active": [int(docs[a]) for a in pool],
        "frac_bos": [known[a].frac_bos for a in pool],
        "recall_alt": [known[a].recall_alt for a in pool],
        "description": [explained[a].description if a in explained else "" for a in pool],
        "passes": [a in passes for a in pool],
        "selected": [a in selected for a in pool],
    }
    return files.SelectedLatents(latents, rows)


def _targets(
    loaded: "TrainedSAE",
    lm: "LanguageModel",
    store: "LatentStore",
    latents: list[int],
    request: files.Request,
    folder: Path,
    options: "RunOptions",
) -> "tuple[EventScores, Table]":
    """Score positions drawn at random where latents are on; return what came of it, in rows too."""
    from saekit.analysis.active_places import active_places
    from saekit.core.result import Table
    from saekit.studies.locality.events.base import from_store
    from saekit.studies.locality.events.event_entropy import EventEntropy
    from saekit.studies.locality.events.event_run import EventRun
    from saekit.studies.locality.runs.journal import Journal

    n_ctx, threshold = request.n_ctx, request.threshold
    places = active_places(
        store,
        latents,
        request.targets,
        least_doc_pos=n_ctx - 1,
        threshold=threshold,
        seed=request.seed,
    )
    events = from_store(store, places.latent, places.place, places.value, n_ctx=n_ctx)
    card = loaded.card
    one = EventRun(n_ctx=(n_ctx,), threshold=threshold)
    site = card.site
    journal = Journal(folder, one.settings(loaded, lm, site, events), resume=options.resume)
    scored = EventEntropy(n_ctx=n_ctx, threshold=threshold).score(
        lm,
        loaded.sae,
        site,
        events,
        bos_id=card.bos_id(lm.tokenizer),
        memory_bytes=options.memory_bytes,
        shown=options.shown,
        journal=journal,
    )
    J = scored.J.double().nansum(1)
    table = Table(
        columns={
            "feature_id": [e.latent for e in events],
            "doc_id": [e.doc for e in events],
            "position": [int(p) for p in _doc_pos(places, events)],
            "activation": [e.value for e in events],
            "H_pos": scored.H.tolist(),
            "sum_J": J.tolist(),
            "n_positions": scored.n_positions.tolist(),
            "local_activation": scored.activation.tolist(),
            "status": scored.status,
        },
        units={"H_pos": "bits", "activation": "act units"},
    )
    return scored, table


def _entropies(scored: "EventScores | None") -> dict[int, list[float]]:
    H: dict[int, list[float]] = {}
    if scored is not None:
        for event, bits in zip(scored.events, scored.H.tolist(), strict=True):
            if bits == bits:
                H.setdefault(event.latent, []).append(bits)
    return H


def _doc_pos(places: Any, events: Any) -> list[int]:
    at = dict(zip(places.place.tolist(), places.doc_pos.tolist(), strict=True))
    return [at[event.place] for event in events]
