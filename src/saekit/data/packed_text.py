"""The texts that come inside the `sae-probes` wheel: where they are, and how each is cleaned."""

import csv
import html
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from saekit.core.errors import FormatError
from saekit.data.readers import decompressed

_FOLDER = "sae_probes/data/cleaned_data/"
_BREAK = re.compile(r"<br\s*/?>")
_BLANKS = re.compile(r"[ \t]{2,}")
_BLANK_LINES = re.compile(r"\n\s*\n\s*")


class TextSet(NamedTuple):
    """Texts of one kind: which tables of the wheel hold them, and what is done to them."""

    tables: tuple[str, ...]
    about: str
    clean: Callable[[str], str]
    positives: bool = False  # only rows of class 1: the others are of another kind
    most_docs: int | None = None  # the first so many, in an order that the content fixes


def _prose(text: str) -> str:
    text = _BLANKS.sub(" ", text.replace("\xa0", " ").replace("\r\n", "\n"))
    return _BLANK_LINES.sub("\n\n", text).strip()


def _passage(text: str) -> str:
    # The last two lines are a question about the passage and its four answers.
    return _prose(text.rsplit("\n", 2)[0])


def _yelp(text: str) -> str:
    # Backslash escapes came through as two characters.
    return _prose(text.replace("\\n", "\n").replace('\\"', '"').replace('""', '"'))


def _amazon(text: str) -> str:
    title, _, review = text.removeprefix("Title: ").partition("\nReview: ")
    return _prose(html.unescape(_BREAK.sub("\n", f"{title}\n{review}")))


def _code(text: str) -> str:
    # A file begins in the middle of a line.
    return text.replace("\r\n", "\n").partition("\n")[2].strip("\n")


_WIKIDATA = (
    "56_wikidatasex_or_gender",
    "57_wikidatais_alive",
    "58_wikidatapolitical_party",
    "59_wikidata_occupation_isjournalist",
    "60_wikidata_occupation_isathlete",
    "61_wikidata_occupation_isactor",
    "62_wikidata_occupation_ispolitician",
    "63_wikidata_occupation_issinger",
    "64_wikidata_occupation_isresearcher",
)

SETS: dict[str, TextSet] = {
    "news": TextSet(("100_news_fake",), "news agency reports and made-up news", _prose),
    "web": TextSet(_WIKIDATA, "excerpts of web pages, books and articles on people", _prose),
    "yelp": TextSet(("111_yelp_data",), "reviews of restaurants and shops", _yelp),
    "amazon": TextSet(("157_amazon_5star",), "reviews of products", _amazon),
    "abstracts": TextSet(("101_disease_class",), "abstracts of medical papers", _prose),
    "passages": TextSet(("45_context_ans",), "passages of stories, blogs and news", _passage),
    "python": TextSet(("159_code_Python",), "Python sources", _code, True, 800),
    "c": TextSet(("158_code_C",), "C sources", _code, True, 800),
    "essays": TextSet(("94_ai_gen",), "essays, most without punctuation", _prose),
}


def read_set(wheel: Path, name: str) -> Iterator[str]:
    """Yield the cleaned texts of a set, in the wheel's order, duplicates included.

    Raises:
        FormatError: the wheel lacks a table of the set, or the table lacks a column.
        MissingExtraError: `zstandard` is not installed.
    """
    texts = SETS[name]
    for table in texts.tables:
        for row in table_rows(wheel, table):
            if not texts.positives or row["target"] == "1":
                yield texts.clean(row["prompt"])


def table_rows(wheel: Path, table: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a table of the wheel: ``prompt``, a text, and ``target``, its class.

    Raises:
        FormatError: the wheel lacks the table.
        MissingExtraError: `zstandard` is not installed.
    """
    with zipfile.ZipFile(wheel) as archive:
        try:
            with archive.open(f"{_FOLDER}{table}.csv.zst") as file:
                plain = io.BytesIO(b"".join(decompressed([file.read()], table)))
        except KeyError as error:
            raise FormatError(f"{wheel} has no table {table}; is it another wheel?") from error
    yield from csv.DictReader(io.TextIOWrapper(plain, encoding="utf-8", newline=""))
