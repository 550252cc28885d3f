"""Ground truth: what an SAE found of known features, and which scores agree with that."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import Unpack, override

from saekit.core.result import Result, Table
from saekit.report import blocks
from saekit.report.blocks import Block, Head
from saekit.report.pages.base import Page, read, registry
from saekit.studies.truth.words import COLUMNS, label

FILE, CALIBRATION = "ground_truth.json", "calibration.json"
CALIBRATE = "saekit truth calibrate"
NAMES = {
    "score": "score that needs no truth",
    "recovery": "score that needs it",
    "rank_correlation": "rank correlation",
    "saes": "SAEs",
    "sae": "SAE",
    "truth": "truth",
}


@final
@registry.register
class Recovery(Page):
    """Recovery of known features by one SAE, of `saekit truth eval`."""

    name: ClassVar[str] = "ground_truth"
    title: ClassVar[str] = "Known features"
    about: ClassVar[str] = "Which of the features that samples were made of an SAE found."

    @override
    def find(self, folder: Path) -> bool:
        return (folder / FILE).is_file()

    @override
    def blocks(self, folder: Path) -> list[Block]:
        path = folder / FILE
        result = Result.read(path)
        source = f"{folder.name}/{FILE}; saekit truth eval"
        latents = result.details["by_latent"]
        names = {name: label(name) for name in result.scores}
        shown = [blocks.scores(result, names, title="Scores", source=source)]
        for name, unit in (("cosine", "|cosine|"), ("f1", "F1")):
            sizes = [None if v is None else abs(v) for v in latents[name]]
            title = f"{COLUMNS[name][0].capitalize()} with the best feature"
            shown.append(blocks.histogram_of(sizes, unit=unit, title=title, source=source))
        columns: dict[str, list[Any]] = {"latent": list(range(len(latents["feature"])))}
        columns |= {k: v for k, v in latents.items() if k != "matched_feature"}
        columns["matched_feature"] = [None if f < 0 else f for f in latents["matched_feature"]]
        shown.append(latent_table(columns, title="Latents", source=source))
        worst = result.details["absorption"]["worst"]
        if worst["parent"]:
            title = "Pairs of parent and child with the most absorption"
            table = Table(
                columns=worst, units={"rate": "share of tokens with both on", "tokens": "both on"}
            )
            shown.append(blocks.table(table, title=title, source=source))
        return shown


def latent_table(columns: Mapping[str, list[Any]], **head: Unpack[Head]) -> Block:
    """Return a table of latents, with what each of its columns is called, its unit and what it is.

    Args:
        columns: "latent" first, then some of `COLUMNS`.
        head: title, about and source.
    """
    known = {name: COLUMNS[name] for name in columns if name in COLUMNS}
    return blocks.table(
        Table(columns=dict(columns), units={n: unit for n, (_, unit, _) in known.items() if unit}),
        names={n: known[n][0] if n in known else n for n in columns},
        said={n: about for n, (*_, about) in known.items()},
        links={"latent": "latent"},
        **head,
    )


@final
@registry.register
class Calibration(Page):
    """Which scores that need no truth rank SAEs as recovery does, of `saekit truth calibrate`."""

    name: ClassVar[str] = "calibration"
    title: ClassVar[str] = "Calibration of scores"
    about: ClassVar[str] = "Which scores that need no truth rank SAEs as recovery of it does."

    @override
    def find(self, folder: Path) -> bool:
        return (folder / CALIBRATION).is_file() and (folder / "ranks.csv").is_file()

    @override
    def blocks(self, folder: Path) -> list[Block]:
        ranks, saes = read(folder / "ranks"), read(folder / "saes")
        source = f"{folder.name}/ranks.csv; {CALIBRATE}"
        scores, targets = (list(dict.fromkeys(ranks.columns[k])) for k in ("score", "recovery"))
        at = {(row["score"], row["recovery"]): row["rank_correlation"] for row in ranks.rows()}
        values = [[at.get((score, target)) for target in targets] for score in scores]
        rows = Table(
            columns=ranks.columns
            | {k: [label(name) for name in ranks.columns[k]] for k in ("score", "recovery")}
        )
        told = {name: NAMES.get(name) or label(name) for name in saes.columns}
        return [
            blocks.heatmap(
                [label(name) for name in targets],
                [label(name) for name in scores],
                values,
                unit="rank correlation",
                signed=True,
                title="Rank correlation over SAEs",
                about="Of a score that needs no truth with one that does, within each truth.",
                source=source,
            ),
            blocks.table(
                rows,
                names={name: NAMES.get(name, name) for name in rows.columns},
                title="With 95 % intervals",
                source=source,
            ),
            blocks.table(
                saes, names=told, title="SAEs", source=f"{folder.name}/saes.csv; {CALIBRATE}"
            ),
        ]
