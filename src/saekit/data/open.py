"""A corpus from one word: a name, a path, or a data set of the hub."""

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from saekit.core.errors import ConfigError, DataError, UnknownNameError, nearest
from saekit.data.base import Corpus
from saekit.data.corpora.chats import Chats
from saekit.data.corpora.files import Files, matches
from saekit.data.corpora.generated import Generated, is_generated
from saekit.data.corpora.hub import Hub
from saekit.data.corpora.mixture import Mixture
from saekit.data.corpora.packaged import Packaged
from saekit.data.corpora.stdlib import Stdlib
from saekit.data.corpora.texts import Texts
from saekit.data.corpora.token_ids import COLUMNS, TokenIds
from saekit.data.readers import TEXT_SUFFIXES, columns_of, kind_of

_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_NAMED = {"packaged": Packaged, "stdlib": Stdlib}
_SHARE = re.compile(r"(?P<weight>\d+(\.\d*)?|\.\d+)\s*\*\s*(?P<word>.+)")
_ONE_FILE_CHARS = 4_000  # about 1,000 tokens: enough context, and enough documents to split


def open_corpus(text: str) -> Corpus:
    """Return the corpus that a word of the command line stands for.

    Args:
        text: ``packaged`` or ``stdlib``; else an existing path or glob pattern; else
            ``owner/name`` or ``owner/name@revision`` of the Hugging Face hub. One text file
            is divided at blank lines into documents of about 4,000 characters, for a single
            document could not be split into train and test; a paragraph of over 16,000 is cut
            at line ends into documents of about 4,000. Several with their shares of
            the text, as ``0.7*packaged + 0.3*notes.jsonl``, are a mixture. JSON lines and Parquet
            without a column ``text`` are chats where they have ``messages``, and token ids where
            they have ``input_ids`` or ``tokens``; so is a .npy file. A folder that `saekit
            corpus generate` made is text that a model wrote.

    Returns:
        The corpus, as a value that can be stored and changed.

    Raises:
        UnknownNameError: it is none of these.
        DataError: it looks like a path and nothing is there.
        ConfigError: a part of a mixture has no share.
    """
    if _SHARE.fullmatch(text) and not Path(text).exists():
        return _mixture(text)
    if text in _NAMED:
        return _NAMED[text]()
    path = Path(text).expanduser()
    place = str(path.absolute())  # found again from whatever directory
    if (other := _other_than_text(path, place)) is not None:
        return other
    if path.is_file() and kind_of(path) in TEXT_SUFFIXES:
        return Files(paths=(place,), separator="\n\n", join_chars=_ONE_FILE_CHARS)
    if path.exists() or matches(str(path)):
        return Files(paths=(place,))
    if text.startswith((".", "/", "~")) or glob.has_magic(text) or kind_of(path):
        Files(paths=(text,)).found()  # says what is missing and what is near
    if match := _HUB.fullmatch(text):
        return Hub(repo=match["repo"], revision=match["revision"] or "main")
    names = [*_NAMED, *(p.name for p in Path().iterdir())]
    raise UnknownNameError(
        f"There is no corpus `{text}`; it can be {', '.join(_NAMED)}, a file, folder or "
        f"pattern, or `owner/name` of the hub.{nearest(text, names)}"
    )


def as_corpus(given: Corpus | Path | str | Sequence[Any]) -> Corpus:
    """Return the corpus that somebody means: one, a word as of `open_corpus`, or a list of texts.

    Raises: as `open_corpus`.
    """
    if isinstance(given, Corpus):
        return given
    if not isinstance(given, Path | Iterable):
        raise DataError(
            f"A corpus is one of saekit.data, a name or file of text, or a list of texts; got "
            f"{given!r:.60} ({type(given).__name__})."
        )
    return open_corpus(str(given)) if isinstance(given, str | Path) else Texts.of(given)


def _other_than_text(path: Path, place: str) -> Corpus | None:
    """Return the corpus of generated text, chats or token ids; None: other text, or nothing."""
    if path.suffix == ".npy" and path.is_file():
        return TokenIds(paths=(place,))
    if path.is_dir() and is_generated(path):
        return Generated(path=place)
    is_some = path.exists() or bool(matches(str(path)))
    first = next(iter(Files(paths=(place,)).found()), None) if is_some else None
    columns = [] if first is None else columns_of(first)
    if Files.text_column in columns:
        return None
    if Chats.messages_column in columns:
        return Chats(paths=(place,))
    ids = next((name for name in COLUMNS if name in columns), None)
    return None if ids is None else TokenIds(paths=(place,), ids_column=ids)


def _mixture(text: str) -> Mixture:
    parts = [_SHARE.fullmatch(part.strip()) for part in text.split(" + ")]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        raise ConfigError(
            f"Each part of a mixture has a share, as 0.7*packaged + 0.3*notes.jsonl; got {text!r}."
        )
    corpora = tuple(open_corpus(part["word"]) for part in found)
    return Mixture(parts=corpora, weights=tuple(float(part["weight"]) for part in found))
