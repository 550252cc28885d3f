"""Rating by keys: blind, kept as it goes, exported and imported, and compared."""

import json

import pytest

from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import write_json
from saekit.studies.explain import rating, study
from saekit.studies.explain.labels import Label
from saekit.studies.explain.rating import agreement, by_maker, items, merged, rate, read_ratings
from saekit.studies.explain.reporting import report
from saekit.studies.explain.scoring import score
from saekit.studies.explain.study import Explained, Made
from tests.studies.explain.made import case, embed
from tests.studies.explain.oracle import Oracle
from tests.studies.explain.test_scorers import LETTERS


@pytest.fixture
def explained(tmp_path):
    cases = {i: case(i, letters) for i, letters in LETTERS.items()}
    made = {i: Made([Label(f"letters {s}", "usable")], "") for i, s in LETTERS.items()}
    write_json(tmp_path / study.SETTINGS, {"explain": "made by hand"})
    record = {"cases": {str(i): c.record() for i, c in cases.items()}, "left_out": {}}
    write_json(tmp_path / study.CASES, record)
    labels = {
        str(i): {"tried": [one._asdict() for one in m.tried], "tokens": ""} for i, m in made.items()
    }
    write_json(tmp_path / study.LABELS, labels)
    return Explained(tmp_path, cases, made, {})


def pressing(keys):
    left = iter(keys)
    return lambda: next(left)


def test_what_is_shown_says_nothing_of_who_made_it(explained):
    listed = items(explained)
    assert {item.maker for item in listed} == {"label", "tokens", "random"}
    assert len(listed) == 3 * len(LETTERS) and [i.latent for i in listed] != sorted(
        i.latent for i in listed
    )
    seen = []
    rate(
        listed,
        explained.folder / "r.json",
        "ana",
        "labels",
        key=pressing("s" * 15),
        show=seen.append,
    )
    text = "\n".join(seen)
    assert len(seen) == 15
    for word in ("random", "tokens", "label", "latent", *(i.key for i in listed)):
        assert word not in text.lower()


def test_verdicts_are_kept_as_they_come_and_asked_for_once(explained):
    listed, path, seen = items(explained), explained.folder / "r.json", []
    how = {"show": seen.append}
    rate(listed, path, "ana", "labels", key=pressing("3x1q"), **how)
    assert list(read_ratings(path).verdicts.values()) == ["right", "wrong"]
    assert any("Press 1, 2, 3, s, b, q" in one for one in seen)
    first = [i.key for i in listed[:2]]
    assert list(read_ratings(path).verdicts) == first
    done = rate(listed, path, "ana", "labels", key=pressing("2" * 13), **how)
    assert len(done.verdicts) == 15 and set(first) <= set(done.verdicts)


def test_back_takes_the_last_verdict_away_and_asks_again(explained):
    listed, path = items(explained), explained.folder / "r.json"
    done = rate(listed, path, "a", "labels", key=pressing("3b1q"), show=lambda _: None)
    assert done.verdicts == {listed[0].key: "wrong"} == read_ratings(path).verdicts


def test_export_and_import_give_the_same_verdicts(explained, tmp_path):
    listed, path = items(explained), explained.folder / "r.json"
    done = rate(listed, path, "ana", "labels", key=pressing("1231q"), show=lambda _: None)
    exported = tmp_path / "out.json"
    write_json(exported, done.record(listed))
    again = merged(tmp_path / "elsewhere.json", "ana", read_ratings(exported), listed)
    assert again == done and read_ratings(tmp_path / "elsewhere.json").verdicts == done.verdicts
    assert {v["maker"] for v in json.loads(exported.read_text())["verdicts"]} <= {
        "label",
        "tokens",
        "random",
    }
    with pytest.raises(ConfigError, match="4 of 4 verdicts are of things"):
        merged(path, "ana", read_ratings(exported), items(explained, "texts"))


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"format": "saekit.ratings", "version": 1, "task": "dance"},
        {"format": "saekit.ratings", "version": 1, "task": "labels"},
        {"format": "saekit.ratings", "version": 1, "task": "labels", "verdicts": [3]},
        {
            "format": "saekit.ratings",
            "version": 1,
            "task": "labels",
            "verdicts": [{"key": "a", "verdict": "maybe"}],
        },
    ],
)
def test_a_file_of_something_else_is_refused(raw, tmp_path):
    path = tmp_path / "x.json"
    write_json(path, raw)
    with pytest.raises(FormatError):
        read_ratings(path)


@pytest.mark.parametrize("name", ["", "../x", "a b", "a/b"])
def test_a_rater_is_named_by_a_plain_word(name, tmp_path):
    with pytest.raises(ConfigError, match="letters, digits"):
        rating.place_of(tmp_path, name, "labels")


def test_people_the_judge_and_the_truth_are_compared(explained):
    scored = score(explained, Oracle(), embed=embed, shown=False)
    listed = items(explained, "texts")
    truths = "".join(item.truth[0] for item in listed)
    half = [i for i, item in enumerate(listed) if item.truth == "yes"][::2]
    other = "".join("n" if i in half else t for i, t in enumerate(truths))
    for name, keys in (("ana", truths), ("bo", other)):
        path = rating.place_of(explained.folder, name, "texts")
        rate(listed, path, name, "texts", key=pressing(keys), show=lambda _: None)
    ana, bo = (read_ratings(rating.place_of(explained.folder, n, "texts")) for n in ("ana", "bo"))
    judge = rating.judge_as_rater(listed, scored.answers, "judge")
    truth = rating.truth_as_rater(listed)
    assert agreement(ana, truth).value == agreement(ana, judge).value == 1.0
    assert 0 < agreement(ana, bo).value < 1.0
    with pytest.raises(ConfigError, match="raters of one task"):
        agreement(ana, rating.Ratings("x", "labels", {}))
    found = report(explained.folder)
    assert any(line.startswith("ana and bo on texts: kappa 0.") for line in found.lines)
    pairs = {tuple(one["raters"]) for one in found.record["agreement"]}
    assert ("ana", "judge oracle") in pairs and ("ana", "the model") in pairs
    assert found.record["scores"]["oracle"]["detection"] == 1.0


def test_verdicts_are_counted_by_who_made_the_explanation(explained):
    listed = items(explained)
    right = {"label": "3", "tokens": "3", "random": "1"}
    keys = "".join(right[item.maker] for item in listed)
    path = explained.folder / "r.json"
    done = rate(listed, path, "a", "labels", key=pressing(keys), show=lambda _: None)
    counts = by_maker(done, listed)
    assert counts["label"] == {"wrong": 0, "partly right": 0, "right": 5}
    assert counts["random"] == {"wrong": 5, "partly right": 0, "right": 0}


def test_text_of_the_corpus_cannot_command_the_terminal(explained):
    one = explained.cases[0]
    bad = one.tests[0]._replace(pieces=["\x1b[2J", "z"], acts=[0.0, 2.0])
    explained.cases[0] = one._replace(tests=[bad, *one.tests[1:]])
    seen = []
    listed = [i for i in items(explained) if i.latent == 0]
    rate(listed, explained.folder / "r.json", "a", "labels", key=pressing("sss"), show=seen.append)
    assert "\x1b" not in "".join(seen) and "\\x1b" in "".join(seen)
