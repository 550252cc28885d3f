"""Wikitext: articles as one stream, without headings."""

import re
from dataclasses import dataclass
from typing import ClassVar, final

from typing_extensions import override

from saekit.core.config import setting
from saekit.studies.locality.filters.base import Candidate, Filter, registry

_HEADING = re.compile(r"^[^\S\n]*(= )+.+( =)+[^\S\n]*$", re.MULTILINE)


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Wikitext(Filter):
    """WikiText: rows joined without a separator; a window holds prose, not headings.

    Refused: a heading line, more newlines than `most_newlines`, or ``<unk>``.

    Args:
        most_newlines: that a window may hold.

    Source:
        Merity et al. 2016, arXiv:1609.07843 (the text). Rules: ours, for those of the SAE
        Locality dataset are not published.
    """

    name: ClassVar[str] = "wikitext"
    joiner: ClassVar[str | None] = ""
    most_newlines: int = setting(2, least=0)

    @override
    def _refuses(self, window: Candidate) -> str | None:
        if "<unk>" in window.text:
            return "<unk>"
        if _HEADING.search(window.text):
            return "heading"
        return "newlines" if window.text.count("\n") > self.most_newlines else None
