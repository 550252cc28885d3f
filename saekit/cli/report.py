"""`saekit report`: one HTML file of a run."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.cli.show import emit


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    out: Annotated[Path | None, typer.Option(help="File to write. [RUN/report.html]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Write one self-contained HTML page of what a run gave.

    Example: saekit report demo
    """
    from saekit.report.page import write_report

    path = write_report(run, out or run / "report.html")
    record = {"report": str(path), "bytes": path.stat().st_size}
    emit(record, as_json=as_json, lines=[f"report   {path} ({record['bytes'] / 1e6:.1f} MB)"])
