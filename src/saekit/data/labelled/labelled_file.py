"""A file of one's own: texts with their labels."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import DataError, nearest
from saekit.core.files import sha256_of
from saekit.data.labelled import _splitting
from saekit.data.labelled.base import Example, Labelled, Task, registry
from saekit.data.readers import JSON_LINES_SUFFIXES, kind_of, read_column, read_texts

MOST_CLASSES = 100


@registry.register
@dataclass(frozen=True, kw_only=True)
class LabelledFile(Task):
    """Your own CSV file or JSON lines, with a column of texts and one of labels.

    Args:
        path: the file.
        text_column: where the text is.
        label_column: where the label is: any word or whole number.
        test_share: share of the texts that are test.

    Source:
        None: local text.
    """

    name: ClassVar[str] = "labelled_file"

    path: str
    text_column: str = "text"
    label_column: str = "label"
    test_share: float = setting(0.3, above=0, below=1)

    @override
    def read(self) -> Labelled:
        path = Path(self.path)
        pairs = list(self._pairs(path))
        if (blank := next((i for i, (_, label) in enumerate(pairs) if not label.strip()), -1)) >= 0:
            raise DataError(
                f"Row {blank + 1:,} of {path} has no label in `{self.label_column}`. Give it one, "
                f"or leave the row out."
            )
        counts = Counter(label for _, label in pairs)
        classes = tuple(sorted(counts))
        if len(classes) > MOST_CLASSES:
            raise DataError(
                f"Column `{self.label_column}` of {path} has {len(classes):,} different labels; a "
                f"task has at most {MOST_CLASSES}. Name the column of labels: label_column."
            )
        number = {name: i for i, name in enumerate(classes)}
        examples = [Example(text, number[label]) for text, label in pairs]
        parts = _splitting.split_by_text(examples, self.test_share)
        _splitting.check(parts, classes, str(path))
        provenance = {
            "source": "file",
            "file": path.name,
            "sha256": sha256_of(path),
            "split": _splitting.split_rule(self.test_share),
            "left_out": parts.left_out,
            "notes": [],
        }
        return Labelled(parts.train, parts.test, classes, provenance)

    def _pairs(self, path: Path) -> Iterator[tuple[str, str]]:
        columns = (self.text_column, self.label_column)
        kind = kind_of(path)
        if kind == ".csv":
            read = [read_texts(path, column, None) for column in columns]
        elif kind in JSON_LINES_SUFFIXES:
            read = [read_column(path, column, _as_text) for column in columns]
        else:
            raise DataError(
                f"Labelled texts are read from .csv or .jsonl; got {path.name}. Write them as one "
                f"of these."
            )
        yield from zip(*read, strict=True)


def _as_text(row: dict[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if not isinstance(value, str | int):
        found = f"{value!r:.40} there" if column in row else ", ".join(row)
        near = "" if column in row else nearest(column, row)
        raise DataError(
            f"{where} has no text or whole number in `{column}`; it has {found}. Name the columns "
            f"with text_column and label_column, or leave the line out.{near}"
        )
    return str(value)
