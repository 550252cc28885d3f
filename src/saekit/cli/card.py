"""`saekit card`: the page of an SAE as it would be published."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit


def card(
    sae: Annotated[
        Path, typer.Argument(help="Folder of a run or an SAE, or a published SAE's name.")
    ],
    out: Annotated[Path | None, typer.Option(help="File to write it to. [it is printed]")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the README.md of an SAE: what it was made from, its results, its limits.

    Example: saekit card runs/mine --out README.md
    """
    from saekit.core.files import write_text
    from saekit.hub.publish import card as card_of

    text = card_of(sae)
    if out is not None:
        write_text(out, text)
    record = {"card": text} if out is None else {"out": str(out)}
    emit(record, as_json=as_json, lines=[text if out is None else f"card     {out}"])
