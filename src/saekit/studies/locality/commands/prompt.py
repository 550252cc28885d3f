"""`saekit locality prompt`: one text for the sweeps of several models."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.studies.locality.commands import app
from saekit.terminal.common_options import AsJson, Corpus, SplitName
from saekit.terminal.output import emit


@app.command("prompt")
def prompt(
    out: Annotated[
        Path, typer.Option(help="File to write the text to; where it is from goes next to it.")
    ],
    corpus: Corpus = "packaged",
    split: SplitName = "test",
    chars: Annotated[
        int, typer.Option(help="Least number of characters; a token has about five.")
    ] = 12_000,
    seed: Annotated[int, typer.Option(help="Seed that decides which text is drawn.")] = 42,
    docs: Annotated[
        int, typer.Option(help="Number of documents to look at, from the beginning of the corpus.")
    ] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Draw a text from a corpus for `saekit locality context --prompt`.

    Example: saekit locality prompt --out prompt.txt --corpus packaged --chars 3000
    """
    from saekit.core.files import write_json, write_text
    from saekit.data.base import as_split
    from saekit.data.open import open_corpus
    from saekit.studies.locality.windows.prompts import draw

    part = as_split(split)
    found = draw(open_corpus(corpus), part, chars=chars, seed=seed, most_docs=docs)
    write_text(out, found.text)
    write_json(out.with_name(f"{out.name}.meta.json"), found.told)
    record = {"prompt": str(out), **found.told}
    lines = [f"prompt   {out}: {len(found.text):,} characters, {found.told['source']}"]
    emit(record, as_json=as_json, lines=lines)
