"""`saekit locality check`: whether the ways of taking influence agree, and what each costs."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from saekit.studies.locality.commands import app
from saekit.studies.locality.commands.options import (
    Dataset,
    Documents,
    Folders,
    Layers,
    Memory,
    NCtx,
    PresetName,
    Root,
    Saes,
    Seed,
    Settings,
    Sites,
    Text,
    Threshold,
    WindowOptions,
    bytes_of,
    held_out_text,
    model_of,
    subjects_of,
    threshold_of,
)
from saekit.terminal.common_options import AsJson, Device, Quiet
from saekit.terminal.output import emit, note_lines
from saekit.terminal.sae_options import takes
from saekit.terminal.settings_help import lists


@app.command("check", cls=lists("saekit.studies.locality.influence.method_check:MethodCheck"))
@takes(WindowOptions)
def check(
    folders: Folders = None,
    saes: Saes = None,
    site: Sites = None,
    preset: PresetName = None,
    sae_root: Root = None,
    layers: Layers = None,
    corpus: Text = None,
    dataset: Dataset = None,
    documents: Documents = 0,
    windows: Annotated[int, typer.Option(help="Windows of text; intervals need 8.")] = 8,
    n_ctx: NCtx = 32,
    latents: Annotated[
        int, typer.Option(help="Number of latents to take in each window, the strongest.")
    ] = 6,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Method to compare with the loop. Repeatable. [vjp, jacobian, occlusion, "
            "integrated_gradients]"
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            help="Largest difference that exact methods may have, as a share of a "
            "profile's largest influence."
        ),
    ] = 1e-4,
    threshold: Threshold = None,
    seed: Seed = 0,
    settings: Settings = None,
    memory: Memory = None,
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write methods.csv and result.json to. [they are not written]"),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: WindowOptions,
) -> None:
    """Compare the methods that compute influence; exit code 3 if the exact ones disagree.

    Example: saekit locality check demo --corpus stdlib --windows 2
    """
    from saekit.core.config import override
    from saekit.studies.locality.influence.method_check import MethodCheck, run

    every = [*(folders or []), *(saes or [])]
    subjects, named = subjects_of(every, site, layers, (preset, sae_root), sae)
    text, rule = held_out_text(corpus, dataset, subjects)
    config = MethodCheck(
        corpus=text,
        filter=rule,
        n_ctx=n_ctx,
        windows=windows,
        latents=latents,
        threshold=threshold_of(threshold, preset),
        tolerance=tolerance,
        seed=seed,
        documents=documents,
    )
    given = [f"methods={json.dumps(method)}"] if method else []
    config = override(config, [*given, *sae.settings(settings)])
    lm = model_of(named, device)
    done = run(lm, subjects, config, memory_bytes=bytes_of(memory), shown=not quiet)
    if out is not None:
        done.methods.write_csv(out / "methods.csv")
        done.result.write(out / "result.json")
    rows = done.methods.rows()
    encodes = done.result.details["encodes"]
    record = {
        "methods": rows,
        "encodes": encodes,
        "disagree": done.disagree,
        "tolerance": config.tolerance,
        "notes": done.result.provenance["notes"],
        "out": None if out is None else str(out),
    }
    notes = note_lines(done.result.provenance["notes"])
    lines = [*_table(rows), *map(_encode_line, encodes.items()), *notes]
    emit(record, as_json=as_json, lines=lines)
    if done.disagree:
        raise typer.Exit(3)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    width = max(len(r["site"]) for r in rows)
    head = (
        f"{'site':<{width}} {'way':<21} {'agrees':<9} {'largest':>9} {'rank':>7} "
        f"{'overlap':>7} {'dH bits':>8} {'same top':>8} {'s/window':>9}"
    )
    return [head] + [
        f"{r['site']:<{width}} {r['method']:<21} {r['agrees']:<9} {r['largest_difference']:>9.1e} "
        f"{_number(r['rank_correlation'], 7)} {_number(r['overlap'], 7)} "
        f"{_number(r['entropy_difference_bits'], 8)} {_number(r['same_top'], 8)} "
        f"{r['seconds_a_window']:>9.3f}"
        for r in rows
    ]


def _number(value: float | None, width: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width}.3f}"


def _encode_line(found: tuple[str, dict[str, Any]]) -> str:
    site, e = found
    return (
        f"{site}: the published encode forgets {' and '.join(e['forgets'])}: {e['active_legacy']} "
        f"latents are on, by the SAE's own {e['active_own']}, by both {e['active_both']}; mean "
        f"entropy {_number(e['mean_entropy_bits_legacy'], 0)} and "
        f"{_number(e['mean_entropy_bits_own'], 0)} bits"
    )
