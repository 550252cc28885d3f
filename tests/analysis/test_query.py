"""The query language: what it selects, how it sorts, and how it says what it does not read."""

import time

import numpy as np
import pytest

from saekit.analysis.query import MOST_CHARACTERS, parse
from saekit.core.errors import ConfigError

NAN = np.nan
COLUMNS = {
    "latent": np.arange(6, dtype=np.float64),
    "density": np.array([0.1, 0.2, 0.0, 0.3, NAN, 0.2]),
    "max": np.array([5.0, 3.0, NAN, 9.0, 1.0, 4.0]),
    "token": [" the", "The", None, 'a "b"', "\n", " cat"],
    "own.stable": np.array([0.9, 0.95, 0.1, NAN, 0.5, 1.0]),
}


def found(text, columns=COLUMNS):
    return parse(text, columns).matches(columns, 6).tolist()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", [0, 1, 2, 3, 4, 5]),
        ("density<.2", [0, 2]),
        ("density <= 0.2", [0, 1, 2, 5]),
        ("density > 2e-1", [3]),
        ("density=0.2", [1, 5]),
        ("density != 0.2", [0, 2, 3]),  # a latent without a value is in no comparison
        ("not density != 0.2", [1, 4, 5]),
        ("max >= -1", [0, 1, 3, 4, 5]),
        ("max >= - 1", [0, 1, 3, 4, 5]),
        ("missing max", [2]),
        ("missing token or missing density", [2, 4]),
        ("own.stable>=.9 and density<0.2", [0]),
        ("density<.15 or density>.25 and max>6", [0, 2, 3]),
        ("(density<.15 or density>.25) and max>6", [3]),
        ('token has "THE"', [0, 1]),
        ("token = ' the'", [0]),
        ('token != " the"', [1, 3, 4, 5]),
        (r'token has "\"b\""', [3]),
        (r'token = "\n"', [4]),
        ("sort -max", [3, 0, 5, 1, 4, 2]),
        ("sort max", [4, 1, 5, 0, 3, 2]),
        ("sort -density, max", [3, 1, 5, 0, 2, 4]),
        ("sort token", [4, 5, 0, 1, 3, 2]),
        ("sort -token", [3, 1, 0, 5, 4, 2]),
        ("`own.stable` > .94", [1, 5]),
        ("limit 2 sort -latent", [5, 4, 3, 2, 1, 0]),
        ("not not not (max > 2)", [2, 4]),
    ],
)
def test_what_is_selected(text, wanted):
    assert found(text) == wanted


def test_the_limit_and_the_names_are_kept():
    query = parse("density<1 and max>1 sort -max limit 20", COLUMNS)
    assert query.limit == 20 and query.names == ("density", "max")
    assert parse("max>1", COLUMNS).limit is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("densty>1", ["`densty` (character 1)", "Did you mean `density`"]),
        ("density>'a'", ["character 9", "expected a number"]),
        ("token>'a'", ["`>` (character 6)", "has"]),
        ("token=3", ["text in quotes"]),
        ("density has 'a'", ["holds numbers"]),
        ("density", ["its end", "expected one of"]),
        ("density>1 max>2", ["`max` (character 11)", "expected and, or"]),
        ("(density>1", ["its end", "expected )"]),
        ("density>1)", ["`)`"]),
        ("sort", ["name of a column"]),
        ("sort max,", ["name of a column"]),
        ("sort max sort max", ["once"]),
        ("limit -3", ["whole number"]),
        ("limit 2.5", ["whole number"]),
        ("limit 1e3", ["whole number"]),
        ("max ~ 3", ["`~` (character 5)"]),
        ("max > 3x", ["character 7"]),
        ("token has 'a", ["character 11"]),
        ("and", ["name of a column"]),
        ("(" * 60 + "max>1" + ")" * 60, ["deep"]),
        ("not " * 60 + "max>1", ["deep"]),
        ("max>1 " + " " * MOST_CHARACTERS, ["characters at most"]),
        ("max > \x00", ["character 7"]),
    ],
)
def test_the_place_of_an_error_is_named(text, words):
    with pytest.raises(ConfigError) as error:
        parse(text, COLUMNS)
    for word in words:
        assert word in str(error.value)


def test_random_words_are_read_or_refused():
    chance = np.random.default_rng(0)
    words = ["density", "max", "<", ">=", "and", "or", "not", "(", ")", "sort", "-", "limit", "3"]
    words += ["'a'", "token", "has", "missing", ",", "\\", '"', "`", "é", "1e999", "."]
    read = 0
    for _ in range(3000):
        text = " ".join(chance.choice(words, size=chance.integers(1, 9)))
        try:
            found(text)
            read += 1
        except ConfigError:
            pass
    assert read >= 5


def test_a_large_index_is_quick():
    n = 131_072
    chance = np.random.default_rng(0)
    columns = {f"c{i}": chance.random(n) for i in range(10)}
    columns["token"] = [f" word{i % 999}" for i in range(n)]
    text = " and ".join(f"c{i}>.01" for i in range(10)) + " and token has 'WORD1' sort -c3, c4"
    best = min(_seconds(text, columns, n) for _ in range(3))
    assert best < 2.0  # a fifth of a second on a machine of its own


def _seconds(text, columns, n):
    began = time.perf_counter()
    parse(text, columns).matches(columns, n)
    return time.perf_counter() - began
