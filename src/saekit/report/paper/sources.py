"""What a run, a result or a study has for a paper: blocks, as pages of studies give them.

A study has what its page shows (`Page.paper`), so that a new one needs no list here.
"""

from pathlib import Path
from typing import NamedTuple

from saekit.core.errors import FormatError
from saekit.core.result import Result, Table
from saekit.report import blocks
from saekit.report.blocks import Block
from saekit.report.origin import origin_of, results_in
from saekit.report.pages.base import kind_of, registry
from saekit.report.payload import curves

CURVES = {
    "loss": "loss",
    "fvu": "FVU of the batch",
    "l0": "L0 (latents/token)",
    "dead": "share of latents",
}
TITLES = {"loss": "Loss", "fvu": "Variance unexplained", "l0": "L0", "dead": "Dead latents"}


class Source(NamedTuple):
    """What is there for a paper.

    Attributes:
        title: what it is of.
        kind: run, result, or the name of a page.
        blocks: what may be a figure, a table or a note.
    """

    title: str
    kind: str
    blocks: list[Block]


def source_of(path: Path) -> Source:
    """Return what a file or folder has for a paper.

    Raises:
        FormatError: it is nothing of the kind, or is damaged.
    """
    run = (path / "run.json").is_file() or (path / "sae" / "card.json").is_file()
    if not run and path.is_dir() and (kind := kind_of(path)) is not None:
        page = registry.get(kind)
        return Source(f"{page.title}: {path.resolve().name}", kind, page().paper(path))
    if not run and path.is_dir():
        known = ", ".join(registry.names())
        raise FormatError(
            f"{path} holds no run and no study with a page (there are pages of {known}). Name the "
            f"folder that a command made, or a result, as RUN/eval/core.json."
        )
    origin = origin_of(path)
    found = [block for result in results_in(origin) for block in of_result(result)]
    if origin.kind == "run":
        found += _training(origin.folder / "log.jsonl")
    if not found:
        raise FormatError(
            f"{path} has no result and no training log, so there is nothing for a paper. Measure "
            f"it: saekit eval {path}"
        )
    return Source(f"{origin.folder.resolve().name}", origin.kind, found)


def of_result(result: Result) -> list[Block]:
    """Return the scores of a result as a table, and its histogram of densities."""
    scores = result.scores
    columns = {
        "score": [score.label or name for name, score in scores.items()],
        "value": [score.value for score in scores.values()],
        "low": [score.low for score in scores.values()],
        "high": [score.high for score in scores.values()],
        "n": [score.n for score in scores.values()],
        "unit": [score.unit for score in scores.values()],
        "undefined because": [s.reason if s.value is None else None for s in scores.values()],
    }
    if not any(columns["undefined because"]):
        del columns["undefined because"]
    about = "Intervals are 95 %; n is the number of units that they are over, such as documents."
    title = f"Scores: {result.name}, version {result.version}"
    found = [blocks.table(Table(columns=columns), title=title, about=about)]
    drawn = result.details.get("density_histogram")
    if isinstance(drawn, dict) and {"log10_edges", "latents"} <= drawn.keys():
        found.append(
            blocks.histogram(
                drawn["log10_edges"],
                drawn["latents"],
                unit="log10 of the share of tokens",
                title="Density of latents",
            )
        )
    return found


def _training(log: Path) -> list[Block]:
    found = curves(log)
    if found is None:
        return []
    drawn = []
    for name, label in CURVES.items():
        if name in found:
            one = blocks.series(TITLES[name], found["tokens"], found[name])
            axes = {"x": {"label": "tokens"}, "y": {"label": label}}
            title = f"{TITLES[name]} in training"
            drawn.append(blocks.lines([one], x=axes["x"], y=axes["y"], title=title))  # type: ignore[arg-type]
    return drawn
