"""The page of a folder of generated text, as data hubs show it."""

import json
from typing import Any


def card_text(about: dict[str, Any], counts: dict[str, Any], notes: list[str]) -> str:
    """Return README.md of a folder.

    Args:
        about: model, settings and prompts.
        counts: what there is.
        notes: what a reader must know.
    """
    made, how = about["made_by"], about["how"]
    lines = [
        "---",
        "tags: [saekit, generated]",
        "---",
        f"# Text that {made['model']} wrote",
        "",
        f"{counts['tokens']:,} tokens in {counts['sequences']:,} sequences, drawn by "
        f"`saekit corpus generate`; {counts['ended']:,} ended by themselves, "
        f"{counts['duplicates']:,} were copies of earlier ones and left out.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in made.items()),
        *(f"| {name} | {value} |" for name, value in how.items()),
        f"| sequences begin with | {about['begins_with']} |",
        "",
        *(f"- {note}" for note in notes),
        "",
        "Each file in `shards` is safetensors: `ids` of all sequences in a row, `lengths`, "
        "`n_prompt` (tokens that were given), `numbers`, and a checksum. The number of a sequence "
        "and the seed decide its draws. Train on it:",
        "",
        f"    saekit train --corpus FOLDER --model {json.dumps(made['model'])}",
        "",
        "What the model learnt from, and its licence, hold for its text too.",
        "",
    ]
    return "\n".join(lines)
