"""`saekit analyse`: any analysis of the index of a run, as a table."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.output import emit


def analyse(
    name: Annotated[str, typer.Argument(help="Which analysis (see: saekit list analyses).")],
    run: Annotated[Path, typer.Argument(help="A run's folder, or that of its index.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of it, as threshold=0.5.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Table, .csv or .parquet. [RUN/analysis/NAME.csv]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Run an analysis on every latent of an index, show its first rows and write the table.

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
