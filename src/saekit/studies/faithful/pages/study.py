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
    """What a run of `saekit faithful run` found."""

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
        notes = dict.fromkeys(row["note"] for row in verdicts.rows() if row["note"])
        shown += [blocks.text(note[0].upper() + note[1:] + ".") for note in notes]
        for name in made["saes"]:
            path = folder / "saes" / name / STABILITY
            if path.is_file():
                title = f"Agreement of seeds: {name}"
                where = f"saes/{name}/{STABILITY}; saekit eval --eval seed_stability"
                shown.append(blocks.scores(Result.read(path), title=title, source=where))
        shown += _cross(Table(columns=made["cross_data"]), source)
        measures = folder / "text" / "measures" / "measures"
        if measures.with_suffix(".csv").is_file():
            shown.append(
                blocks.table(
                    read(measures),
                    title="The texts",
                    about="Of each text, and A|B of two.",
                    source="text/measures/measures.csv; saekit corpus measure",
                )
            )
        return shown


def _cross(cells: Table, source: str) -> list[Block]:
    """Return a heatmap for each metric: text of training against text of measuring."""
    found = []
    rows = cells.rows()
    trained, measured = (
        list(dict.fromkeys(cells.columns[key])) for key in ("trained_on", "measured_on")
    )
    for metric, unit in CELLS.items():
        at: dict[tuple[str, str], Any] = {
            (r["trained_on"], r["measured_on"]): r["value"] for r in rows if r["metric"] == metric
        }
        values = [[at.get((one, other)) for other in measured] for one in trained]
        found.append(
            blocks.heatmap(
                measured,
                [f"of {name}" for name in trained],
                values,
                unit=unit,
                title=f"{unit} of SAEs of each text on held-out text of each, mean over seeds",
                source=source,
            )
        )
    found.append(
        blocks.table(cells, title="The same, with the least and the most of a seed", source=source)
    )
    return found
