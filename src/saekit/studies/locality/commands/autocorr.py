"""`saekit locality autocorr`: how long latents stay on, beside how far back they look."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.core.errors import ConfigError
from saekit.studies.locality.commands import _autocorr_files as files
from saekit.studies.locality.commands import app
from saekit.studies.locality.commands.events import Corpus, Index, Latents, open_index
from saekit.studies.locality.commands.options import (
    PARTLY,
    Device,
    Folder,
    Format,
    Json,
    Layers,
    Memory,
    OutOrBeside,
    PresetName,
    Quiet,
    Resume,
    Sites,
    bytes_of,
    codes_of,
    float32_model,
    numbers,
    opened,
)
from saekit.terminal.output import emit
from saekit.terminal.sae_options import HintOptions, takes

if TYPE_CHECKING:
    from saekit.activations.latents import LatentStore
    from saekit.analysis.autocorrelation import Curves
    from saekit.core.result import Table
    from saekit.hub.trained import TrainedSAE
    from saekit.models.base import LanguageModel
    from saekit.studies.locality.events.event_entropy import Scored
    from saekit.studies.locality.events.neuronpedia import Record


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
        typer.Option("--tokens", "--documents",
                     help="Read whole documents, so many tokens; 0: use the index."),
    ] = 200_000,
    corpus: Corpus = None,
    split: Annotated[str, typer.Option(help="Part of the text: train or test.")] = "train",
    window: Annotated[int, typer.Option(help="Tokens of a pass over documents.")] = 1024,
    overlap: Annotated[int, typer.Option(help="Tokens of context a window repeats.")] = 256,
    lags: Annotated[int, typer.Option(help="Largest lag, tokens.")] = 64,
    threshold: Annotated[float, typer.Option(help="Activations above this are on.")] = 0.0,
    latents: Latents = None,
    n_latents: Annotated[int, typer.Option(help="Latents drawn where none are named.")] = 200,
    min_density: Annotated[float, typer.Option(help="Least share of tokens.")] = 1e-5,
    max_density: Annotated[float, typer.Option(help="Most of it.")] = 0.1,
    top: Annotated[
        int, typer.Option(help="Peaks per latent, one a document; drawn latents have as many.")
    ] = 20,
    targets: Annotated[
        int, typer.Option(help="Active positions per latent whose H_pos is taken; 0 for none.")
    ] = 32,
    n_ctx: Annotated[int, typer.Option(help="Tokens of a window, of H_pos.")] = 256,
    neuronpedia: Annotated[
        Path | None, typer.Option(help="Folder MODEL/SAE of a cache: words, recall, texts.")
    ] = None,
    sae_id: Annotated[
        str | None, typer.Option(help="What the SAE is called. [its folder's name]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides all that is drawn.")] = 0,
    resume: Resume = False,
    memory: Memory = None,
    tables: Format = "csv",
    out: OutOrBeside = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
    *,
    sae: HintOptions,
) -> None:
    """Measure how long latents stay on along documents, and their corner cases.

    Example: saekit locality autocorr demo --tokens 60000 --window 256 --overlap 64
    --n-latents 40 --targets 8 --n-ctx 128
    """
    from saekit.analysis.autocorrelation import Autocorrelation
    from saekit.analysis.document_peaks import DocumentPeaks
    from saekit.data.table_files import check, write
    from saekit.studies.locality.events.quality import BOS_DOMINATED, records

    check(tables)
    question = Autocorrelation(lags=lags, threshold=threshold)
    peaks = DocumentPeaks(n=top, threshold=threshold)
    folder = out or home / "locality" / "autocorr"
    loaded = opened(home, site, layers, preset, sae, corpus if tokens else "")
    named = numbers(latents, loaded.sae.cfg.d_sae) if latents else None
    asked = (tokens, targets, n_ctx, threshold)
    lm = _model(loaded, folder, asked, resume, (device, sae.model))
    if tokens:
        store = codes_of(loaded, lm, (corpus, split), folder / "index", tokens,
                         sizes=(window, overlap), shown=not quiet)  # fmt: skip
    else:
        store = open_index(index or home / "index", loaded)
    from saekit.studies.locality.latents.drawing import draw_latents

    pool = named or draw_latents(store, store.d_sae, (min_density, max_density), seed)
    curves, found = question.curves(store), peaks.peaks(store)
    said = records(neuronpedia, pool) if neuronpedia else {}
    chosen = _select(
        pool, curves, store, (named is None, said), (n_latents, top, seed, threshold)
    )
    found = found.of(files.as_tensor(chosen.latents))
    files.tables(folder, store, curves, found, chosen, tables)
    files.contexts(folder, lm, store, found)
    scored = None
    if targets:
        drawn = (chosen.latents, targets, n_ctx, threshold, seed)
        scored, targeted = _targets(
            loaded, lm, store, drawn, (bytes_of(memory), quiet, folder / TARGETS, resume)
        )
        write(targeted, folder / "entropy_targets", tables)
    H = _entropies(scored)
    corner = files.summary(folder, curves, chosen, H, tables)
    made = files.draw(folder, curves, chosen, H)
    if corner and scored is not None:
        made.append(files.corner_cards(folder, store, lm, scored, found, corner))
    if corner and said and (page := files.neuronpedia_cards(folder, said, H, n_ctx, corner)):
        made.append(page)
    failed = len(scored.failures) if scored is not None else 0
    record = {
        "autocorr": str(folder), "tokens": curves.n_tokens, "latents": len(chosen.latents),
        "failed": failed, "corners": {k: len(v) for k, v in corner.items()},
        "figures": [str(p) for p in made],
    }  # fmt: skip
    chosen_by = files.Filters(
        None if named else (min_density, max_density), None if named else top,
        None if named or not said else BOS_DOMINATED,
    )  # fmt: skip
    about = {"layer": loaded.card.site.layer, "site": str(loaded.card.site),
             "sae_id": sae_id or home.resolve().name, "filters": chosen_by._asdict(),
             "n_latents": n_latents, "targets": targets, "ctx_len": n_ctx}  # fmt: skip
    files.manifest(folder, record | about, store, question, (seed, corpus, split), lm)
    files.corpus_meta(folder, store, curves.n_tokens, lm, (corpus if tokens else None, seed))
    _end(record, as_json)


def _model(
    loaded: "TrainedSAE", folder: Path, asked: tuple[int, int, int, float], resume: bool,
    named: tuple[str, str | None],
) -> "LanguageModel":  # fmt: skip
    """Return the model, after all is refused that can be before text is read.

    Raises:
        ConfigError: a number is out of range, or the folder holds a run.
    """
    from saekit.studies.locality.events.event_entropy import EventEntropy
    from saekit.studies.locality.runs.journal import holds_a_run
    from saekit.studies.locality.windows.drawing import check_length

    tokens, targets, n_ctx, threshold = asked
    if targets < 0 or tokens < 0:
        raise ConfigError(
            f"`--targets` and `--tokens` are 0 or more; got {targets} and {tokens}."
        )
    if targets:
        EventEntropy(n_ctx=n_ctx, threshold=threshold)
    lm = float32_model(loaded, *named)
    if targets:
        check_length(lm, n_ctx + (loaded.card.bos_id(lm.tokenizer) is not None), "n_ctx")
    if targets and not resume and (folder / TARGETS).exists():  # before minutes of reading
        raise holds_a_run(folder)
    return lm


def _end(record: dict[str, Any], as_json: bool) -> None:
    """Print what there is, and end with 3 where positions failed."""
    lines = [
        f"autocorr {record['autocorr']}: {record['tokens']:,} tokens, {record['latents']} latents",
        *([f"corners  {record['corners']}"] if record["corners"] else []),
        *(f"figure   {path}" for path in record["figures"]),
    ]
    emit(record, as_json=as_json, lines=lines)
    if record["failed"]:
        raise typer.Exit(PARTLY)


def _select(
    pool: list[int], curves: "Curves", store: "LatentStore", how: "tuple[bool, dict[int, Record]]",
    drawn: tuple[int, int, int, float],
) -> files.Chosen:  # fmt: skip
    """Return the latents looked at, and why the others of the pool are not.

    Where they are not named, latents must be on in enough documents, and those whose texts on
    Neuronpedia mostly peak at BOS are left out.
    """
    import torch

    from saekit.analysis.firing import Firing
    from saekit.core.seeds import generator
    from saekit.studies.locality.events.quality import Quality, beginning, of_record

    (n, top, seed, threshold), (filtered, said) = drawn, how
    known = {a: of_record(said[a]) if a in said else Quality() for a in pool}
    docs = Firing(threshold=threshold).measure(store).docs
    ok = [a for a in pool if not filtered or (int(docs[a]) >= top and not beginning(known[a]))]
    if not ok or n < 1:
        raise ConfigError(
            f"Of {len(pool)} latents in the range of density none is on in {top} documents. Read "
            f"more text (--tokens), or lower --top."
        )
    order = torch.randperm(len(ok), generator=generator(seed, "autocorr")).tolist()
    latents = sorted(ok[i] for i in order[:n]) if filtered else ok
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
        "description": [said[a].description if a in said else "" for a in pool],
        "passes": [a in passes for a in pool],
        "selected": [a in selected for a in pool],
    }
    return files.Chosen(latents, rows)


def _targets(
    loaded: "TrainedSAE", lm: "LanguageModel", store: "LatentStore",
    drawn: tuple[list[int], int, int, float, int], how: "tuple[int | None, bool, Path, bool]",
) -> "tuple[Scored, Table]":  # fmt: skip
    """Score positions drawn at random where latents are on; return what came of it, in rows too."""
    from saekit.analysis.active_places import active_places
    from saekit.core.result import Table
    from saekit.studies.locality.events.base import from_store
    from saekit.studies.locality.events.event_entropy import EventEntropy
    from saekit.studies.locality.events.event_run import EventRun
    from saekit.studies.locality.runs.journal import Journal

    (latents, n, n_ctx, threshold, seed), (memory_bytes, quiet, out, resume) = drawn, how
    places = active_places(store, latents, n, least_doc_pos=n_ctx - 1, threshold=threshold,
                           seed=seed)  # fmt: skip
    events = from_store(store, places.latent, places.place, places.value, n_ctx=n_ctx)
    card = loaded.card
    one = EventRun(n_ctx=(n_ctx,), threshold=threshold)
    site = card.site
    journal = Journal(out, one.settings(loaded, lm, site, events), resume=resume)
    scored = EventEntropy(n_ctx=n_ctx, threshold=threshold).score(
        lm, loaded.sae, site, events,
        bos_id=card.bos_id(lm.tokenizer), memory_bytes=memory_bytes,
        shown=not quiet, journal=journal,
    )  # fmt: skip
    J = scored.J.double().nansum(1)
    table = Table(
        columns={
            "feature_id": [e.latent for e in events], "doc_id": [e.doc for e in events],
            "position": [int(p) for p in _doc_pos(places, events)],
            "activation": [e.value for e in events], "H_pos": scored.H.tolist(),
            "sum_J": J.tolist(), "n_positions": scored.n_positions.tolist(),
            "local_activation": scored.activation.tolist(), "status": scored.status,
        },
        units={"H_pos": "bits", "activation": "act units"},
    )  # fmt: skip
    return scored, table


def _entropies(scored: "Scored | None") -> dict[int, list[float]]:
    H: dict[int, list[float]] = {}
    if scored is not None:
        for event, bits in zip(scored.events, scored.H.tolist(), strict=True):
            if bits == bits:
                H.setdefault(event.latent, []).append(bits)
    return H


def _doc_pos(places: Any, events: Any) -> list[int]:
    at = dict(zip(places.place.tolist(), places.doc_pos.tolist(), strict=True))
    return [at[event.place] for event in events]
