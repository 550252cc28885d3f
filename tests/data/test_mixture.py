"""A mixture: shares of the characters, one order, no text twice, no split crossed."""

import json

import pytest

from saekit.core.errors import ConfigError
from saekit.data.base import SPLITS
from saekit.data.corpora.files import Files
from saekit.data.corpora.mixture import Mixture
from saekit.data.open import open_corpus


def part(folder, name, texts, **more):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return Files(paths=(str(path),), **more)


@pytest.fixture
def two(tmp_path):
    long = part(tmp_path, "long", [f"{i:04d} " + "x" * 495 for i in range(400)])
    short = part(tmp_path, "short", [f"{i:05d} " + "y" * 44 for i in range(4000)])
    return long, short


def chars(documents, kind):
    return sum(len(d.text) for d in documents if kind in d.source)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (1, 9), (4, 1)])
def test_shares_of_characters_hold_from_the_beginning(two, weights):
    mixed = list(Mixture(parts=two, weights=weights).documents("train"))
    share = weights[0] / sum(weights)
    for n in (len(mixed) // 10, len(mixed) // 2, len(mixed)):
        total = chars(mixed[:n], "long") + chars(mixed[:n], "short")
        assert chars(mixed[:n], "long") / total == pytest.approx(share, abs=600 / total)
    assert mixed == list(Mixture(parts=two, weights=weights).documents("train"))


def test_a_part_that_ends(two):
    parts = {"parts": two, "weights": (9, 1)}
    stopped = list(Mixture(**parts).documents("train"))
    whole = list(Mixture(**parts, when_short="go_on").documents("train"))
    assert whole[: len(stopped)] == stopped
    every = [d for p in two for d in p.documents("train")]
    assert sorted(whole) == sorted(every)


def test_a_text_of_both_comes_once_and_splits_share_nothing(tmp_path):
    texts = [f"text number {i}" for i in range(300)]
    one, other = part(tmp_path, "one", texts), part(tmp_path, "two", texts[100:])
    mixed = Mixture(parts=(one, other), weights=(1, 1), when_short="go_on")
    parts = [[d.text for d in mixed.documents(s)] for s in SPLITS]
    assert sorted(sum(parts, [])) == sorted(texts) and all(parts)


def test_what_cannot_be_mixed_is_refused(tmp_path, two):
    good = Mixture(parts=two, weights=(1, 1))
    for changes, said in (
        ({"weights": (1,)}, "weight for each"),
        ({"weights": (1, 0)}, "above 0"),
        ({"weights": (1, float("nan"))}, "above 0"),
        ({"parts": (good, two[0])}, "mixture"),
        (
            {"parts": (two[0], part(tmp_path, "c", ["a"], test_share=0.2))},
            "0.1 and 0.1; 0.1 and 0.2",
        ),
        ({"parts": (two[0], part(tmp_path, "d", ["a"], validation_share=0.0))}, "validation_share"),
        ({"parts": (), "weights": ()}, "weight for each"),
    ):
        with pytest.raises(ConfigError, match=said):
            Mixture(**({"parts": two, "weights": (1, 1)} | changes))


def test_a_mixture_on_the_command_line(two):
    names = [p.paths[0] for p in two]
    found = open_corpus(f"0.7*{names[0]} + 0.3 * {names[1]}")
    assert found == Mixture(parts=two, weights=(0.7, 0.3))
    with pytest.raises(ConfigError, match="0.7"):
        open_corpus(f"0.7*{names[0]} + {names[1]}")
