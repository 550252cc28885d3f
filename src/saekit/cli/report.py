"""`saekit report`: one HTML file of a run."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.cli.sweep_folder import is_sweep, report_all
from saekit.terminal.output import emit, note_lines


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, a sweep or a study.")],
    out: Annotated[Path | None, typer.Option(help="File to write. [RUN/report.html]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Write one self-contained HTML page of what a run, a sweep with all its SAEs or a study gave.

    Example: saekit report demo
    """
    from saekit.hub.names import results_folder
    from saekit.report.page import notes_of_run, write_report
    from saekit.report.pages.base import kind_of
    from saekit.report.study_file import write_study

    run = results_folder(run)
    if is_sweep(run):
        report_all(run, out, as_json)
        return
    path, notes = out or run / "report.html", []
    if kind_of(run) and not (run / "run.json").exists():
        write_study(run, path)
    else:
        write_report(run, path)
        notes = notes_of_run(run)
    size = path.stat().st_size
    record = {"report": str(path), "bytes": size, "notes": notes}
    lines = [*note_lines(notes), f"report   {path} ({size / 1e6:.1f} MB)"]
    emit(record, as_json=as_json, lines=lines)
