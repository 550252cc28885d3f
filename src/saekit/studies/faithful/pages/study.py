"""The study's page: which text's dictionaries are better on which score, and all behind it."""

from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.core.files import read_object
from saekit.core.result import Result, Table
from saekit.report import blocks
from saekit.report.blocks import Block
from saekit.report.pages.base import Page, read, registry

RESULT, STUDY, STABILITY = "faithful.json", "study.json", "eval/seed_stability.json"
VERDICTS = {
    "score": "score",
    "other": "against",
    "value": "of the first text",
    "value_other": "of the other",
    "difference": "difference",
    "low": "low",
    "high": "high",
    "p_holm": "p (Holm)",
    "better": "good is",
    "verdict": "verdict",
}
SAID = {
    "low": "lower end of the 95 % interval of the difference, over text and seeds",
    "high": "upper end of it",
    "p_holm": "chance of such a difference between equals, over all rows",
}
CELLS = {"ce_rise": "CE rise (nats/token)", "fvu": "FVU", "l0": "L0 (latents/token)"}


@final
@registry.register
class FaithfulStudy(Page):
    """SAEs of a model's own text next to others, of `saekit faithful run`."""

    name: ClassVar[str] = "faithful"
    title: ClassVar[str] = "Faithful dictionaries"
    about: ClassVar[str] = "SAEs of a model's own text against SAEs of other text, over seeds."

    @override
    def find(self, folder: Path) -> bool:
        return (folder / RESULT).is_file() and (folder / STUDY).is_file()

    @override
    def blocks(self, folder: Path) -> list[Block]:
        made, settings = read_object(folder / RESULT), read_object(folder / STUDY)
        cfg, source = settings["faithful"], f"{folder.name}/{RESULT}; saekit faithful run"
        facts = [
            blocks.fact("model", settings["model"]["name"]),
            blocks.fact("texts", ", ".join(made["saes"])),
            blocks.fact("seeds of each", len(cfg["seeds"])),
            blocks.fact("tokens of training", cfg["tokens"], unit="tokens"),
        ]
        shown = [blocks.facts(facts, title="What was trained", source=source)]
        shown += [blocks.text(said, title="Verdict") for said in made["said"]]
        verdicts = Table(columns=made["verdicts"])
        shown.append(
            blocks.table(verdicts, names=VERDICTS, said=SAID, title="Every score", source=source)
        )
        shown += [blocks.text(f"{note}.") for note in made.get("notes", ())]
        shown += _stability(folder, list(made["saes"]))
        shown.append(_cross(Table(columns=made["cross_data"]), source))
        measures = folder / "text" / "measures" / "measures"
        if measures.with_suffix(".csv").is_file():
            shown += _texts(read(measures))
        return shown


def _stability(folder: Path, names: list[str]) -> list[Block]:
    """Return what the seeds of each text agree on, a column a text."""
    results = {
        name: Result.read(folder / "saes" / name / STABILITY)
        for name in names
        if (folder / "saes" / name / STABILITY).is_file()
    }
    if not results:
        return []
    scores = {name: result.scores for name, result in results.items()}
    of_one = next(iter(scores.values()))
    known = [key for key in of_one if any(s[key].value is not None for s in scores.values())]
    columns = {
        "score": [of_one[key].label or key for key in known],
        "unit": [of_one[key].unit for key in known],
    }
    columns |= {f"of {n}": [some[key].text() for key in known] for n, some in scores.items()}
    source = f"saes/NAME/{STABILITY}; saekit eval --eval seed_stability"
    title = "Agreement of seeds, with 95 % intervals"
    return [blocks.table(Table(columns=columns), title=title, source=source)]


def _texts(measures: Table) -> list[Block]:
    """Return the measures of texts, and of two texts, a column each."""
    rows = measures.rows()
    found = []
    for title, two in (("The texts", False), ("The texts, two by two", True)):
        some = [row for row in rows if ("|" in row["corpus"]) == two]
        units = {row["measure"]: row["unit"] for row in some}
        columns = {"measure": list(units), "unit": list(units.values())}
        for corpus in dict.fromkeys(row["corpus"] for row in some):
            cells = {row["measure"]: _ends(row) for row in some if row["corpus"] == corpus}
            columns[corpus] = [cells.get(name, "-") for name in units]
        if units:
            source = "text/measures/measures.csv; saekit corpus measure"
            found.append(blocks.table(Table(columns=columns), title=title, source=source))
    return found


def _ends(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "-"
    if row["low"] is None or row["high"] is None:
        return f"{row['value']:.4g}"
    return f"{row['value']:.4g} [{row['low']:.4g}, {row['high']:.4g}]"


def _cross(cells: Table, source: str) -> Block:
    """Return a row for each metric and text of training, a column for each text of measuring."""
    rows = cells.rows()
    at = {(r["metric"], r["trained_on"], r["measured_on"]): r for r in rows}
    lines = [(m, t) for m in CELLS for t in dict.fromkeys(cells.columns["trained_on"])]
    columns = {"score": [CELLS[m] for m, _ in lines], "trained on": [t for _, t in lines]}
    for measured in dict.fromkeys(cells.columns["measured_on"]):
        columns[f"measured on {measured}"] = [_spread(at.get((m, t, measured))) for m, t in lines]
    return blocks.table(
        Table(columns=columns),
        title="SAEs of each text on held-out text of each: mean (least to most of a seed)",
        source=source,
    )


def _spread(row: dict[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "-"
    if row["least"] == row["most"]:
        return f"{row['value']:.4g}"
    return f"{row['value']:.4g} ({row['least']:.4g} to {row['most']:.4g})"
