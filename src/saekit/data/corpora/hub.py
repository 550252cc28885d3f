"""Hub: data sets of the Hugging Face hub, streamed."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import DataError, MissingExtraError, ResourceError, nearest
from saekit.core.hub_access import hub_border, hub_library
from saekit.data.base import Corpus, Document, Split, registry
from saekit.data.split import documents_of, rule_of


@registry.register
@dataclass(frozen=True, kw_only=True)
class Hub(Corpus):
    """A data set of the Hugging Face hub, streamed at a pinned commit.

    Train, validation and test are all taken from the one `split` of the data set, by text hash,
    so that they never share a text. A branch name as `revision` is resolved to its commit, and
    the commit is what provenance records: give the commit to pin the corpus for good.

    Args:
        repo: ``owner/name``.
        revision: commit, tag or branch.
        config: the part of a data set that has several; null for the only one.
        split: the data set's own split to read.
        text_column: the column that holds the text.
        test_share: share of documents that are test.
        validation_share: share of documents that are for validation.

    Raises:
        ConfigError: a share is out of range.

    Source:
        huggingface.co; the licence is the data set's own.
    """

    name: ClassVar[str] = "hub"

    repo: str
    revision: str = "main"
    config: str | None = None
    split: str = "train"
    text_column: str = "text"
    test_share: float = setting(0.1, least=0, below=1)
    validation_share: float = setting(0.1, least=0, below=1)

    @property
    @override
    def label(self) -> str:
        return self.repo

    @property
    @override
    def streamed(self) -> bool:
        return True

    @override
    def documents(self, split: Split) -> Iterator[Document]:
        return documents_of(split, self._every(), self.test_share, self.validation_share)

    @override
    def provenance(self) -> dict[str, Any]:
        rule = rule_of(self.validation_share)
        return {"commit": _commit(self.repo, self.revision), "split_rule": rule}

    def _every(self) -> Iterator[Document]:
        commit = _commit(self.repo, self.revision)
        try:
            import datasets  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError("datasets", "hub") from error
        with hub_border(
            f"read {self.repo} at {commit}, config {self.config}, split {self.split}",
            "Check the names, your access and the network.",
        ):
            rows = datasets.load_dataset(
                self.repo, self.config, split=self.split, revision=commit, streaming=True
            )
            for row in rows:
                yield Document(self._text(row), self.repo)

    def _text(self, row: dict[str, Any]) -> str:
        if self.text_column not in row:
            raise DataError(
                f"{self.repo} has no column `{self.text_column}`; it has {', '.join(row)}. "
                f"Name one with `text_column`.{nearest(self.text_column, row)}"
            )
        value = row[self.text_column]
        if value is not None and not isinstance(value, str):
            raise DataError(
                f"Column `{self.text_column}` of {self.repo} must hold text; got "
                f"{type(value).__name__}. Name another with `text_column`."
            )
        return value or ""


@functools.lru_cache(maxsize=64)
def _commit(repo: str, revision: str) -> str:
    library = hub_library()
    with hub_border(
        f"look up the data set {repo} at {revision}",
        "Check the name, your access and the network, or use local files.",
    ):
        commit = library.HfApi().dataset_info(repo, revision=revision).sha
    if commit is None:
        raise ResourceError(
            f"The hub names no commit for {repo} at {revision}. Give a commit as `revision`."
        )
    return commit
