"""TokenIds: text that was tokenised before, from local files of token ids."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from saekit.core.border import ordinary, reading
from saekit.core.config import setting
from saekit.core.errors import ConfigError, DataError
from saekit.core.files import digest, sha256_of
from saekit.core.npz import npy_header
from saekit.data.base import Corpus, Document, Split, registry
from saekit.data.corpora.files import Files
from saekit.data.readers import no_column, read_column
from saekit.data.split import documents_of, rule_of

COLUMNS = ("input_ids", "tokens")
_ROW_IDS = 1024  # of a document, where a file is one run of ids


@registry.register
@dataclass(frozen=True, kw_only=True)
class TokenIds(Corpus):
    """Local files of token ids: JSON lines or Parquet with a list a row, or .npy.

    A row is a document. An array of one axis, as of a text that was joined before, is cut into
    documents of 1,024 ids. Ids must be those of the model's tokenizer: one that it does not have
    is refused.

    Args:
        paths: files, folders or glob patterns; at least one.
        ids_column: where the list is in JSON lines and Parquet.
        test_share: share of documents that are test.
        validation_share: share of documents that are for validation.

    Raises:
        ConfigError: no path, or a share is out of range.

    Source:
        None: local text.
    """

    name: ClassVar[str] = "token_ids"

    paths: tuple[str, ...]
    ids_column: str = "input_ids"
    test_share: float = setting(0.1, least=0, below=1)
    validation_share: float = setting(0.1, least=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.paths:
            raise ConfigError("`paths` is empty. Name a file, a folder or a pattern.")

    @override
    def documents(self, split: Split) -> Iterator[Document]:
        return documents_of(split, self._every(), self.test_share, self.validation_share)

    @override
    def provenance(self) -> dict[str, Any]:
        files = self._found()
        return {
            "n_files": len(files),
            "n_bytes": sum(path.stat().st_size for path in files),
            "sha256": digest(map(sha256_of, files)),
            "split_rule": rule_of(self.validation_share),
        }

    def _found(self) -> list[Path]:
        arrays = [p for p in map(Path, self.paths) if p.suffix == ".npy"]
        others = tuple(p for p in self.paths if Path(p).suffix != ".npy")
        tables = Files(paths=others).found() if others else []
        return [*(p.expanduser() for p in arrays), *tables]

    def _every(self) -> Iterator[Document]:
        for path in self._found():
            if path.suffix == ".npy":
                texts = _rows_of(path)
            else:
                texts = read_column(path, self.ids_column, _ids)
            for text in texts:
                yield Document(text, str(path), "ids")


def _rows_of(path: Path) -> Iterator[str]:
    """Yield the rows of an array of ids, mapped into memory."""
    size = ordinary(path)
    with reading(path, "a .npy file"), path.open("rb") as file:
        head = npy_header(file, str(path), "iu")
        head.check_size(size, str(path))
        if not 1 <= len(head.shape) <= 2 or head.fortran:
            raise DataError(
                f"{path} must have one axis, or rows of ids; it has the shape {list(head.shape)}."
            )
        if not head.n_bytes:
            raise DataError(f"{path} is empty. Leave it out.")
        values = np.memmap(path, head.dtype, "r", head.length, head.shape)
    for begin in range(0, len(values), _ROW_IDS if values.ndim == 1 else 1):
        row = values[begin : begin + _ROW_IDS] if values.ndim == 1 else values[begin]
        yield " ".join(map(str, row.tolist()))


def _ids(row: dict, column: str, place: str) -> str:
    """Return a list of ids as text, with spaces between."""
    if column not in row:
        raise no_column(column, map(str, row), place, "ids_column")
    ids = row[column] or []
    if not isinstance(ids, list) or any(type(i) is not int for i in ids):
        raise DataError(
            f"{place}: column `{column}` must hold a list of token ids; got {str(ids)[:60]!r}."
        )
    return " ".join(map(str, ids))
