"""SST-2: sentences of film reviews, negative or positive."""

from dataclasses import dataclass
from typing import ClassVar

from saekit.data.labelled._published import HubTable, Published, WheelTable
from saekit.data.labelled.base import registry


@registry.register
@dataclass(frozen=True, kw_only=True)
class SST2(Published):
    """Sentences of film reviews: negative or positive.

    Args:
        source: where the examples are read from.
        test_share: share of the wheel's texts that are test.

    Source:
        Socher et al. 2013, Recursive Deep Models for Semantic Compositionality; GLUE.
    """

    name: ClassVar[str] = "sst2"
    classes: ClassVar[tuple[str, ...]] = ("negative", "positive")
    hub: ClassVar[HubTable] = HubTable("stanfordnlp/sst2", None, "sentence", "train", "validation")
    packaged: ClassVar[WheelTable] = WheelTable(
        "92_glue_sst2",
        {"0": 0, "1": 1},
        "5,000 phrases of the train part of SST-2 with as many of each class; they are "
        "shorter than the sentences of the published test part",
    )
