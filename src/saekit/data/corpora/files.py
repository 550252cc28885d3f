"""Files: text of the user's own, from local files."""

import functools
import glob
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import ConfigError, DataError, nearest
from saekit.core.files import digest, sha256_of
from saekit.data.base import Corpus, Document, Split, registry
from saekit.data.readers import MOST_CHARS, SUFFIXES, TEXT_SUFFIXES, kind_of, read_texts
from saekit.data.split import documents_of, rule_of

_HIDDEN = (".", "__pycache__")


@registry.register
@dataclass(frozen=True, kw_only=True)
class Files(Corpus):
    """Local files: .txt .md .py .jsonl .csv .parquet, and .zst of the text ones.

    A document of a text file that has over 1,000,000 characters, or with `join_chars` over four
    times those, is cut at the first line end past a quarter of that; where it has none, at a
    space.

    The files of a folder or of a pattern come in the order of the hash of their names, so
    that a part of a corpus is a sample of it; several paths come in the order given.

    Args:
        paths: files, folders (searched deeply) or glob patterns; at least one.
        text_column: where the text is in JSON lines, CSV and Parquet.
        separator: what divides the documents of a text file, as a blank line; null where a
            file is one document.
        join_chars: with a separator, neighbouring pieces are joined into documents of at
            least this many characters. 0 keeps every piece a document.
        test_share: share of documents that are test.
        validation_share: share of documents that are for validation.

    Raises:
        ConfigError: no path, an empty separator, a negative length, or a wrong share.

    Source:
        None: local text.
    """

    name: ClassVar[str] = "files"

    paths: tuple[str, ...]
    text_column: str = "text"
    separator: str | None = None
    join_chars: int = setting(0, least=0)
    test_share: float = setting(0.1, least=0, below=1)
    validation_share: float = setting(0.1, least=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.paths:
            raise ConfigError("`paths` is empty. Name a file, a folder or a pattern.")
        if self.separator == "":
            raise ConfigError("`separator` is empty; use null for one document a file.")
        if self.join_chars and self.separator is None:
            raise ConfigError(
                f"`join_chars` must be 0 without a separator; got {self.join_chars}. Set "
                f"`separator`, or leave `join_chars` out."
            )

    @override
    def documents(self, split: Split) -> Iterator[Document]:
        empty = True
        for document in documents_of(split, self._every(), self.test_share, self.validation_share):
            empty = False
            yield document
        if empty and not any(d.text.strip() for d in self._every()):
            raise DataError(
                f"There is no text in {', '.join(self.paths)}: every document is empty. "
                f"Name other files, or another `text_column`."
            )

    @override
    def provenance(self) -> dict[str, Any]:
        files = self.found()
        hashes = [_hash(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        # Files without a document that is long enough are read as they always were.
        texts = [path for path in files if kind_of(path) in TEXT_SUFFIXES]
        long = any(path.suffix == ".zst" or path.stat().st_size > self._most for path in texts)
        return {
            **({"cut_above_chars": self._most} if long else {}),
            "n_files": len(files),
            "n_bytes": sum(path.stat().st_size for path in files),
            "sha256": digest(hashes),
            "split_rule": rule_of(self.validation_share),
        }

    @property
    def _most(self) -> int:
        """Characters above which a document of a text file is cut."""
        return min(4 * self.join_chars or MOST_CHARS, MOST_CHARS)

    def found(self) -> list[Path]:
        """Return the files to read, each once, in their order.

        Raises:
            DataError: a path names nothing that can be read.
        """
        files: dict[Path, None] = {}
        for text in self.paths:
            files |= dict.fromkeys(_files_at(text))
        return list(files)

    def _every(self) -> Iterator[Document]:
        for path in self.found():
            texts = read_texts(path, self.text_column, self.separator, self._most)
            for text in _joined(texts, self.separator or "", self.join_chars):
                yield Document(text, str(path))


def matches(pattern: str) -> list[Path]:
    """Return what a glob pattern, absolute or not, finds; ``**`` goes deep."""
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path refuses absolute ones
    return [Path(name) for name in found]


def _files_at(text: str) -> list[Path]:
    path = Path(text).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = [p.relative_to(path) for p in path.rglob("*") if p.is_file() and kind_of(p)]
        shown = [n for n in inside if not any(part.startswith(_HIDDEN) for part in n.parts)]
        files = [path / name for name in sorted(shown, key=_name_hash)]
    else:
        root = _above(path)  # names within it: the order is the same wherever it lies
        inside = [p.relative_to(root) for p in matches(str(path)) if p.is_file()]
        files = [root / name for name in sorted(inside, key=_name_hash)]
    if not files:
        raise _nothing_at(text, path)
    return files


def _above(pattern: Path) -> Path:
    """Return the folder that a glob pattern searches: its parts before the first wildcard."""
    return next((p for p in pattern.parents if not glob.has_magic(str(p))), Path())


def _nothing_at(text: str, path: Path) -> DataError:
    if path.is_dir():
        return DataError(
            f"The folder {text} has no file to read; looked for {', '.join(SUFFIXES)}. "
            f"Name another folder, or files by name."
        )
    parent = path.parent
    names = [p.name for p in parent.iterdir()] if parent.is_dir() else []
    where = f"{parent} has {len(names)} entries" if names else f"{parent} is empty or absent"
    return DataError(
        f"There is no file, folder or match for {text}; {where}. "
        f"Check the path.{nearest(path.name, names)}"
    )


def _name_hash(path: Path) -> str:
    return hashlib.sha256(path.as_posix().encode("utf-8", "surrogateescape")).hexdigest()


@functools.lru_cache(maxsize=100_000)
def _hash(path: Path, size: int, mtime_ns: int) -> str:  # size and time: a changed file is new
    return sha256_of(path)


def _joined(texts: Iterator[str], separator: str, least_chars: int) -> Iterator[str]:
    parts: list[str] = []
    length = 0
    for text in texts:
        parts.append(text)
        length += len(text)
        if length >= least_chars:
            yield separator.join(parts)
            parts, length = [], 0
    if parts:
        yield separator.join(parts)
