"""Sensitivity: new texts of a latent's kind, and on which of them it fires."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from typing_extensions import override

from saekit.report import blocks
from saekit.report.blocks import Block
from saekit.report.panels import base
from saekit.report.panels.base import Panel, number, registry

if TYPE_CHECKING:
    from saekit.analysis.index_folder import Index

STATS = ("sensitivity*/feature_stats.csv",)
TEXTS = "generated_samples_with_activations"
ON = 1e-6  # act units, as the study counts
RATES = {
    "generated_sensitivity": (
        "Fires on new texts",
        "A language model wrote them from its examples.",
    ),
    "original_sensitivity": ("Fires on its own examples", "Alone, without the text around them."),
    "heldout_sensitivity": ("Fires on held-out examples", "The writer was not shown these."),
    "random_rate": ("Fires on random texts", "Of equal length, from anywhere in the corpus."),
    "matched_rate": ("Fires in the same documents", "On texts on which it was off there."),
}


@final
@registry.register
class SensitivityPanel(Panel):
    """On how many newly written texts of its kind a latent fires."""

    name: ClassVar[str] = "sensitivity"
    title: ClassVar[str] = "Sensitivity"
    about: ClassVar[str] = (
        "A language model was shown the latent's examples and wrote new texts of the same kind. A "
        "latent that stands for what its examples share fires on them."
    )

    @override
    def blocks(self, run: Path, index: "Index", latent: int) -> list[Block] | None:
        made: list[Block] = []
        is_measured = False
        for path in base.found(run, STATS):
            is_measured = True
            line = base.row_of(path.with_suffix(""), latent, "feature_index")
            if line is not None:
                made += _blocks(path, run, line, latent)
        if not made and is_measured:
            command = f"saekit sensitivity run {run.name} --latent {latent} --out NEW"
            return [blocks.missing("This latent was not measured.", command)]
        return made or None


def _blocks(path: Path, run: Path, line: dict[str, str], latent: int) -> list[Block]:
    source = f"{base.named(path, run)}; saekit sensitivity run"
    facts = []
    for column, (label, about) in RATES.items():
        said = {"unit": "share of texts", "about": about}
        if column == "generated_sensitivity":
            said |= {"low": number(line["generated_low"]), "high": number(line["generated_high"])}
        facts.append(blocks.fact(label, number(line[column]), **said))
    facts.append(
        blocks.fact(
            "Beyond chance",
            number(line["excess"]),
            low=number(line["excess_low"]),
            high=number(line["excess_high"]),
            about="(new - random) / (1 - random): 0 is no more often than on random texts.",
        )
    )
    found = [blocks.facts(facts, source=source)]
    texts = []
    for row in base.rows_of(path.with_name(TEXTS), latent, "feature_index"):
        act = number(row["max_activation"]) or 0.0
        texts.append((row["text"], "hit" if act > ON else "miss", f"{act:.3g} at most"))
    if texts:
        found.append(blocks.texts(texts, title="New texts", source=source))
    return found
