"""Sensitivity: new texts of a latent's kind, and on which of them it fires."""

from pathlib import Path
from typing import ClassVar, final

from typing_extensions import override

from saekit.report import blocks
from saekit.report.blocks import Block
from saekit.report.panels import base
from saekit.report.panels.base import Measured, number, registry

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
class SensitivityPanel(Measured):
    """On how many newly written texts of its kind a latent fires."""

    name: ClassVar[str] = "sensitivity"
    title: ClassVar[str] = "Sensitivity"
    about: ClassVar[str] = (
        "A language model was shown the latent's examples and wrote new texts of the same kind. A "
        "latent that stands for what its examples share fires on them."
    )

    tables: ClassVar[tuple[str, ...]] = ("sensitivity*/feature_stats.csv",)
    column: ClassVar[str] = "feature_index"
    lacking: ClassVar[str] = "This latent was not measured."
    command: ClassVar[str] = "saekit sensitivity run {run} --latent {latent} --out NEW"

    @override
    def of_row(self, path: Path, run: Path, row: dict[str, str], latent: int) -> list[Block]:
        return _blocks(path, run, row, latent)


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
