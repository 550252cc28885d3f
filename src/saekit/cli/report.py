"""`saekit report`: one HTML file of a run, or a folder for a paper."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.cli.sweep_folder import is_sweep, report_all
from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit, note_lines


def report(
    run: Annotated[
        Path,
        typer.Argument(help="Folder of a run, of a sweep, or of what a study's command wrote."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="File for the page; with --paper, folder. [RUN/report.html, RUN/paper]"),
    ] = None,
    for_paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="Instead of a page, write a folder for a paper: figures as PDF, CSVs, LaTeX "
            "tables. Takes a result file too.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write one HTML page with the results of a run, a sweep or a study.

    Example: saekit report demo
    """
    if for_paper:
        _write_paper(run, out, as_json)
        return
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


def _write_paper(source: Path, out: Path | None, as_json: bool) -> None:
    from saekit.hub.names import results_folder
    from saekit.report.paper.folder import paper

    made = paper(source if source.is_file() else results_folder(source), out)
    pieces = [one._asdict() for one in made.pieces]
    record = {"paper": str(made.folder), "pieces": pieces, "left_out": made.left_out}
    files = [f"{one.kind:<8} {one.name}: {one.caption}" for one in made.pieces]
    emit(record, as_json=as_json, lines=[*files, str(made)])
