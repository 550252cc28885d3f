"""`saekit convert`: an SAE from one format to another."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.cli.show import emit


def convert(
    source: Annotated[Path, typer.Argument(help="Folder with the SAE.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    to: Annotated[
        str, typer.Option("--format", help="Format to write (see: saekit list formats).")
    ] = "saekit",
    from_: Annotated[
        str | None, typer.Option("--from", help="Format to read. [told by the files]")
    ] = None,
    model: Annotated[str, typer.Option(help="Language model, where the files do not say.")] = "",
    read: Annotated[
        list[str] | None, typer.Option(help="Site read, where they do not; again for several.")
    ] = None,
    write: Annotated[
        list[str] | None, typer.Option(help="Site a transcoder predicts, where they do not.")
    ] = None,
    architecture: Annotated[
        str, typer.Option(help="Architecture, where the files fit several.")
    ] = "",
    k: Annotated[int, typer.Option(help="Latents kept per token, where they do not say.")] = 0,
    input_scale: Annotated[
        float, typer.Option(help="What multiplied activations in training, where they do not.")
    ] = 0.0,
    overwrite: Annotated[bool, typer.Option(help="Write into a folder that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Read an SAE of any known format and write it in another, so that it does the same.

    Example: saekit convert gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71 sae
    """
    from saekit.core.errors import ConfigError
    from saekit.hub.formats.base import Told, registry
    from saekit.hub.native import load

    written = registry.get(to)()
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise ConfigError(f"{out} is not empty. Name another folder, or add --overwrite.")
    told = Told(
        model=model, read=tuple(read or ()), write=tuple(write or ()), architecture=architecture,
        k=k, input_scale=input_scale,
    )  # fmt: skip
    loaded = load(source, scaled=True, format=from_, told=told)
    sae, card = loaded
    scaled = any(not one.changes_nothing for both in card.scalings.values() for one in both)
    if scaled and to != "saekit":
        raise ConfigError(
            f"Sites of different sizes share this SAE, each with a scaling that `{to}` cannot "
            f"hold. Use --format saekit."
        )
    written.write(sae, card, out)
    unknown = card.provenance.get("unknown", [])
    notes = card.provenance.get("notes", [])
    lines = [
        f"{out}: {sae.cfg.name}, {sae.cfg.d_in} -> {sae.cfg.d_sae} latents, of {card.pair.label} "
        f"of {card.model['name']}",
        *([f"unknown: {', '.join(unknown)}"] if unknown else []),
        *(f"note: {note}" for note in notes),
    ]
    record = {
        "out": str(out), "format": to, "architecture": sae.cfg.name, "d_in": sae.cfg.d_in,
        "d_out": sae.cfg.d_out, "d_sae": sae.cfg.d_sae, "model": card.model["name"],
        "site": card.pair.label, "unknown": unknown, "notes": notes,
    }  # fmt: skip
    if not quiet or as_json:
        emit(record, as_json=as_json, lines=lines)
