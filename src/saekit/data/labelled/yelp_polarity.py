"""Yelp polarity: reviews, negative or positive."""

from dataclasses import dataclass
from typing import ClassVar

from saekit.data.labelled._published import HubTable, Published, WheelTable
from saekit.data.labelled.base import registry


@registry.register
@dataclass(frozen=True, kw_only=True)
class YelpPolarity(Published):
    """Reviews of restaurants and shops: one or two stars, or four or five.

    Args:
        source: where the examples are read from.
        test_share: share of the wheel's texts that are test.

    Source:
        Zhang, Zhao and LeCun 2015, arXiv:1509.01626.
    """

    name: ClassVar[str] = "yelp_polarity"
    classes: ClassVar[tuple[str, ...]] = ("negative", "positive")
    hub: ClassVar[HubTable] = HubTable("fancyzhx/yelp_polarity", None, "text", "train", "test")
    packaged: ClassVar[WheelTable] = WheelTable(
        "111_yelp_data",
        {"0": 0, "1": 0, "3": 1, "4": 1},
        "5,000 reviews with one to five stars, of which those with three are left out",
    )
