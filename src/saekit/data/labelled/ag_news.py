"""AG News: short news, of four topics."""

from dataclasses import dataclass
from typing import ClassVar

from saekit.data.labelled._published import HubTable, Published, WheelTable
from saekit.data.labelled.base import registry


@registry.register
@dataclass(frozen=True, kw_only=True)
class AGNews(Published):
    """Short news: world, sports, business, or science and technology.

    The wheel calls business "Technology" and technology "Entertainment"; its names are put right
    here. Its tables 161 to 163 of the same name are not used: 96 % of the other class there is
    source code.

    Args:
        source: where the examples are read from.
        test_share: share of the wheel's texts that are test.

    Source:
        Zhang, Zhao and LeCun 2015, arXiv:1509.01626.
    """

    name: ClassVar[str] = "ag_news"
    classes: ClassVar[tuple[str, ...]] = ("World", "Sports", "Business", "Sci/Tech")
    hub: ClassVar[HubTable] = HubTable("fancyzhx/ag_news", None, "text", "train", "test")
    packaged: ClassVar[WheelTable] = WheelTable(
        "97_news_class",
        {"Politics": 0, "Sport": 1, "Technology": 2, "Entertainment": 3},
        "5,000 texts with as many of each class; names of classes put right",
    )
