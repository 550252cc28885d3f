"""Read the documents of one file: text, JSON lines, CSV or Parquet, compressed or not."""

import codecs
import contextlib
import csv
import io
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from saekit.core.border import ordinary, parsed_json
from saekit.core.errors import (
    ConfigError,
    DataError,
    FormatError,
    MissingExtraError,
    SaekitError,
    nearest,
)
from saekit.data.table_files import check_unpacked

Take = Callable[[dict, str, str], str]
TEXT_SUFFIXES = (".txt", ".md", ".py")
JSON_LINES_SUFFIXES = (".jsonl", ".ndjson", ".json-lines")
SUFFIXES = (*TEXT_SUFFIXES, *JSON_LINES_SUFFIXES, ".csv", ".parquet")
MOST_CHARS = 1_000_000  # of a document of a text file; about a long novel
_BLOCK_BYTES = 1 << 18
_PACKED_BYTES = 1 << 10  # of zstd at a time; at most 32 MB come of so many
# What is unpacked of a packed file: this many times its size, or so many bytes.
MOST_RATIO, LEAST_UNPACKED = 1000, 1 << 26
_PARQUET_ROWS = 16  # at once
LINE_CHARS = 1 << 26  # of one line of JSON or CSV, or one text of a Parquet file
_LONE = re.compile(r"[\ud800-\udfff]")
_warned: set[Path] = set()  # files whose lone surrogates were said: they are read many times


def kind_of(path: Path) -> str | None:
    """Return the suffix that tells how to read a file, or None where nothing reads it."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes[-1:] == [".zst"]:
        suffixes = suffixes[:-1]
        if suffixes[-1:] == [".parquet"]:
            return None
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def read_texts(
    path: Path, text_column: str, separator: str | None, most_chars: int = MOST_CHARS
) -> Iterator[str]:
    """Yield the texts of a file in its order; one text may be empty.

    A lone surrogate in JSON lines, half of a character, is read as U+FFFD, the mark of what
    cannot be read; file and line are said on stderr.

    Args:
        path: a file whose suffix is one of `SUFFIXES`; ``.zst`` may follow any but Parquet's.
        text_column: where the text is in JSON lines, CSV and Parquet.
        separator: what divides the documents of a text file; None where a file is one.
        most_chars: a document of a text file that is longer is cut, see `cut_text`; at least 4.

    Raises:
        DataError: the file is binary, damaged, or has no such column.
        ConfigError: nothing reads files of this suffix.
    """
    kind = kind_of(path)
    if kind not in (*TEXT_SUFFIXES, ".csv"):
        yield from read_column(path, text_column, _text)
        return
    ordinary(path)
    with _chunks(path) as chunks:
        if kind in TEXT_SUFFIXES:
            yield from cut_text(chunks, separator, most_chars)
        else:
            yield from _csv(chunks, path, text_column)


def read_column(path: Path, column: str, take: Take) -> Iterator[str]:
    """Yield a text for each row of a file of JSON lines or Parquet, in its order.

    Args:
        path: the file.
        column: where the value is.
        take: makes the text of a row; is given the row, the column and the place, for messages.

    Raises:
        DataError: the file is damaged, or has no such column.
        ConfigError: nothing reads files of this suffix.
    """
    kind = kind_of(path)
    if kind is None or kind in (*TEXT_SUFFIXES, ".csv"):
        raise ConfigError(
            f"{path} cannot be read: its suffix must be one of {', '.join(SUFFIXES)}, or a text "
            f"one of these followed by .zst. Convert the file, or rename it."
        )
    ordinary(path)
    if kind == ".parquet":
        yield from _parquet(path, column, take)
        return
    with _chunks(path) as chunks:
        yield from _json_lines(chunks, path, column, take)


def columns_of(path: Path) -> list[str]:
    """Return the names of the columns of JSON lines (of the first row) or Parquet; else none.

    A file that cannot be read has none: who reads it says why.
    """
    kind = kind_of(path)
    if kind not in (*JSON_LINES_SUFFIXES, ".parquet"):
        return []
    names: list[str] = []

    def note(row: dict, column: str, place: str) -> str:
        names.extend(map(str, row))
        return ""

    try:
        if kind == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_schema(path).names
        next(read_column(path, "", note), None)
    except Exception:  # noqa: BLE001 - the file may be anything, and is read again
        return []
    return names


@contextlib.contextmanager
def _chunks(path: Path) -> Iterator[Iterator[str]]:
    """A context with the text of a file, unpacked, in pieces."""
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(_BLOCK_BYTES), b"")
        if path.suffix.lower() == ".zst":
            blocks = filter(None, decompressed(blocks, str(path)))
        yield text_chunks(blocks, path)


def decompressed(blocks: Iterable[bytes], place: str) -> Iterator[bytes]:
    """Yield the plain bytes of Zstandard data that comes in blocks of any size.

    Args:
        blocks: the compressed bytes.
        place: what they are, for messages.

    Raises:
        DataError: the data is damaged or cut short.
        MissingExtraError: `zstandard` is not installed.
    """
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtraError("zstandard", "lm") from error
    frame, packed, unpacked = None, 0, 0
    for block in blocks:
        # A few bytes may stand for megabytes: small pieces keep what comes of one at a time small.
        pieces = [block[i : i + _PACKED_BYTES] for i in range(0, len(block), _PACKED_BYTES)]
        for rest in pieces:
            packed += len(rest)
            while rest:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                try:
                    plain = frame.decompress(rest)
                except (zstandard.ZstdError, MemoryError) as error:
                    raise DataError(
                        f"{place} is damaged: {error}. Fetch or write it again."
                    ) from error
                unpacked += len(plain)
                if unpacked > max(MOST_RATIO * packed, LEAST_UNPACKED):
                    raise DataError(
                        f"{place} unpacks to more than {MOST_RATIO:,} times its size, which no "
                        f"text does. Leave it out, or give it unpacked."
                    )
                yield plain
                rest = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise DataError(f"{place} is cut short. Fetch or write it again.")


def text_chunks(blocks: Iterable[bytes], path: Path) -> Iterator[str]:
    """Yield UTF-8 text in pieces, with every line end as a line feed.

    Raises:
        DataError: a NUL byte or invalid UTF-8, with the offset in (decompressed) bytes.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    lines = io.IncrementalNewlineDecoder(None, translate=True)
    done = 0
    for data in itertools.chain(blocks, [b""]):
        if (nul := data.find(0)) >= 0:
            raise _binary(path, done + nul, "a NUL byte")
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise _binary(path, done - held + error.start, "invalid UTF-8") from error
        done += len(data)
        if text := lines.decode(text, final=not data):
            yield text


def _binary(path: Path, offset: int, what: str) -> DataError:
    return DataError(
        f"{path} is not UTF-8 text: {what} at byte {offset:,}. "
        f"Leave the file out, or convert it to UTF-8."
    )


def cut_text(chunks: Iterable[str], separator: str | None, most_chars: int) -> Iterator[str]:
    """Yield the documents of a text that comes in chunks, none longer than `most_chars`.

    A document ends at the separator, which belongs to none. One that is longer than
    `most_chars` is cut: at the first line end past a quarter of that, else at the last space
    before all of it, else there; what follows is cut in the same way. Where the cuts are depends
    on the text alone, not on its chunks. Time grows with the text, and at most a chunk and a
    document are held.

    Args:
        chunks: the text in pieces of any size.
        separator: what ends a document; None: the text is one.
        most_chars: characters of a document, at least 4.
    """
    gap = len(separator) if separator is not None else 0
    text, at, ended = "", 0, False
    source = iter(chunks)
    while True:
        # Enough to know whether a document is too long or ends: its limit, and a separator.
        if not ended and len(text) - at <= most_chars + gap:
            chunk = next(source, None)
            ended = chunk is None
            text, at = text[at:] + (chunk or ""), 0
            continue
        limit = at + most_chars
        end = -1 if separator is None else text.find(separator, at, limit + gap)
        if end >= 0:
            yield text[at:end]
            at = end + gap
        elif len(text) <= limit:  # the last one: more would have been read
            yield text[at:]
            return
        else:
            line = text.find("\n", at + most_chars // 4, limit)
            space = text.rfind(" ", at + most_chars // 4, limit) if line < 0 else line
            cut = space + 1 if space >= 0 else limit
            yield text[at : cut - (line >= 0)]
            at = cut


def _lines(chunks: Iterable[str], path: Path) -> Iterator[str]:
    held, size, number = [], 0, 1
    for chunk in chunks:
        for i, piece in enumerate(chunk.split("\n")):
            if i:
                yield "".join(held) + "\n"
                held, size, number = [], 0, number + 1
            held.append(piece)
            size += len(piece)
            if size > LINE_CHARS:
                raise DataError(
                    f"{path}, line {number:,} is longer than {LINE_CHARS:,} characters. Is it "
                    f"one object a line? Cut it into lines, or leave it out."
                )
    yield "".join(held) + "\n"


def _json_lines(chunks: Iterable[str], path: Path, column: str, take: Take) -> Iterator[str]:
    for number, line in enumerate(_lines(chunks, path), 1):
        if not line.strip():
            continue
        try:
            row = parsed_json(line, f"{path}, line {number:,}", lone_surrogates=True)
        except FormatError as error:
            raise DataError(f"{error} Mend the line or drop it.") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, line {number:,} must be an object with a text column; got "
                f"{type(row).__name__}. Write one object a line."
            )
        text = take(row, column, f"{path}, line {number:,}")
        if not text.isascii() and (lone := _LONE.search(text)):
            if path not in _warned:
                _warned.add(path)
                sys.stderr.write(
                    f"warning   {path}, line {number:,}: half a surrogate pair, "
                    f"{lone.group()!r}, is no character. It is read as U+FFFD, here and wherever "
                    f"else the file has one; the other lines are read as they are.\n"
                )
            text = _LONE.sub("\ufffd", text)
        yield text


def _csv(chunks: Iterable[str], path: Path, column: str) -> Iterator[str]:
    # The limit is the module's, for the whole process; documents are longer than its default.
    csv.field_size_limit(LINE_CHARS)
    rows = csv.DictReader(_lines(chunks, path))
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise DataError(
                f"{path}, line {rows.line_num:,} is not CSV: {error}. Mend the line or drop it."
            ) from error
        if row is None:
            break
        yield _text(row, column, f"{path}, line {rows.line_num:,}")


def _text(row: dict, column: str, place: str) -> str:
    if column not in row:
        raise no_column(column, map(str, row), place)
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{place}: column `{column}` must hold text; got {type(value).__name__}. "
            f"Name another with `text_column`."
        )
    return value


def no_column(
    column: str, known: Iterable[str], place: str, setting: str = "text_column"
) -> DataError:
    """Return the error of a column that is not there.

    Args:
        column: what was looked for.
        known: what there is.
        place: file and line.
        setting: which names another.
    """
    names = list(known)
    return DataError(
        f"{place} has no column `{column}`; it has {', '.join(names) or 'none'}. "
        f"Name one with `{setting}`.{nearest(column, names)}"
    )


def _parquet(path: Path, column: str, take: Take) -> Iterator[str]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                raise no_column(column, file.schema_arrow.names, str(path))
            check_unpacked(file, path)
            # A long text may be in a file once and stand in every row: few rows at a time, and
            # each text only when it is its turn.
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=[column]):
                for value in batch.column(0):
                    text = take({column: value.as_py()}, column, str(path))
                    if len(text) > LINE_CHARS:
                        raise DataError(
                            f"{path} has a text of {len(text):,} characters; at most "
                            f"{LINE_CHARS:,} are read. Cut it, or leave it out."
                        )
                    yield text
    except SaekitError:
        raise
    except Exception as error:  # of Arrow's, of Python's, of the file system's
        raise DataError(
            f"{path} is damaged or is not Parquet: {error}. Fetch or write it again."
        ) from error
