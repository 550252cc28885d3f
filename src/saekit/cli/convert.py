"""`saekit convert`: an SAE from one format to another."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.output import emit, note_lines
from saekit.terminal.sae_options import HintOptions, takes


@takes(HintOptions)
def convert(
    source: Annotated[Path, typer.Argument(help="Folder with the SAE, or a published one's name.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    to: Annotated[
        str, typer.Option("--format", help="Format to write (see: saekit list formats).")
    ] = "saekit",
    overwrite: Annotated[bool, typer.Option(help="Write into a folder that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    *,
    sae: HintOptions,
) -> None:
    """Read an SAE of any known format and write it in another, so that it does the same.

    Example: saekit convert gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71 --out sae
    """
    from saekit.core.errors import ConfigError
    from saekit.hub.formats.base import registry
    from saekit.hub.native import load

    written = registry.get(to)()
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise ConfigError(f"{out} is not empty. Name another folder, or add --overwrite.")
    loaded = load(source, scaled=True, format=sae.from_, hints=sae.hints())
    read, card = sae.answered(loaded)
    written.write(read, card, out)
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
