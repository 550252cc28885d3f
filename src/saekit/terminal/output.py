"""What commands print: JSON for programs, short lines for people."""

from typing import Any

import typer

from saekit.core.files import to_json_line
from saekit.core.text import printable, printable_json

SHOWN = {
    "fvu": "variance unexplained (FVU)",
    "l0": "latents per token (L0)",
    "ce_clean": "cross-entropy, clean (nats)",
    "ce_spliced": "cross-entropy, spliced (nats)",
    "ce_rise": "cross-entropy rise (nats)",
    "ce_recovered_zero": "recovered, vs zero ablation",
    "ce_recovered_mean": "recovered, vs mean ablation",
    "kl": "KL, clean to spliced (nats)",
    "dead": "dead latents (share)",
    "density": "median firing share of live latents",
}


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


def score_lines(scores: dict[str, Any]) -> list[str]:
    """Return a line a score: what it is, its value and its 95 % interval."""
    known = [name for name in SHOWN if name in scores]
    return [f"  {SHOWN[name]:<38} {scores[name].text()}" for name in known]
