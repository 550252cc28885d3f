"""Suite: SAEs under several evaluations, of `saekit eval --suite`."""

from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.core.files import read_object
from saekit.core.result import Table
from saekit.report import blocks, style
from saekit.report.blocks import Block
from saekit.report.pages.base import Page, registry

FILE = "suite.json"
HEADS = {"sae": "SAE", "value": "value", "interval": "95 % interval"}
AFTER = {"detectable": "tells apart", "reseed": "over seeds", "validity": "validity"}
SAID = {
    "detectable": "smallest difference of two SAEs that an interval as wide as this can tell, at "
    "5 % in 80 of 100 texts; saekit compare, which is paired, tells less apart",
    "reseed": "standard deviation over SAEs here that differ in the seed alone",
    "validity": "rank correlation of this kind of score with the recovery of known features (MCC) "
    "on synthetic models",
}
STAR = "*: better than all others here by more than the least difference told."


@final
@registry.register
class SuitePage(Page):
    """Scores of several evaluations with their floors and noise, of `saekit eval --suite`."""

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
            if any(row["value"] is not None for row in mine):
                shown += [_dots(f"{eval}: {score}", mine, floors), _table(mine, floors)]
            shown += [
                blocks.text(f"{eval}: {score} of {r['sae']} is undefined: {r['reason']}.")
                for r in mine
                if r["status"] == "undefined"
            ]
        if lost := [row for row in rows if row["status"] not in ("ok", "undefined")]:
            shown.append(_lost(lost, source))
        cautions = dict.fromkeys((r["eval"], r["cautions"]) for r in measured if r["cautions"])
        shown += [blocks.text(f"{eval}: {words}", title="Caution") for eval, words in cautions]
        lacking = dict.fromkeys(
            f"floors of {r['eval']}: {r['floors_lacking']}" for r in measured if r["floors_lacking"]
        )
        notes = [*lacking, *said.get("notes", [])]
        return [*shown, *(blocks.text(note[0].upper() + note[1:] + ".") for note in notes if note)]

    @override
    def paper(self, folder: Path) -> list[Block]:
        """One table of all scores, and a figure of each."""
        made = read_object(folder / FILE)
        rows = [r for r in Table(columns=made["rows"]).rows() if r["value"] is not None]
        floors = made["provenance"]["floors"]
        names = {"eval": "evaluation", "score": "score", "sae": "SAE", "value": "value"}
        names |= {"low": "low", "high": "high"}
        names |= {f"floor_{name}": label for name, label in floors.items()} | AFTER
        columns = {name: [row[name] for row in rows] for name in names}
        there = {n: label for n, label in names.items() if any(v is not None for v in columns[n])}
        about = "Tells apart: the smallest difference that an interval of this width can tell."
        one = blocks.table(Table(columns=columns), names=there, title="Scores", about=about)
        return [one, *(block for block in self.blocks(folder) if block["kind"] == "dots")]


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
    about = style.with_better(rows[0]["label"], rows[0]["better"])
    return blocks.dots(
        [row["sae"] + (" *" if row["best"] else "") for row in rows],
        [row["value"] for row in rows],
        [(row["low"], row["high"]) for row in rows],
        unit=rows[0]["unit"],
        marks={label: [row[f"floor_{name}"] for row in rows] for name, label in floors.items()},
        title=title,
        about=about,
    )


def _table(rows: list[dict[str, Any]], floors: dict[str, str]) -> Block:
    """Return the numbers of a score, without columns that nothing stands in."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["interval"] = [
        "" if row["low"] is None else f"{row['low']:.4g} to {row['high']:.4g}" for row in rows
    ]
    names = HEADS | {f"floor_{name}": label for name, label in floors.items()} | AFTER
    bare = [r["reason"] for r in rows if None not in (r["value"], r["reason"]) and r["low"] is None]
    about = STAR if any(row["best"] for row in rows) else "; ".join(dict.fromkeys(bare))
    title = f"{rows[0]['eval']}: {rows[0]['score']}, in numbers"
    return blocks.filled(Table(columns=columns), names, SAID, about=about, title=title)


def _lost(rows: list[dict[str, Any]], source: str) -> Block:
    """Return what was not measured: each reason once, with the SAEs that it is of."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        alike.setdefault((row["eval"], row["status"], row["reason"]), []).append(row["sae"])
    columns = {
        "SAEs": [", ".join(saes) for saes in alike.values()],
        **{
            name: [key[i] for key in alike]
            for i, name in enumerate(("evaluation", "status", "why"))
        },
    }
    return blocks.table(Table(columns=columns), title="Not measured", source=source)
