"""QuestionAnswer: tables of questions and answers, as GSM8K; one of each is a document."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from saekit.core.config import setting
from saekit.data.base import Corpus, Document, Split, registry
from saekit.data.corpora.files import Files
from saekit.data.readers import read_texts
from saekit.data.split import documents_of


@registry.register
@dataclass(frozen=True, kw_only=True)
class QuestionAnswer(Corpus):
    """Local tables with a question and an answer a row: JSON lines, CSV or Parquet.

    A document is the question, a newline and the answer. GSM8K is such a table.

    Args:
        paths: files, folders or glob patterns; at least one.
        question_column: where the question is.
        answer_column: where the answer is.
        test_share: share of documents that are test.
        validation_share: share of documents that are for validation.

    Raises:
        ConfigError: no path, or a share is out of range.

    Source:
        None: local text.
    """

    name: ClassVar[str] = "question_answer"

    paths: tuple[str, ...]
    question_column: str = "question"
    answer_column: str = "answer"
    test_share: float = setting(0.1, least=0, below=1)
    validation_share: float = setting(0.1, least=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._files  # refuses an empty list of paths

    @property
    def _files(self) -> Files:
        return Files(paths=self.paths, test_share=self.test_share)

    @override
    def documents(self, split: Split) -> Iterator[Document]:
        return documents_of(split, self._every(), self.test_share, self.validation_share)

    @override
    def provenance(self) -> dict[str, Any]:
        return self._files.provenance()

    def _every(self) -> Iterator[Document]:
        for path in self._files.found():
            names = (self.question_column, self.answer_column)
            columns = (read_texts(path, name, None) for name in names)
            for question, answer in zip(*columns, strict=True):
                yield Document(f"{question}\n{answer}", str(path))
