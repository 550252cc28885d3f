"""`saekit query`: the latents of an index that a query asks for."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.output import emit, note_lines


def query(
    run: Annotated[
        Path, typer.Argument(help="Folder of a run that has an index, or of the index itself.")
    ],
    text: Annotated[
        str,
        typer.Argument(
            metavar="QUERY",
            help="What to look for, as 'density<1e-3 sort -max limit 20' (docs/explorer.md).",
        ),
    ],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            help="Column to show (see: saekit list columns). Repeatable. [those that the query "
            "names, and the usual ones]",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write all rows to this .csv or .parquet.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON with all rows instead of text.")
    ] = False,
) -> None:
    """List the latents of an index that match a query.

    Example: saekit query demo 'density<1e-3 and token has "the" sort -max limit 20'
    """
    from saekit.analysis.analyse import find_index
    from saekit.analysis.query import select
    from saekit.core.lock import claimed_file
    from saekit.data import table_files

    if out is not None:
        table_files.check_file(out)
    index = find_index(run)
    table = select(index, text, columns=columns)
    if out is not None:
        with claimed_file(out, "saekit query", "No table was written."):
            table_files.write_file(table, out)
    record = {
        "query": text,
        "index": str(index.folder),
        "rows": len(table),
        "units": table.units,
        "columns": table.columns,
        "table": None if out is None else str(out),
        "notes": index.notes,
    }
    lines = [str(table), f"latents  {len(table):,} of {index.d_sae:,}", *note_lines(index.notes)]
    emit(record, as_json=as_json, lines=[*lines, *([] if out is None else [f"table    {out}"])])
