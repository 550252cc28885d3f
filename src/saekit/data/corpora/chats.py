"""Chats: messages of the user's own, from local files, as the model's chat template writes them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import DataError
from saekit.data.base import Corpus, Document, Split, registry
from saekit.data.corpora.files import Files
from saekit.data.readers import no_column, read_column
from saekit.data.split import documents_of


@registry.register
@dataclass(frozen=True, kw_only=True)
class Chats(Corpus):
    """Local files of chats, JSON lines or Parquet: a list of messages a row.

    A message has a ``role`` and a ``content``. The chat template of the model's tokenizer makes a
    chat one document; a BOS that it puts in front is left out, for rows have one of their own.

    Args:
        paths: files, folders or glob patterns; at least one.
        messages_column: where the list is.
        test_share: share of chats that are test.
        validation_share: share of chats that are for validation.

    Raises:
        ConfigError: no path, or a share is out of range.

    Source:
        None: local text.
    """

    name: ClassVar[str] = "chats"

    paths: tuple[str, ...]
    messages_column: str = "messages"
    test_share: float = setting(0.1, least=0, below=1)
    validation_share: float = setting(0.1, least=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._files  # refuses an empty list of paths

    @property
    def _files(self) -> Files:
        return Files(paths=self.paths, test_share=self.test_share)

    @property
    @override
    def holds_chats(self) -> bool:
        return True

    @override
    def documents(self, split: Split) -> Iterator[Document]:
        return documents_of(split, self._every(), self.test_share, self.validation_share)

    @override
    def provenance(self) -> dict[str, Any]:
        return self._files.provenance()

    def _every(self) -> Iterator[Document]:
        for path in self._files.found():
            for text in read_column(path, self.messages_column, _messages):
                yield Document(text, str(path), "chat")


def _messages(row: dict, column: str, place: str) -> str:
    """Return a list of messages as JSON; nothing of an empty one."""
    if column not in row:
        raise no_column(column, map(str, row), place, "messages_column")
    messages = row[column]
    if not messages and messages in (None, []):
        return ""
    right = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and "content" in m for m in messages
    )
    if not right:
        raise DataError(
            f"{place}: column `{column}` must hold a list of messages, each with role and content; "
            f"got {str(messages)[:60]!r}."
        )
    return json.dumps(messages, ensure_ascii=False)
