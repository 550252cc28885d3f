"""The contract of a window filter: a window is taken, or refused for a reason that is counted."""

import abc
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import saekit.studies.locality.filters as package
from saekit.core.config import Config, setting
from saekit.core.registry import Registry

CROSSES = "crosses documents"


class Candidate(NamedTuple):
    """A window of the token stream, as a filter sees it."""

    ids: list[int]
    pieces: list[str]  # one string per id; joined, they are the text
    first: int  # tokens of its document before it
    documents: int  # that it lies in, 1 where it crosses no boundary
    special: int  # special tokens in it

    @property
    def text(self) -> str:
        """The text of the window."""
        return "".join(self.pieces)


@dataclass(frozen=True, kw_only=True)
class Filter(Config, abc.ABC):
    """Rules of every text, and those of one kind.

    Args:
        least_distinct: least share of distinct ids in a window: below it the text repeats itself.

    Raises:
        ConfigError: a share is out of range.
    """

    joiner: ClassVar[str | None] = None  # between documents in the stream; None: kept apart
    one_document: ClassVar[bool] = False  # whether a window must lie inside one

    least_distinct: float = setting(0.25, least=0, most=1)

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the filter called `name`."""
        return registry.get(name)

    def prepare(self, text: str) -> str:
        """Return a document's text as it enters the stream; nothing of it where empty."""
        return text

    def refuses(self, window: Candidate) -> str | None:
        """Return why a window is not used, in a few words; None where it is used."""
        if self.one_document and window.documents > 1:
            return CROSSES
        if window.special:
            return "special token"
        if len(set(window.ids)) < self.least_distinct * len(window.ids):
            return "too few distinct tokens"
        return self._refuses(window)

    @abc.abstractmethod
    def _refuses(self, window: Candidate) -> str | None:
        """Return what the kind of text adds."""

    def provenance(self) -> dict[str, Any]:
        """Return the rules, JSON-ready."""
        return self.to_dict()


registry = Registry[Filter]("window filter", package)
