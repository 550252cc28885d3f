"""What commands print: JSON for programs, short lines for people."""

from typing import Any

import typer

from saekit.core.files import to_json_line
from saekit.core.text import printable, printable_json


def emit(record: dict[str, Any], *, as_json: bool, lines: list[str]) -> None:
    """Print one JSON line, or the lines for a reader.

    Text in them may come from files that somebody else made: it cannot steer the terminal.
    """
    if as_json:
        typer.echo(printable_json(to_json_line(record)))
    else:
        typer.echo(printable("\n".join(lines)))


def note_lines(notes: list[str]) -> list[str]:
    """Return a line for each thing that a reader of the numbers must know of an SAE."""
    return [f"note     {note}" for note in notes]
