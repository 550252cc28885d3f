"""Python code: inside one file, past its head."""

from dataclasses import dataclass
from typing import ClassVar, final

from typing_extensions import override

from saekit.core.config import setting
from saekit.studies.locality.filters.base import Candidate, Filter, registry


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class CodePython(Filter):
    """Python: a window lies inside one file, past licence and imports, and is not blank or packed.

    Args:
        skip_tokens: tokens at the head of a file that no window may hold.
        most_blank: largest share of tokens that are white space only.
        most_line_chars: longest line of a window.

    Source:
        None: ours, for the rules of the SAE Locality dataset are not published.
    """

    name: ClassVar[str] = "code-python"
    one_document: ClassVar[bool] = True
    skip_tokens: int = setting(50, least=0)
    most_blank: float = setting(0.6, least=0, most=1)
    most_line_chars: int = setting(400, least=1)

    @override
    def _refuses(self, window: Candidate) -> str | None:
        if window.first < self.skip_tokens:
            return "head of a file"
        blank = sum(not piece.strip() for piece in window.pieces)
        if blank > self.most_blank * len(window.pieces):
            return "white space"
        longest = max(map(len, window.text.split("\n")))
        return "long line" if longest > self.most_line_chars else None
