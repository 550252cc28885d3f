"""Plain: any corpus; a window lies inside one document."""

from dataclasses import dataclass
from typing import ClassVar, final

from typing_extensions import override

from saekit.studies.locality.filters.base import Candidate, Filter, registry


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Plain(Filter):
    """Any corpus: a window lies inside one document, without special tokens or repetition.

    Source:
        None: ours.
    """

    name: ClassVar[str] = "plain"
    one_document: ClassVar[bool] = True

    @override
    def _refuses(self, window: Candidate) -> str | None:
        return None
