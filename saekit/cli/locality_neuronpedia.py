"""`saekit locality neuronpedia`: what Neuronpedia holds of latents, and H_pos on its texts."""

import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.cli.locality import app
from saekit.cli.locality_events import (
    Json,
    Latents,
    Quiet,
    finish,
    float32_model,
    numbers,
)
from saekit.cli.locality_options import Format, Memory, bytes_of
from saekit.cli.show import emit
from saekit.core.errors import ConfigError

if TYPE_CHECKING:
    from saekit.locality.neuronpedia import Record

BROWSED = (1e-5, 1e-1)  # densities of latents worth a look


@app.command("neuronpedia")
def neuronpedia(
    cache: Annotated[Path, typer.Argument(help="Folder of the cache.")],
    model: Annotated[str, typer.Option(help="As Neuronpedia names it: gemma-2-2b.")],
    sae_id: Annotated[str, typer.Option(help="Likewise: 12-gemmascope-res-16k.")],
    latents: Latents = None,
    browse: Annotated[
        int, typer.Option(help="Look at so many latents drawn by --seed, and list them.")
    ] = 0,
    d_sae: Annotated[int, typer.Option(help="Latents to draw from, with --browse.")] = 16384,
    online: Annotated[bool, typer.Option("--online", help="Ask the network.")] = False,
    sae: Annotated[
        Path | None, typer.Option(help="Score H_pos on these texts with this SAE.")
    ] = None,
    top: Annotated[int, typer.Option(help="Texts per latent that are scored.")] = 32,
    n_ctx: Annotated[
        list[int] | None, typer.Option(help="Window, tokens. Repeatable. [16 32 64 96 128]")
    ] = None,
    threshold: Annotated[float, typer.Option(help="An activation counts above this.")] = 0.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Score although activations do not match.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides which latents are browsed.")] = 0,
    figures: Annotated[bool, typer.Option(help="Draw figures and cards.")] = True,
    tables: Format = "csv",
    out: Annotated[Path | None, typer.Option(help="Folder. [SAE/locality/neuronpedia]")] = None,
    memory: Memory = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Read latents from a cache of Neuronpedia, offline unless told; score its texts.

    Example: saekit locality neuronpedia np --model gemma-2-2b --sae-id 12-gemmascope-res-16k
    --latents 100-120 --online
    """
    from saekit.data.table_files import check
    from saekit.locality.neuronpedia import Cache

    check(tables)
    place = Cache(root=cache, model=model, sae=sae_id, online=online)
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
    records = [place.get(i) for i in chosen]
    if sae is not None:
        _score(sae, records, out or sae / "locality" / "neuronpedia", top, tuple(n_ctx or ()),
               threshold, anyway, figures, resume, bytes_of(memory), device, quiet,
               as_json, tables)  # fmt: skip
        return
    if browse:
        low, high = BROWSED
        records = [r for r in records
                   if r.density is not None and low <= r.density <= high and r.description]
        path = (out or cache) / f"candidate_features_{sae_id.replace('/', '__')}.md"
        _list(path, model, sae_id, records, browse)
    lines = [f"{r.index:>8} {r.density if r.density is not None else '?':<10} "
             f"{len(r.activations):>3} texts  {r.description}" for r in records]  # fmt: skip
    found = {"latents": [r.index for r in records], "cache": str(place.path(0).parent)}
    if not quiet or as_json:
        emit(found | {"list": str(path) if browse else None}, as_json=as_json, lines=lines)


def _score(  # noqa: PLR0913 - the options of the command
    sae: Path, records: "list[Record]", out: Path, top: int, n_ctx: tuple[int, ...],
    threshold: float, anyway: bool, figures: bool, resume: bool, memory_bytes: int | None,
    device: str, quiet: bool, as_json: bool, tables: str,
) -> None:  # fmt: skip
    from saekit.core.errors import DataError
    from saekit.core.files import write_json
    from saekit.data import table_files
    from saekit.hub.native import load
    from saekit.locality import quality
    from saekit.locality.event_run import EventRun
    from saekit.locality.neuronpedia_events import events_of, match

    run = EventRun(threshold=threshold)
    run = replace(run, n_ctx=n_ctx) if n_ctx else run
    loaded = load(sae)
    far = [r.index for r in records if r.index >= loaded.sae.cfg.d_sae]
    if far:
        raise ConfigError(
            f"{sae} has {loaded.sae.cfg.d_sae} latents and the cache names {far[0]}; it is of "
            f"another SAE."
        )
    lm = float32_model(loaded, device)
    events, log = [], {}
    for record in records:
        found, said = events_of(record, lm.tokenizer, top)
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
    wrong = [f for f, ok in zip(*(table.columns[c] for c in ("feature_id", "ok")), strict=True)
             if not ok]  # fmt: skip
    if wrong and not anyway:
        raise DataError(
            f"Activations differ from Neuronpedia's for {len(wrong)} of {len(table)} latents, as "
            f"{wrong[0]} (see {compared}): another SAE, layer or model. Score --anyway."
        )
    source: dict[str, Any] = {
        "neuronpedia": True, "matched": len(table) - len(wrong),
        "densities": {str(r.index): r.density for r in records if r.density is not None},
    }  # fmt: skip
    counts = run.write(
        loaded, lm, events, out, source=source, resume=resume, memory_bytes=memory_bytes,
        shown=not quiet, tables=tables,
        about={r.index: r.description for r in records},
    )  # fmt: skip
    write_json(out / "adapter_log.json", log)
    found = {r.index: quality.of_record(r) for r in records}
    table_files.write(quality.table(found), out / quality.STATS, tables)
    finish(out, counts | {"mismatched": len(wrong)}, figures, as_json)


def _list(path: Path, model: str, sae_id: str, records: "list[Record]", drawn: int) -> None:
    """Write latents for a reader to choose from, as Markdown."""
    from saekit.core.files import write_text

    lines = [
        f"# Candidates: {model}, {sae_id}", "",
        f"{len(records)} of {drawn} latents drawn have a density of {BROWSED[0]:g} to "
        f"{BROWSED[1]:g} and an explanation.", "",
        "| latent | density | recall_alt | promotes | explanation |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for r in records:
        words = " ".join(r.promoted[:5]).replace("|", "\\|").replace("\n", " ")
        said = r.description.replace("|", "\\|").replace("\n", " ")
        score = "" if r.recall_alt is None else f"{r.recall_alt:.2f}"
        lines.append(f"| {r.index} | {r.density:.2g} | {score} | `{words}` | {said} |")
    write_text(path, "\n".join(lines) + "\n")
