"""`saekit convert`: an SAE from one format to another."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit, note_lines
from saekit.terminal.sae_options import HintOptions, takes


@takes(HintOptions)
def convert(
    source: Annotated[
        Path, typer.Argument(help="Folder of the SAE to read, or a published SAE's name.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    to: Annotated[
        str, typer.Option("--format", help="Format to write in (see: saekit list formats).")
    ] = "saekit",
    overwrite: Annotated[
        bool, typer.Option(help="Write into --out although it is not empty.")
    ] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only errors.")] = False,
    *,
    sae: HintOptions,
) -> None:
    """Convert an SAE to another format, in which it gives the same results.

    Example: saekit convert gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71 --out sae
    """
    from saekit.hub.convert import check_place, convert
    from saekit.hub.native import load

    check_place(out, to, overwrite=overwrite)  # before a large SAE is read
    loaded = load(source, scaled=True, format=sae.from_, hints=sae.hints())
    read, card = sae.answered(loaded)
    convert(dataclasses.replace(loaded, sae=read, card=card), out, format=to, overwrite=overwrite)
    unknown = card.provenance.get("unknown", [])
    notes = card.provenance.get("notes", [])
    lines = [
        f"{out}: {read.cfg.name}, {read.cfg.d_in} -> {read.cfg.d_sae} latents, of "
        f"{card.pair.label} of {card.model['name']}",
        *([f"unknown: {', '.join(unknown)}"] if unknown else []),
        *note_lines(notes),
    ]
    record = {
        "out": str(out),
        "format": to,
        "architecture": read.cfg.name,
        "d_in": read.cfg.d_in,
        "d_out": read.cfg.d_out,
        "d_sae": read.cfg.d_sae,
        "model": card.model["name"],
        "site": card.pair.label,
        "unknown": unknown,
        "notes": notes,
    }
    if not quiet or as_json:
        emit(record, as_json=as_json, lines=lines)
