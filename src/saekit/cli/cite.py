"""`saekit cite`: what to cite for a run or a result."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit


def cite(
    source: Annotated[
        Path, typer.Argument(help="Folder of a run, SAE, comparison or study, or a result file.")
    ],
    out: Annotated[Path | None, typer.Option(help="Also write the BibTeX to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what to cite, as text and as BibTeX, with a sentence for the methods section.

    Example: saekit cite demo
    """
    from saekit.core.files import write_text
    from saekit.core.writable import check_ending
    from saekit.report.citation import cite as cited

    if out is not None:
        check_ending(out, (".bib",), "BibTeX")
    found = cited(source)
    if out is not None:
        write_text(out, found.bibtex)
    record = {
        "methods": found.methods,
        "references": [one._asdict() for one in found.references],
        "bibtex": found.bibtex,
        "without_source": found.lacking,
    }
    wrote = [] if out is None else [f"bibtex   {out}"]
    emit(record, as_json=as_json, lines=[str(found), *wrote])
