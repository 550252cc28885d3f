"""GSM8K: a question and its answer are one document."""

import re
from dataclasses import dataclass
from typing import ClassVar, final

from typing_extensions import override

from saekit.studies.locality.filters.base import Candidate, Filter, registry

_CALCULATION = re.compile(r"<<[^<>]*>>")


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class GSM8K(Filter):
    """GSM8K: question, newline, answer; a window lies inside one document.

    Documents are those of the corpus `question_answer`; the line ``#### n`` stays.

    Args:
        keep_calculations: keep what stands between << and >> in answers.

    Source:
        Cobbe et al. 2021, arXiv:2110.14168 (the text). Rules: ours.
    """

    name: ClassVar[str] = "gsm8k"
    one_document: ClassVar[bool] = True
    keep_calculations: bool = False

    @override
    def prepare(self, text: str) -> str:
        return text if self.keep_calculations else _CALCULATION.sub("", text)

    @override
    def _refuses(self, window: Candidate) -> str | None:
        return None
