"""Suite: SAEs under several evaluations, of `saekit eval --suite`."""

from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.core.files import read_object
from saekit.core.result import Table
from saekit.report import blocks
from saekit.report.blocks import Block
from saekit.report.pages.base import Page, only, registry

FILE = "suite.json"
HEADS = {
    "sae": "SAE",
    "eval": "evaluation",
    "score": "score",
    "value": "value",
    "low": "low",
    "high": "high",
    "best": "best",
}
AFTER = {
    "detectable": "tells apart",
    "reseed": "over seeds",
    "validity": "validity",
    "n": "n",
    "unit": "unit",
    "better": "better",
    "seconds": "seconds",
}
SAID = {
    "low": "lower end of the 95 % interval",
    "high": "upper end of it",
    "best": "whether it is better than all others here by more than the least difference told",
    "detectable": "smallest difference of two SAEs that an interval as wide as this can tell, at "
    "5 % in 80 of 100 texts; saekit compare, which is paired, tells less apart",
    "reseed": "standard deviation over SAEs here that differ in the seed alone",
    "validity": "rank correlation of this kind of score with the recovery of known features (MCC) "
    "on synthetic models; empty: not calibrated",
    "n": "independent units behind the score",
}
WRONG = {"sae": "SAE", "eval": "evaluation", "status": "status", "reason": "why"}


@final
@registry.register
class SuitePage(Page):
    """Scores of several evaluations with their floors and noise."""

    name: ClassVar[str] = "suite"
    title: ClassVar[str] = "Suite"
    about: ClassVar[str] = (
        "SAEs under several evaluations, each score next to its floors and noise."
    )

    @override
    def find(self, folder: Path) -> bool:
        return (folder / FILE).is_file()

    @override
    def blocks(self, folder: Path) -> list[Block]:
        made = read_object(folder / FILE)
        table, said = Table(columns=made["rows"]), made["provenance"]
        source = f"{folder.name}/{FILE}; saekit eval --suite {said['settings']['suite']}"
        rows, floors = table.rows(), said["floors"]
        measured = [row for row in rows if row["status"] in ("ok", "undefined")]
        shown = [blocks.facts(_facts(rows, said), title="What was measured", source=source)]
        for eval, score in dict.fromkeys((r["eval"], r["score"]) for r in measured):
            mine = [r for r in measured if (r["eval"], r["score"]) == (eval, score)]
            shown.append(_dots(f"{eval}: {score}", mine, floors))
        names = {f"floor_{name}": label for name, label in floors.items()}
        heads = only(table, HEADS | names | AFTER)
        about = {f"floor_{name}": f"the same score of: {label}" for name, label in floors.items()}
        kept = _only(table, measured)
        shown.append(
            blocks.table(
                kept, names=heads, said=SAID | about, title="Scores and floors", source=source
            )
        )
        lost = [row for row in rows if row["status"] not in ("ok", "undefined")]
        if lost:
            shown.append(
                blocks.table(_only(table, lost), names=WRONG, title="Not measured", source=source)
            )
        undefined = [r for r in measured if r["status"] == "undefined"]
        shown += [
            blocks.text(f"{r['eval']}: {r['score']} of {r['sae']} is undefined: {r['reason']}.")
            for r in undefined
        ]
        cautions = dict.fromkeys((r["eval"], r["cautions"]) for r in measured if r["cautions"])
        shown += [blocks.text(f"{eval}: {words}", title="Caution") for eval, words in cautions]
        lacking = dict.fromkeys(
            f"floors of {r['eval']}: {r['floors_lacking']}" for r in measured if r["floors_lacking"]
        )
        notes = [*lacking, *said.get("notes", [])]
        return [*shown, *(blocks.text(note[0].upper() + note[1:] + ".") for note in notes if note)]


def _facts(rows: list[dict[str, Any]], said: dict[str, Any]) -> list[list[Any]]:
    settings = said["settings"]
    status = [row["status"] for row in rows]
    return [
        blocks.fact("suite", f"{settings['suite']}, {settings['tier']} tier"),
        blocks.fact("SAEs", ", ".join(said["saes"])),
        blocks.fact("model", ", ".join(one["name"] for one in said["models"])),
        blocks.fact("floors", ", ".join(said["floors"].values()) or "none were asked for"),
        blocks.fact("scores", status.count("ok")),
        *(
            blocks.fact(one, status.count(one))
            for one in ("undefined", "skipped", "failed")
            if one in status
        ),
    ]


def _dots(title: str, rows: list[dict[str, Any]], floors: dict[str, str]) -> Block:
    better = rows[0]["better"]
    about = rows[0]["label"] + ("" if better == "neither" else f"; {better} is better")
    return blocks.dots(
        [row["sae"] + (" *" if row["best"] else "") for row in rows],
        [row["value"] for row in rows],
        [(row["low"], row["high"]) for row in rows],
        unit=rows[0]["unit"],
        marks={label: [row[f"floor_{name}"] for row in rows] for name, label in floors.items()},
        title=title,
        about=about,
    )


def _only(table: Table, rows: list[dict[str, Any]]) -> Table:
    return Table(columns={name: [row[name] for row in rows] for name in table.columns})
