"""`saekit analyse`: any analysis of the index of a run, as a table."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit


def analyse(
    name: Annotated[str, typer.Argument(help="Which analysis to run (see: saekit list analyses).")],
    run: Annotated[
        Path, typer.Argument(help="Folder of a run that has an index, or of the index itself.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting of the analysis, as threshold=0.5, of those listed below. Repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File for the table, .csv or .parquet. [RUN/analysis/NAME.csv]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run an analysis of all latents in an index and write the table that it gives.

    Example: saekit analyse cofiring runs/mine --set pairs=100
    """
    from saekit.analysis import analyse as analyses
    from saekit.analysis.base import registry
    from saekit.core.config import override
    from saekit.core.lock import claimed_file
    from saekit.data import table_files

    config = override(registry.get(name)(), settings or [])
    path = out or analyses.table_path(run, name)
    table_files.check_file(path)
    with claimed_file(path, "saekit analyse", "No table was written."):
        table = analyses.analyse(run, config)
        table_files.write_file(table, path)
    record = {
        "analysis": name,
        "settings": config.to_dict(),
        "rows": len(table),
        "columns": list(table.columns),
        "units": table.units,
        "table": str(path),
    }
    emit(record, as_json=as_json, lines=[str(table), f"table    {path}"])
