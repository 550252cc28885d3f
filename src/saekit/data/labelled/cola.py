"""CoLA: English sentences, acceptable or not."""

from dataclasses import dataclass
from typing import ClassVar

from saekit.data.labelled._published import HubTable, Published, WheelTable
from saekit.data.labelled.base import registry


@registry.register
@dataclass(frozen=True, kw_only=True)
class CoLA(Published):
    """Sentences from books on syntax: unacceptable or acceptable English.

    Small models are hardly above the majority rate here, which makes it a check of the others.

    Args:
        source: where the examples are read from.
        test_share: share of the wheel's texts that are test.

    Source:
        Warstadt et al. 2019, arXiv:1805.12471; GLUE.
    """

    name: ClassVar[str] = "cola"
    classes: ClassVar[tuple[str, ...]] = ("unacceptable", "acceptable")
    hub: ClassVar[HubTable] = HubTable("nyu-mll/glue", "cola", "sentence", "train", "validation")
    packaged: ClassVar[WheelTable] = WheelTable(
        "87_glue_cola",
        {"0": 0, "1": 1},
        "5,000 rows of CoLA with as many of each class before copies were left out; the "
        "published data has 70 % acceptable",
    )
