"""Which split a text belongs to, and which texts were seen before: by hash of the text."""

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator

import numpy as np

from saekit.core.errors import DataError
from saekit.data.base import Document, Split

_NUMBER = "sha256 of NFC, case-folded, whitespace-collapsed text; first 64 bits"
RULE = f"{_NUMBER} below share are test"  # where no text is kept for validation


def rule_of(validation_share: float) -> str:
    """Return how documents are dealt, in words."""
    if not validation_share:
        return RULE
    return f"{_NUMBER} below validation_share are validation, below that plus test_share test"


def normalise(text: str) -> str:
    """Return the text as far as identity goes: without case, spacing and Unicode variants."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def fingerprint(text: str) -> int:
    """Return the first 64 bits of the SHA-256 of the normalised text.

    Among n distinct texts, about n^2 / 2^65 pairs agree by chance: 0.0003 for 1e8 texts.
    """
    data = normalise(text).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def split_of(text: str, test_share: float, validation_share: float = 0.0) -> Split:
    """Return the split of a text: a function of the text alone, so nothing else moves it.

    Args:
        text: a document, or the passage several documents were made from.
        test_share: expected share of texts that are test, 0 to below 1.
        validation_share: expected share of texts that are for validation; both below 1 together.
    """
    number = fingerprint(text)
    if number < validation_share * 2**64:
        return "validation"
    return "test" if number < (validation_share + test_share) * 2**64 else "train"


class Deduper:
    """Tells whether a text was seen before; 8 bytes a text, plus a small set of recent ones.

    Args:
        most_docs: distinct texts it will hold; more are refused, never forgotten.
        recent_docs: texts kept in the set before they are merged into the sorted array.
    """

    def __init__(self, most_docs: int = 100_000_000, recent_docs: int = 500_000):
        self.most_docs, self.recent_docs = most_docs, recent_docs
        self._sorted = np.empty(0, dtype=np.uint64)
        self._recent: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def is_new(self, text: str) -> bool:
        """Return True the first time a text comes, up to case and spacing.

        Raises:
            DataError: more distinct texts came than it may hold.
        """
        key = fingerprint(text)
        if key in self._recent:
            return False
        place = int(np.searchsorted(self._sorted, np.uint64(key)))
        if place < len(self._sorted) and int(self._sorted[place]) == key:
            return False
        if len(self) >= self.most_docs:
            raise DataError(
                f"The corpus has more than {self.most_docs:,} distinct documents, which is all "
                f"that duplicates are looked for in. Use a part of it."
            )
        self._recent.add(key)
        if len(self._recent) >= self.recent_docs:
            fresh = np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))
            self._sorted = np.sort(np.concatenate([self._sorted, fresh]))
            self._recent = set()
        return True


def documents_of(
    split: Split, documents: Iterable[Document], test_share: float, validation_share: float = 0.0
) -> Iterator[Document]:
    """Yield the documents of one split, each text once, leaving out those without text."""
    seen = Deduper()
    for document in documents:
        text = document.text
        mine = text.strip() and split_of(text, test_share, validation_share) == split
        if mine and seen.is_new(text):
            yield document
