"""`saekit query`: the latents of an index that a query asks for."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.output import emit, note_lines


def query(
    run: Annotated[Path, typer.Argument(help="A run's folder, or that of its index.")],
    text: Annotated[
        str, typer.Argument(metavar="QUERY", help="As 'density<1e-3 sort -max limit 20'.")
    ],
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="Columns to show. Repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Table of all, .csv or .parquet.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON, all rows.")] = False,
) -> None:
    """Show the latents of an index that match a query, in its order.

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
