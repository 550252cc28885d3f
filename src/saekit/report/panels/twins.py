"""Twins: the same latent in the other SAEs of a sweep."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from typing_extensions import override

from saekit.analysis.siblings import siblings
from saekit.core.files import read_object
from saekit.core.result import Table
from saekit.report import blocks
from saekit.report.blocks import Block
from saekit.report.panels import base
from saekit.report.panels.base import Panel, registry

if TYPE_CHECKING:
    from saekit.analysis.index_folder import Index

NAME, MATCHES, ABOUT = "twins", "twin_matches", "twins.json"
COMMAND = "saekit twins"
STABILITY = "stability"  # a table that says the same and more, with a panel of its own


@final
@registry.register
class Twins(Panel):
    """Best match of a latent in other SAEs, as those of other seeds, and how stable it is."""

    name: ClassVar[str] = "twins"
    title: ClassVar[str] = "Twins in other SAEs"
    about: ClassVar[str] = (
        "The nearest latent of other SAEs by the cosine of the directions they write. One that "
        "every seed finds belongs to the model; one that none else has may belong to the training."
    )

    @override
    def blocks(self, run: Path, index: "Index", latent: int) -> list[Block] | None:
        folder = run / "analysis"
        row, made = base.row_of(folder / NAME, latent), folder / ABOUT
        if row is None or not made.is_file():
            others = siblings(run)
            if not others or base.row_of(folder / STABILITY, latent) is not None:
                return None
            said = f"{len(others)} other SAEs of its sweep have its site and width."
            return [blocks.missing(said, f"{COMMAND} {base.quoted(run)}")]
        said = base.kept(read_object, made)
        if index.weights not in said["digests"]:
            words = "The comparison with other SAEs was made of other weights than the index."
            return [blocks.missing(words, f"{COMMAND} {base.quoted(run)}")]
        source = f"{base.named(folder, run)}/{{}}; {COMMAND}"
        return [
            _facts(row, said, source.format(NAME)),
            _table(folder, latent, source.format(MATCHES)),
        ]


def _facts(row: dict[str, str], said: dict[str, Any], source: str) -> Block:
    found = [
        blocks.fact(
            "Stable",
            base.number(row["stable"]),
            unit="cosine",
            about="Mean over the other SAEs of the cosine with its best match.",
        ),
        blocks.fact("Least of them", base.number(row["stable_least"]), unit="cosine"),
        blocks.fact(
            "SAEs with a mutual match",
            base.number(row["twins"]),
            unit="SAEs",
            about="Where each is the nearest of the other.",
        ),
    ]
    if said.get("chance") is not None:
        about = "Of a random direction with as many random ones, in expectation."
        found.append(blocks.fact("By chance", said["chance"], unit="cosine", about=about))
    return blocks.facts(found, source=source)


def _table(folder: Path, latent: int, source: str) -> Block:
    rows = base.rows_of(folder / MATCHES, latent)
    columns: dict[str, list[Any]] = {
        "SAE": [row["other"] for row in rows],
        "its latent": [int(row["match"]) for row in rows],
        "cosine": [base.number(row["cosine"]) for row in rows],
        "next nearest": [base.number(row["second"]) for row in rows],
        "mutual": ["yes" if row["mutual"] == "1" else "no" for row in rows],
    }
    return blocks.table(Table(columns=columns), title="Best matches", source=source)
