"""`saekit locality neuronpedia`: what Neuronpedia holds of latents, and H_pos on its texts."""

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.core.errors import ConfigError, ResourceError, SaekitError
from saekit.hub.names import results_folder
from saekit.studies.locality.commands import app
from saekit.studies.locality.commands.events import Latents, finish
from saekit.studies.locality.commands.options import (
    PARTLY,
    Format,
    Layers,
    Memory,
    PresetName,
    Resume,
    Sites,
    bytes_of,
    float32_model,
    numbers,
    opened,
)
from saekit.terminal.common_options import AsJson, Device, Quiet
from saekit.terminal.output import emit
from saekit.terminal.sae_options import HintOptions, takes

if TYPE_CHECKING:
    from saekit.hub.trained import TrainedSAE
    from saekit.models.base import LanguageModel
    from saekit.studies.locality.events.event_run import EventRun
    from saekit.studies.locality.events.neuronpedia import Cache, Record
    from saekit.studies.locality.runs.run_folder import RunOptions

BROWSED = (1e-5, 1e-1)  # densities of latents worth a look
PATIENCE = 3  # latents in a row that the server does not answer about, until it is left alone


@app.command("neuronpedia")
@takes(HintOptions)
def neuronpedia(
    cache: Annotated[Path, typer.Argument(help="Folder to keep Neuronpedia's answers in.")],
    model_id: Annotated[str, typer.Option(help="Neuronpedia's name for the model, as gemma-2-2b.")],
    sae_id: Annotated[
        str, typer.Option(help="Neuronpedia's name for the SAE, as 12-gemmascope-res-16k.")
    ],
    latents: Latents = None,
    browse: Annotated[
        int, typer.Option(help="Number of latents to draw by --seed, look at and list.")
    ] = 0,
    d_sae: Annotated[
        int, typer.Option(help="With --browse: number of latents to draw from.")
    ] = 16384,
    online: Annotated[
        bool,
        typer.Option(
            "--online", help="Request latents that are not in the cache from Neuronpedia."
        ),
    ] = False,
    home: Annotated[
        Path | None,
        typer.Option(
            "--sae", help="Compute H_pos on these texts with this SAE: folder of a run or an SAE."
        ),
    ] = None,
    site: Sites = None,
    layers: Layers = None,
    preset: PresetName = None,
    top: Annotated[int, typer.Option(help="Most texts to score for each latent.")] = 32,
    n_ctx: Annotated[
        list[int] | None,
        typer.Option(help="Tokens in a window of text. Repeatable. [16 32 64 96 128]"),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="A latent is on above this activation, in act units.")
    ] = 0.0,
    resume: Resume = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Score even if activations do not match Neuronpedia's.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed that decides which latents --browse draws.")] = 0,
    figures: Annotated[bool, typer.Option(help="Draw figures and pages of cases, or not.")] = True,
    tables: Format = "csv",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to. [SAE/locality/neuronpedia]")
    ] = None,
    memory: Memory = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: HintOptions,
) -> None:
    """Fetch the texts that Neuronpedia shows for latents, and measure locality on them.

    Example: saekit locality neuronpedia np --model-id gemma-2-2b --sae-id 12-gemmascope-res-16k
    --latents 100-120 --online
    """
    from saekit.studies.locality.events import candidates
    from saekit.studies.locality.events.event_run import EventRun
    from saekit.studies.locality.events.neuronpedia import Cache
    from saekit.studies.locality.runs.run_folder import RunOptions

    options = RunOptions(
        resume=resume, memory_bytes=bytes_of(memory), shown=not quiet, tables=tables
    )
    place = Cache(root=cache, model=model_id, sae=sae_id, online=online)
    if browse < 0 or (browse and (latents or d_sae < 1)):
        raise ConfigError(
            f"Give either --latents, or --browse with a number of 1 or more and --d-sae of 1 or "
            f"more; got --latents {latents}, --browse {browse}, --d-sae {d_sae}."
        )
    if browse:
        chosen = sorted(random.Random(seed).sample(range(d_sae), min(browse, d_sae)))
    else:
        chosen = numbers(latents, 2**31) if latents else place.known()
    if not chosen:
        raise ConfigError(f"{place.path(0).parent} holds no latent. Name some with --latents.")
    records, failed = _asked(place, chosen)
    if home is not None:
        loaded = opened(home, site, layers, preset, sae)
        run = EventRun(threshold=threshold)
        run = replace(run, n_ctx=tuple(n_ctx)) if n_ctx else run
        _score(
            loaded,
            float32_model(loaded, device, sae.model),
            records,
            run,
            _Scoring(
                out=out or results_folder(home) / "locality" / "neuronpedia",
                sae_id=sae_id,
                top=top,
                anyway=anyway,
                figures=figures,
                as_json=as_json,
                unanswered=failed,
                options=options,
            ),
        )
        return
    path = None
    if browse:
        low, high = BROWSED
        records = [
            r
            for r in records
            if r.density is not None and low <= r.density <= high and r.description
        ]
        path = candidates.write(
            (out or cache) / candidates.name_of(sae_id),
            records,
            [
                f"Candidates: {model_id} / {sae_id}",
                f"{d_sae} latents, {browse} drawn, seed {seed}",
                f"{len(failed)} of them without an answer",
                f"{len(records)} with a density of {low:g} to {high:g} and an explanation",
            ],
        )
    lines = [
        f"{r.index:>8} {r.density if r.density is not None else '?':<10} "
        f"{len(r.activations):>3} texts  {r.description}"
        for r in records
    ]
    lines += [f"failed   {one['latent']}: {one['why']}" for one in failed]
    found = {
        "latents": [r.index for r in records],
        "cache": str(place.path(0).parent),
        "failed": failed,
        "list": None if path is None else str(path),
    }
    if not quiet or as_json:
        emit(found, as_json=as_json, lines=lines)
    if failed:
        raise typer.Exit(PARTLY)


def _asked(place: "Cache", latents: list[int]) -> "tuple[list[Record], list[dict[str, Any]]]":
    """Return what is known of latents, and why nothing is of the others.

    Where the server does not answer about several in a row, only files are read from then on.

    Raises:
        SaekitError: nothing is known of any.
    """
    records: list[Record] = []
    failed: list[dict[str, Any]] = []
    first: SaekitError | None = None
    silent = 0
    for latent in latents:
        if silent == PATIENCE:
            place = replace(place, online=False)
        try:
            records.append(place.get(latent))
            silent = 0
        except SaekitError as error:
            first = first or error
            failed.append({"latent": latent, "why": str(error)})
            silent = silent + 1 if isinstance(error, ResourceError) else silent
    if first is not None and not records:
        raise first
    return records, failed


@dataclass(frozen=True, kw_only=True)
class _Scoring:
    """How texts are scored, and where what comes of it goes."""

    out: Path
    sae_id: str
    top: int
    anyway: bool
    figures: bool
    as_json: bool
    unanswered: list[dict[str, Any]]  # latents without an answer
    options: "RunOptions"


def _score(
    loaded: "TrainedSAE",
    lm: "LanguageModel",
    records: "list[Record]",
    run: "EventRun",
    scoring: _Scoring,
) -> None:
    """Score the texts of latents, where their activations are those of the SAE.

    Raises:
        ConfigError: a latent is out of range.
        DataError: no text can be read, or activations are others.
    """
    from saekit.core.errors import DataError
    from saekit.core.files import write_json
    from saekit.data import table_files
    from saekit.studies.locality.events import quality
    from saekit.studies.locality.events.event_run import AboutEvents
    from saekit.studies.locality.events.neuronpedia_events import events_of, match

    far = [r.index for r in records if r.index >= loaded.sae.cfg.d_sae]
    if far:
        raise ConfigError(
            f"The SAE has {loaded.sae.cfg.d_sae} latents and the cache names {far[0]}; it is of "
            f"another SAE."
        )
    out, events, log = scoring.out, [], {}
    for record in records:
        found, said = events_of(record, lm.tokenizer, scoring.top)
        events += found
        log[str(record.index)] = said
    if not events:
        failed = [t for said in log.values() for t in said["roundtrip_failure_examples"]]
        raise DataError(
            f"No text of these latents can be read token by token by the tokenizer of {lm.name}, "
            f"as {failed[:1]}. Is it the model that Neuronpedia used?"
        )
    card = loaded.card
    bos = card.bos_id(lm.tokenizer)
    table = match(lm, loaded.sae, card.site, [e for e in events if e.rank == 0], bos)
    compared = out.with_name(f"{out.name}_match.csv")
    table.write_csv(compared)
    wrong = [
        f for f, ok in zip(*(table.columns[c] for c in ("feature_id", "ok")), strict=True) if not ok
    ]
    if wrong and not scoring.anyway:
        raise DataError(
            f"Activations differ from Neuronpedia's for {len(wrong)} of {len(table)} latents, as "
            f"{wrong[0]} (see {compared}): another SAE, layer or model. Score --anyway."
        )
    source: dict[str, Any] = {
        "neuronpedia": True,
        "matched": len(table) - len(wrong),
        "densities": {str(r.index): r.density for r in records if r.density is not None},
    }
    about = AboutEvents(
        source=source, sae_id=scoring.sae_id, descriptions={r.index: r.description for r in records}
    )
    counts = run.write(loaded, lm, events, out, about, scoring.options)
    write_json(out / "adapter_log.json", log)
    qualities = {r.index: quality.of_record(r) for r in records}
    table_files.write(quality.table(qualities), out / quality.STATS, scoring.options.tables)
    counts |= {"mismatched": len(wrong), "without_answer": scoring.unanswered}
    finish(out, counts, scoring.figures, scoring.as_json)
