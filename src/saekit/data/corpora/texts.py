"""Texts: a list of texts in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import DataError
from saekit.core.files import digest
from saekit.data.base import Corpus, Document, Split, registry
from saekit.data.split import documents_of, rule_of

# Texts by their SHA-256: a corpus is a value that goes through JSON, and they do not.
_held: dict[str, tuple[str, ...]] = {}


@registry.register
@dataclass(frozen=True, kw_only=True)
class Texts(Corpus):
    """A list of texts that this process was given; settings and cards hold its SHA-256.

    Args:
        sha256: of the texts.
        n_texts: how many there are.
        test_share: share of texts that are test.
        validation_share: share of texts that are for validation.

    Raises:
        ConfigError: a share is out of range.

    Source:
        None: text of the caller.
    """

    name: ClassVar[str] = "texts"

    sha256: str
    n_texts: int = setting(least=1)
    test_share: float = setting(0.1, least=0, below=1)
    validation_share: float = setting(0.1, least=0, below=1)

    @property
    @override
    def label(self) -> str:
        return f"a list of {self.n_texts:,} texts"

    @classmethod
    def of(
        cls, texts: Sequence[Any], test_share: float = 0.1, validation_share: float = 0.1
    ) -> "Texts":
        """Return the corpus of a list of texts.

        Raises:
            DataError: it is empty, or something in it is no text.
        """
        found = tuple(texts)
        for i, text in enumerate(found):
            if not isinstance(text, str):
                raise DataError(
                    f"A corpus in memory is a list of texts; got {text!r:.60} "
                    f"({type(text).__name__}) at place {i}."
                )
        if not any(text.strip() for text in found):
            raise DataError("The list of texts is empty. Give some text.")
        sha256 = digest(text.encode("utf-8", "surrogatepass") for text in found)
        _held[sha256] = found
        return cls(
            sha256=sha256,
            n_texts=len(found),
            test_share=test_share,
            validation_share=validation_share,
        )

    @override
    def documents(self, split: Split) -> Iterator[Document]:
        return documents_of(split, self._every(), self.test_share, self.validation_share)

    @override
    def provenance(self) -> dict[str, Any]:
        rule = rule_of(self.validation_share)
        return {"n_texts": self.n_texts, "sha256": self.sha256, "split_rule": rule}

    def _every(self) -> Iterator[Document]:
        if self.sha256 not in _held:
            raise DataError(
                f"This text is a list of {self.n_texts:,} texts that was given in Python "
                f"(SHA-256 {self.sha256[:12]}...), which no file holds. Give the same list again: "
                f"corpus=[...]; or another text."
            )
        for i, text in enumerate(_held[self.sha256]):
            yield Document(text, f"text {i}")
