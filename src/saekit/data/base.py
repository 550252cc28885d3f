"""The contract of a corpus: documents in a fixed order, split so that splits share nothing."""

import abc
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import saekit.data.corpora as package
from saekit.core.config import Config
from saekit.core.registry import Registry

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


Kind = Literal["text", "chat", "ids"]


class Document(NamedTuple):
    """A text and where it is from.

    By its text it belongs to a split and is told from others, whatever its kind.
    """

    text: str
    source: str  # file or data set, for the reader
    kind: Kind = "text"  # "chat": messages as JSON; "ids": token ids, with spaces between
    marks_end: bool = False  # it says itself where it ends, so that no mark goes behind it


class Corpus(Config, abc.ABC):
    """A source of text, as a value: the same fields give the same documents in the same order.

    A document belongs to one split, decided by its own text (or by the passage it was made
    from), so that no passage is in both and adding documents moves none of the others.
    """

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the corpus class called `name`."""
        return registry.get(name)

    @property
    def streamed(self) -> bool:
        """Whether text comes over a network as it is read, so that counting it first is dear."""
        return False

    @property
    def holds_chats(self) -> bool:
        """Whether documents are messages, so that the tokenizer's template makes them text."""
        return False

    @property
    def marks_ends(self) -> bool:
        """Whether documents are token ids that say where they begin and end, so need no mark."""
        return False

    @property
    def mixes_ends(self) -> bool:
        """Whether some documents mark their end themselves and others do not."""
        return False

    @abc.abstractmethod
    def documents(self, split: Split) -> Iterator[Document]:
        """Yield the documents of a split, always in the same order, without duplicates.

        Raises:
            DataError: there is no text, or it is binary.
        """

    @abc.abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Return what identifies the text, JSON-ready: versions, hashes, split rule."""


registry = Registry[Corpus]("corpus", package)
