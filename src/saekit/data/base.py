"""The contract of a corpus: documents in a fixed order, split so that splits share nothing."""

import abc
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from typing_extensions import override

import saekit.data.corpora as package
from saekit.core.config import Config
from saekit.core.errors import ConfigError
from saekit.core.registry import Registry

C = TypeVar("C", bound="Corpus")
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
HeldOut = Literal["validation", "test"]  # of these, what is measured on
VALIDATION = "validation_share"
SHOWN_FILES = 3  # of a text of many, in a line


def as_held_out(text: str) -> HeldOut:
    """Return the split of a name, one that is not trained on.

    Raises:
        ConfigError: there is no such split, or it is trained on.
    """
    if (split := as_split(text)) == "train":
        raise ConfigError(
            "SAEs are measured on text that they were not trained on: `--split` (split=) is test, "
            "or validation to choose between settings; got train."
        )
    return split


def as_split(text: str, option: str = "--split") -> Split:
    """Return the split of a name.

    Args:
        text: the name.
        option: what was set to it, for the error.

    Raises:
        ConfigError: there is no such split.
    """
    for split in SPLITS:
        if text == split:
            return split
    raise ConfigError(f"`{option}` must be one of {', '.join(SPLITS)}; got {text}.")


class Shares(NamedTuple):
    """How the documents of a text are dealt, by a number in [0, 1) that the words of each give.

    Below `validation` a document is for validation, from there to `validation + test` it is test
    text, and above that it is trained on.
    """

    validation: float
    test: float

    @property
    def held_out(self) -> float:
        """Share of the documents that are not trained on."""
        return self.validation + self.test

    def region(self, split: Split) -> tuple[float, float]:
        """Return where the numbers of a split begin and end."""
        ends = {
            "validation": (0.0, self.validation),
            "test": (self.validation, self.held_out),
            "train": (self.held_out, 1.0),
        }
        return ends[split]

    def check(self) -> None:
        """Refuse shares that leave nothing to train on.

        Raises:
            ConfigError: they do.
        """
        if not self.held_out < 1:
            raise ConfigError(
                f"`{VALIDATION}` and `test_share` must leave text to train on, so they come to "
                f"less than 1 together; got {self.validation:g} and {self.test:g}. Lower one."
            )


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
    from), so that no passage is in two and adding documents moves none of the others.

    Text is trained on, or for validation, by which people choose settings, or for the test, which
    is read for what they report. A corpus that was stored before there was a validation split
    names a `test_share` alone and is read as one that keeps none: its documents are dealt as they
    were. One that keeps none is stored so, and what was made of such text stays its own.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shares is not None:
            self.shares.check()

    @classmethod
    @override
    def from_dict(cls: type[C], raw: dict[str, Any]) -> C:
        known = {field.name for field in dataclasses.fields(cls)}
        if VALIDATION in known and isinstance(raw, dict) and "test_share" in raw:
            raw = {VALIDATION: 0.0} | raw
        return super().from_dict(raw)

    @override
    def to_dict(self) -> dict[str, Any]:
        return {k: v for k, v in super().to_dict().items() if k != VALIDATION or v}

    @property
    def shares(self) -> Shares | None:
        """How documents are dealt; None: by a rule of the corpus' own."""
        test = getattr(self, "test_share", None)
        return None if test is None else Shares(getattr(self, VALIDATION, 0.0), test)

    def with_shares(self: C, shares: Shares) -> C:
        """Return the same text, dealt otherwise; one with a rule of its own as it is.

        Raises:
            ConfigError: it has no validation split.
        """
        if self.shares in (None, shares):
            return self
        changes: dict[str, Any] = {"test_share": shares.test, VALIDATION: shares.validation}
        if not hasattr(self, VALIDATION):
            if shares.validation:
                raise ConfigError(
                    f"The corpus `{self.name}` has no `{VALIDATION}`, so that no text of it can be "
                    f"kept for validation. Give it one, or name another text."
                )
            del changes[VALIDATION]
        return dataclasses.replace(self, **changes)

    @property
    def label(self) -> str:
        """What the text is called in a line: its files, or else its name."""
        files = getattr(self, "paths", None) or [getattr(self, "path", self.name)]
        names = [Path(one).name for one in files]
        more = f" and {len(names) - SHOWN_FILES} more" if len(names) > SHOWN_FILES else ""
        return ", ".join(names[:SHOWN_FILES]) + more

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
