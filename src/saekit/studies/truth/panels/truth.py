"""Truth: which known feature a latent of a synthetic model's SAE stands for."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from typing_extensions import override

from saekit.core.files import read_object
from saekit.core.stats import plain
from saekit.report import blocks
from saekit.report.blocks import Block
from saekit.report.panels import base
from saekit.report.panels.base import Panel, registry
from saekit.studies.truth.pages.ground_truth import latent_table
from saekit.studies.truth.words import COLUMNS

if TYPE_CHECKING:
    from saekit.analysis.index_folder import Index

RESULTS = ("eval/ground_truth.json", "ground_truth.json")
COMMAND = "saekit truth eval"


@final
@registry.register
class GroundTruth(Panel):
    """The best true feature of a latent: cosine, precision, recall, F1."""

    name: ClassVar[str] = "truth"
    title: ClassVar[str] = "Ground truth"
    about: ClassVar[str] = (
        "The SAE was trained on samples whose features are known. The latent stands for its best "
        "feature, the one whose direction has the largest |cosine| with what it writes."
    )

    @override
    def blocks(self, run: Path, index: "Index", latent: int) -> list[Block] | None:
        for path in base.found(run, RESULTS):
            latents = base.kept(read_object, path).get("details", {}).get("by_latent")
            if latents and len(latents["feature"]) == index.d_sae:
                return _blocks(f"{base.named(path, run)}; {COMMAND}", latents, latent)
        return None  # the truth is in a folder of its own, which only the user knows


def _blocks(source: str, latents: dict[str, list[Any]], latent: int) -> list[Block]:
    one = {name: values[latent] for name, values in latents.items()}
    same = [i for i, f in enumerate(latents["feature"]) if f == one["feature"] and i != latent]
    matched = one["matched_feature"]
    found = [
        blocks.fact("Best feature", one["feature"], about="Number of the feature in the truth."),
        blocks.fact("Cosine with it", one["cosine"], about="Of what it writes and the feature."),
        *(
            blocks.fact(COLUMNS[n][0].capitalize(), one[n], unit=COLUMNS[n][1], about=COLUMNS[n][2])
            for n in ("precision", "recall", "f1")
        ),
        blocks.fact(
            "Feature it is matched to",
            "none" if matched is None or matched < 0 else matched,
            about="In the one-to-one matching with the largest sum of |cosine|.",
        ),
        blocks.fact("Density on the truth's samples", one["density"], unit="share of samples"),
    ]
    made = [blocks.facts(found, source=source)]
    if same:
        names = ("cosine", "precision", "recall", "f1", "density")
        rows = {"latent": same} | {n: [latents[n][i] for i in same] for n in names}
        title = "Other latents with the same best feature"
        made.append(latent_table(rows, title=title, source=source))
    sizes = [abs(c) for c in latents["cosine"] if c is not None]
    rank = sum(size > abs(one["cosine"] or 0.0) for size in sizes)
    made.append(
        blocks.histogram_of(
            sizes,
            unit="|cosine| with the best feature",
            title="All latents of the SAE",
            about=f"{rank:,} of {len(sizes):,} latents are closer to a feature than this one; the "
            f"mean is {plain.mean(sizes):.3g}.",
            source=source,
        )
    )
    return made
