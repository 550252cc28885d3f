"""`saekit published`: SAEs that others have published, by the names that commands take."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.output import emit

SHOWN = 40


def published(
    query: Annotated[
        list[str] | None, typer.Argument(help="Words that name or model must have.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Part of the model's name.")] = None,
    site: Annotated[str | None, typer.Option(help="Layer or site: L12, L12.resid_post.")] = None,
    width: Annotated[str | None, typer.Option(help="Latents: 16384 or 16k.")] = None,
    l0: Annotated[str | None, typer.Option("--l0", help="Largest L0, or a range: 20-60.")] = None,
    catalogue: Annotated[
        Path | None, typer.Option(help="Also those of a file of your own. [$SAEKIT_CATALOGUE]")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help=f"All, not the first {SHOWN}.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """List published SAEs: SAELens' registry, and a catalogue of your own.

    Example: saekit published gemma-scope-2b --site L12 --width 16k
    """
    from saekit.hub.names.listing import published as look

    table = look(
        " ".join(query or []), model=model, site=site, width=width, l0=l0, catalogue=catalogue
    )
    rows = table.rows()
    lines = [_line(row) for row in (rows if every else rows[:SHOWN])]
    if len(rows) > len(lines):
        lines.append(f"and {len(rows) - len(lines):,} more (--all, or more words)")
    none = "No published SAE fits. Leave out a word or an option; --all without words lists all."
    emit({"published": rows}, as_json=as_json, lines=lines or [none])


def _line(row: dict[str, object]) -> str:
    said = {"model": row["model"], "site": row["site"], "width": row["width"], "L0": row["l0"]}
    words = ", ".join(
        f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}"
        for k, v in said.items()
        if v is not None
    )
    return f"{row['name']}  ({words})"
