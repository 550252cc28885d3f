"""Stability: a latent beside its twin in every other seed, with the contexts of each."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from typing_extensions import override

from saekit.analysis.siblings import siblings
from saekit.core.errors import SaekitError
from saekit.core.result import Table
from saekit.hub.index_manifest import MANIFEST
from saekit.report import blocks
from saekit.report.blocks import Block
from saekit.report.panels import base
from saekit.report.panels.base import Panel, number, registry

if TYPE_CHECKING:
    from saekit.analysis.index_folder import Index

NAME, MATCHES = "stability", "stability_matches"
COMMAND = "saekit eval {} --eval seed_stability"
SHOWN, PROMOTED = 2, 6  # contexts of each SAE's latent, and tokens it promotes


@final
@registry.register
class StabilityPanel(Panel):
    """The latent that each other seed has in its place, side by side."""

    name: ClassVar[str] = "stability"
    title: ClassVar[str] = "Seed twins"
    about: ClassVar[str] = (
        "SAEs trained anew, matched latent by latent: one to one, with the largest sum of cosines "
        "of what they write. A latent that most of them find belongs to the model."
    )

    @override
    def blocks(self, run: Path, index: "Index", latent: int) -> list[Block] | None:
        folder = run / "analysis"
        row = base.row_of(folder / NAME, latent)
        if row is None:
            others = siblings(run)
            if not others or base.row_of(folder / "twins", latent) is not None:
                return None  # twins, where they are known, have a panel of their own
            said = f"{len(others)} other SAEs of its sweep have its site and width."
            return [blocks.missing(said, COMMAND.format(base.quoted(run.parent)))]
        rows = base.rows_of(folder / MATCHES, latent)
        if rows and index.weights != rows[0]["weights"]:
            words = "The comparison with other seeds was made of other weights than the index."
            return [blocks.missing(words, COMMAND.format(base.quoted(run.parent)))]
        source = f"{base.named(folder, run)}/{{}}; {COMMAND.format('...')}"
        if number(row["stability"]) is None:
            return [blocks.text("It fired for no token that was read, and was not matched.")]
        made = [_facts(row, len(rows), source.format(NAME)), _table(rows, source.format(MATCHES))]
        places = [("This SAE", index, latent), *_twins(run, rows)]
        return made + [block for place in places for block in _contexts(*place)]


def _facts(row: dict[str, str], others: int, source: str) -> Block:
    found = [
        blocks.fact(
            "Found again",
            number(row["stability"]),
            low=number(row["stability_low"]),
            high=number(row["stability_high"]),
            unit="share of SAEs",
            about=f"Of {others} others: those whose matched latent has a cosine above 0.7, or "
            f"what `threshold` was set to.",
        ),
        blocks.fact("Mean cosine", number(row["stability_cosine"]), unit="cosine"),
        blocks.fact(
            "Cluster",
            number(row["stability_cluster"]),
            unit="latents",
            about="Latents of all SAEs that hang together by mutual matches.",
        ),
    ]
    return blocks.facts(found, source=source)


def _table(rows: list[dict[str, str]], source: str) -> Block:
    columns: dict[str, list[Any]] = {
        "SAE": [row["other"] for row in rows],
        "its latent": [int(row["match"]) if row["match"] else None for row in rows],
        "cosine": [number(row["cosine"]) for row in rows],
        "of what they read": [number(row["encoder_cosine"]) for row in rows],
        "correlation of activations": [number(row["correlation"]) for row in rows],
    }
    return blocks.table(Table(columns=columns), title="Matches", source=source)


def _twins(run: Path, rows: list[dict[str, str]]) -> list[tuple[str, "Index", int]]:
    """Return the matches whose SAE lies next to this one and has an index."""
    found = []
    for row in rows:
        made = run.resolve().parent / row["other"] / "index" / MANIFEST
        if not row["match"] or Path(row["other"]).name != row["other"] or not made.is_file():
            continue
        try:
            found.append((row["other"], base.kept(_index, made), int(row["match"])))
        except SaekitError:  # a damaged index of another SAE is told of on its own page
            continue
    return found


def _index(manifest: Path) -> "Index":
    from saekit.analysis.index_folder import Index

    return Index(manifest.parent)


def _contexts(name: str, index: "Index", latent: int) -> list[Block]:
    """Return where a latent is strongest, and what it promotes."""
    if not 0 <= latent < index.d_sae:
        return []
    found = index.contexts(latent)
    promoted = [word for word, _ in found.words["promoted"][:PROMOTED]]
    title = f"{name}, latent {latent:,}"
    made = []
    for i, one in enumerate(found[:SHOWN]):
        channel = blocks.channel("activation", one["acts"], unit="act units")
        head = {"title": title} if i == 0 else {}
        if i == 0 and promoted:
            head["about"] = f"Promotes {', '.join(repr(word) for word in promoted)}."
        made.append(blocks.strip(one["tokens"], [channel], peak=one["peak"], **head))
    return made or [blocks.text("It is on nowhere in the text that was indexed.", title=title)]
