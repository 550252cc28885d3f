"""Ground truth: what an SAE found of known features, and which scores agree with that."""

from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.core.result import Result, Table
from saekit.report import blocks
from saekit.report.blocks import Block
from saekit.report.pages.base import Page, read, registry

FILE, CALIBRATION = "ground_truth.json", "calibration.json"


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
        shown = [blocks.scores(result, title="Scores", source=source)]
        for name, unit in (("cosine", "|cosine|"), ("f1", "F1")):
            sizes = [None if v is None else abs(v) for v in latents[name]]
            title = {"cosine": "Cosine with the best feature", "f1": "F1 with the best feature"}
            shown.append(blocks.histogram_of(sizes, unit=unit, title=title[name], source=source))
        columns: dict[str, list[Any]] = {"latent": list(range(len(latents["feature"])))}
        columns |= {k: v for k, v in latents.items() if k != "matched_feature"}
        columns["matched feature"] = [None if f < 0 else f for f in latents["matched_feature"]]
        shown.append(
            blocks.table(
                Table(columns=columns), title="Latents", links={"latent": "latent"}, source=source
            )
        )
        worst = result.details["absorption"]["worst"]
        if worst["parent"]:
            title = "Pairs of parent and child with the most absorption"
            shown.append(blocks.table(Table(columns=worst), title=title, source=source))
        return shown


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
        source = f"{folder.name}/ranks.csv; saekit truth calibrate"
        scores, targets = (list(dict.fromkeys(ranks.columns[k])) for k in ("score", "recovery"))
        at = {(row["score"], row["recovery"]): row["rank_correlation"] for row in ranks.rows()}
        values = [[at.get((score, target)) for target in targets] for score in scores]
        shown = [
            blocks.heatmap(
                targets,
                scores,
                values,
                unit="rank correlation",
                signed=True,
                title="Rank correlation over SAEs",
                about="Of a score that needs no truth with one that does, within each truth.",
                source=source,
            ),
            blocks.table(ranks, title="With 95 % intervals", source=source),
        ]
        saved = f"{folder.name}/saes.csv; saekit truth calibrate"
        shown.append(blocks.table(saes, title="SAEs", source=saved))
        return shown
