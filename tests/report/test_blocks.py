"""Blocks: every kind is JSON of its shape, and what does not fit is refused."""

import json
import math

import numpy as np
import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.core.result import Result, Score, Table
from saekit.report import blocks

NASTY = "</script><img onerror=1>\x00\ud800 日本 \u202e"


def made() -> dict[str, blocks.Block]:
    table = Table(columns={"latent": [1, 2], "H": [0.5, math.nan]}, units={"H": "bits"})
    return {
        "facts": blocks.facts([blocks.fact("H", 0.5, unit="bits", low=0.4, high=0.6)]),
        "text": blocks.text(NASTY, title=NASTY),
        "label": blocks.label(NASTY, by="saekit explain"),
        "missing": blocks.missing("None yet.", "saekit locality events RUN"),
        "table": blocks.table(table, links={"latent": "latent"}),
        "lines": blocks.lines(
            [blocks.series("a", [1, 2], [0.1, math.inf], [0.0, None], [0.2, None])],
            x={"label": "x", "log": True},
            y={"label": "y"},
        ),
        "bars": blocks.bars(["a", "b"], [1, 2.5], unit="share"),
        "dots": blocks.dots(
            ["a", NASTY],
            [0.5, None],
            [(0.4, 0.6), (None, None)],
            unit="share",
            marks={"untrained": [0.1, math.nan], "never": [None, None]},
        ),
        "histogram": blocks.histogram([0, 1, 2], [3, 4], unit="bits", log=True),
        "scatter": blocks.scatter(
            [1.0, math.nan], [2.0, 3.0], [7, 8], axes=({"label": "x"}, {"label": "y"})
        ),
        "heatmap": blocks.heatmap(["a"], ["b", "c"], [[1.0], [-2.0]], unit="cosine", signed=True),
        "strip": blocks.strip(
            ["the", " cat", "the"], [blocks.channel("J", [0.1, 0.2], unit="share")], peak=2
        ),
        "image": blocks.image("data:image/png;base64,AAAA", "a dot"),
        "texts": blocks.texts([(NASTY, "hit", "0.5"), ("b", None, "")]),
    }


def test_there_is_a_maker_of_every_kind_and_each_is_json():
    found = made()
    assert set(found) == set(blocks.KINDS)
    for kind, block in found.items():
        assert block["kind"] == kind
        # NaN and half of a pair of surrogates are words that JSON, or UTF-8, has not.
        again = json.loads(json.dumps(block, allow_nan=False).encode("utf-8"))
        assert again == block


def test_numbers_that_are_not_finite_are_null():
    found = made()
    assert found["table"]["rows"] == [[1, 0.5], [2, None]]
    assert found["lines"]["series"][0]["y"] == [0.1, None]
    assert found["lines"]["series"][0]["low"] == [0.0, None]
    # Marks that no row has are left out.
    assert found["dots"]["marks"] == [{"name": "untrained", "values": [0.1, None]}]
    assert found["scatter"]["points"] == [[1.0, 2.0, 7]]


def test_what_a_block_says_of_itself():
    block = blocks.text("a", title="T", about="", source="F; saekit eval")
    assert block == {"kind": "text", "title": "T", "source": "F; saekit eval", "text": "a"}
    with pytest.raises(ConfigError, match="part of the head of a block `titel`"):
        blocks.text("a", titel="T")  # pyright: ignore[reportCallIssue]


def test_values_of_numpy_and_torch_become_plain():
    found = blocks.bars(["a", "b"], [np.float32(0.5), torch.tensor(2)], unit="u")
    assert found["values"] == [0.5, 2]
    with pytest.raises(ConfigError, match="got object"):
        blocks.facts([["a", object()]])


def test_a_strip_names_every_string_once():
    found = made()["strip"]
    assert (found["strings"], found["tokens"], found["peak"]) == (["the", " cat"], [0, 1, 0], 2)
    assert found["channels"] == [{"name": "J", "unit": "share", "at": [0, 1], "values": [0.1, 0.2]}]


def test_an_interval_that_no_point_has_is_left_out():
    assert set(blocks.series("a", [1], [2], [None], [None])) == {"name", "x", "y"}


def test_a_long_table_says_how_much_of_it_is_shown():
    found = blocks.table(Table(columns={"a": list(range(50))}), most=10, about="Rows.")
    assert len(found["rows"]) == 10
    assert found["about"] == "Rows. The first 10 of 50 rows."


def test_columns_get_their_names_units_and_words():
    table = Table(columns={"H_pos": [1.0], "n": [2]}, units={"H_pos": "bits"})
    found = blocks.table(table, names={"H_pos": "entropy"}, said={"H_pos": "of J"})
    assert found["columns"] == [{"name": "entropy", "unit": "bits", "about": "of J"}]
    assert found["rows"] == [[1.0]]


def test_scores_keep_their_intervals_and_reasons():
    good = Score(value=0.5, low=0.4, high=0.6, n=9, unit="share", better="higher", label="found")
    none = Score(value=None, n=0, unit="share", better="higher", reason="no latent fired")
    result = Result(name="r", version=1, config={}, scores={"good": good, "none": none})
    found = blocks.scores(result)["facts"]
    assert found[0] == ["found", 0.5, {"unit": "share", "low": 0.4, "high": 0.6}]
    assert found[1] == ["none", None, {"unit": "share", "about": "no latent fired"}]


def test_a_histogram_of_numbers_counts_each_of_them_once():
    values = [0.0, 0.1, 0.9, 1.0, math.nan, None]
    found = blocks.histogram_of(values, unit="u", bins=2)
    assert (found["edges"], found["counts"]) == ([0.0, 0.5, 1.0], [2, 2])
    assert sum(blocks.histogram_of([3.0, 3.0], unit="u")["counts"]) == 2
    assert sum(blocks.histogram_of([1e30, 1e30], unit="u")["counts"]) == 2
    assert sum(blocks.histogram_of([], unit="u")["counts"]) == 0


WRONG = {
    "lists of two lengths": lambda: blocks.bars(["a"], [1, 2], unit="u"),
    "a line": lambda: blocks.series("a", [1, 2], [1]),
    "half an interval": lambda: blocks.series("a", [1], [1], low=[0]),
    "edges": lambda: blocks.histogram([0, 1], [1, 2], unit="u"),
    "falling edges": lambda: blocks.histogram([0, 2, 1], [1, 2], unit="u"),
    "a ragged heatmap": lambda: blocks.heatmap(["a"], ["b"], [[1, 2]], unit="u"),
    "a place outside": lambda: blocks.strip(["a"], [blocks.channel("J", [1], unit="u", at=[1])]),
    "a peak outside": lambda: blocks.strip(["a"], [], peak=3),
    "an address": lambda: blocks.image("https://example.com/a.png", "a"),
    "svg, which may hold a script": lambda: blocks.image("data:image/svg+xml;base64,AA", "a"),
    "a mark": lambda: blocks.texts([("a", "maybe", "")]),
    "a link": lambda: blocks.table(Table(columns={"a": [1]}), links={"a": "page"}),
    "a column": lambda: blocks.table(Table(columns={"a": [1]}), names={"b": "b"}),
    "a fact": lambda: blocks.facts([["a"]]),
    "too much": lambda: blocks.bars(["a"] * 400_000, [1] * 400_000, unit="u"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused(what):
    with pytest.raises(ConfigError):
        WRONG[what]()
