"""Scorers on latents whose meaning is known, by judges whose answers are."""

import pytest

from saekit.core.registry import Registry
from saekit.generators.scripted import Scripted
from saekit.studies.explain import scoring, study
from saekit.studies.explain.labels import Label, label_of, request
from saekit.studies.explain.scorers.base import Judging, registry
from saekit.studies.explain.scoring import score
from saekit.studies.explain.statistics import measured
from saekit.studies.explain.study import Explained, Made
from tests.studies.explain.made import case, embed
from tests.studies.explain.oracle import Oracle

CASE = case(0, "zq", n=12)
RIGHT, HALF, WRONG = "letters zq", "letters z", "letters x"
JUDGES = {"small": Oracle(), "several": Oracle(small=False), "chooses": Oracle(chooses_=True)}
ALL = {0: RIGHT, 1: "letters x", 2: "letters k", 3: "letters j", 4: "letters v"}


def answers(name, judge, label, one=CASE, **how):
    scorer = registry.get(name)()
    how = Judging(judge, embed=embed, labels=how.pop("labels", ALL), **how)
    if not scorer.asks:
        return scorer.kind, scorer.directly(one, label, how)
    asked = scorer.questions(one, label, how)
    replies = judge.replies([q.request for q in asked])
    return scorer.kind, [
        a for q, reply in zip(asked, replies, strict=True) for a in scorer.read(q, reply)
    ]


def mean(name, judge, label, graded):
    """The mean over latents that are alike but in their texts, as one latent has few."""
    values = []
    for seed in range(6):
        kind, said = answers(name, judge, label, case(0, "zq", n=12, seed=seed))
        values.append(measured(kind, said).main(kind, graded))
    return sum(values) / len(values)


ORDERED = ["detection", "fuzzing", "intruder", "embedding", "simulation"]


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("name", ORDERED)
def test_right_half_right_and_wrong_come_out_in_that_order(name, judge):
    if name == "simulation" and judge != "chooses":
        pytest.skip("needs log-probabilities")
    graded = judge == "chooses" or name == "embedding"
    right, half, wrong = (mean(name, JUDGES[judge], x, graded) for x in (RIGHT, HALF, WRONG))
    assert right > half + 0.1 and half > wrong + 0.1
    if name != "simulation":  # its answers are 0.9 sure
        assert right == 1.0
    chance = {"intruder": 1 / 4, "simulation": 0.0}.get(name, 0.5)
    assert wrong == pytest.approx(chance, abs=0.13)


@pytest.mark.parametrize("with_negatives", [True, False])
@pytest.mark.parametrize("small", [True, False])
def test_lines_come_out_in_order_whether_the_explainer_saw_negatives_or_not(small, with_negatives):
    """From the question to the scores: three explainers, each sure of another line."""
    off = "- " + CASE.negatives[0].text[:6].strip()
    means = []
    for label in (RIGHT, HALF, WRONG):
        explainer = Oracle(small=small, explains=(("", label),))
        asked = request(
            explainer, CASE, with_negatives=with_negatives, most_words=25, seed=0, tried=0
        )
        assert (off in asked.messages[-1][1]) == with_negatives
        (reply,) = explainer.replies([asked])
        found = label_of(reply.text, 25)
        assert found == Label(label, "usable")
        means.append([mean(name, JUDGES["chooses"], found.text, True) for name in ORDERED])
    right, half, wrong = means
    assert all(a > b + 0.1 > c + 0.2 for a, b, c in zip(right, half, wrong, strict=True))


def test_steering_is_named_by_a_right_label_and_by_no_other():
    def share(label, letters="zq", variant="label"):
        kind, said = answers(
            "steering", Oracle(), label, case(0, letters), labels=ALL | {0: label}, variant=variant
        )
        return measured(kind, said).accuracy

    assert share(RIGHT) == 1.0 and share(WRONG, "zq") < 1.0
    # What half of it makes the model write still fits no other explanation better.
    assert share(HALF) == 1.0
    assert share(RIGHT, variant="unsteered") < 1.0


@pytest.mark.parametrize("judge", JUDGES)
def test_steering_puts_right_half_right_and_random_in_that_order(judge):
    """Turned up, the latent makes the model write one of its letters, so half a label fits half."""
    written = tuple(f"I think that {letter * 4}" for letter in "zqzqzq")

    def share(label):
        found = []
        for seed in range(6):
            one = case(0, "zq", seed=seed)._replace(steered=written)
            found += answers(
                "steering", JUDGES[judge], label, one, labels=ALL | {0: label}, seed=seed
            )[1]
        return measured("choice", found).accuracy

    right, half, wrong = map(share, (RIGHT, HALF, WRONG))
    assert right == 1.0 and right > half + 0.1 and half > wrong + 0.1
    # Of the texts half are of the letter that half a label names; of the others it is a guess.
    assert 0.45 < half < 0.8 and wrong < 0.4


@pytest.mark.parametrize("name", ["detection", "fuzzing", "intruder", "steering"])
@pytest.mark.parametrize("small", [True, False])
def test_nonsense_is_counted_and_is_chance(name, small):
    kind, said = answers(name, Oracle(small=small, noise="banana!"), RIGHT)
    found = measured(kind, said)
    assert found.invalid == 1.0 and found.n == len(said) > 1
    assert found.accuracy == (0.25 if kind == "choice" else 0.5)


@pytest.mark.parametrize(
    ("reply", "said"),
    [("Yes.", 1.0), ("no, it does not", 0.0), ("I say yes", None), ("", None), ("Yesterday", None)],
)
def test_what_is_an_answer(reply, said):
    judge = Scripted(answers=(("", reply),))
    scorer = registry.get("detection")(each=1)
    asked = scorer.questions(CASE, RIGHT, Judging(judge))
    found = [
        scorer.read(q, r)
        for q, r in zip(asked, judge.replies([q.request for q in asked]), strict=True)
    ]
    assert {a.said for (a,) in found} == {said}


def test_a_line_that_says_both_or_is_lacking_is_no_answer():
    judge = Scripted(answers=(("", "1: yes\n1: no\n2) No\n4 - yes\n9: yes"),))
    scorer = registry.get("detection")(each=5)
    question = scorer.questions(CASE, RIGHT, Judging(judge))[0]
    (reply,) = judge.replies([question.request])
    assert [a.said for a in scorer.read(question, reply)] == [None, 0.0, None, 1.0, None]


@pytest.mark.parametrize(
    ("reply", "said"), [("3", 2.0), ("Text 2.", 1.0), ("0", None), ("9", None), ("none", None)]
)
def test_which_choice_was_made(reply, said):
    judge = Scripted(answers=(("", reply),))
    scorer = registry.get("intruder")()
    question = scorer.questions(CASE, RIGHT, Judging(judge))[0]
    (got,) = judge.replies([question.request])
    assert [a.said for a in scorer.read(question, got)] == [said]


def test_fuzzing_marks_as_many_wrong_words_as_right_ones_in_the_same_texts():
    scorer = registry.get("fuzzing")()
    asked = scorer.questions(CASE, RIGHT, Judging(Oracle()))
    plain = {}
    for q in asked:
        text = q.about[0]
        bare = text.replace("{{", "").replace("}}", "")
        marked = sum(len(p.split("}}")[0]) for p in text.split("{{")[1:])
        plain.setdefault(bare, {})[q.truths[0]] = marked
    assert len(plain) == len(CASE.on)
    assert all(set(found) == {0.0, 1.0} and found[0.0] == found[1.0] for found in plain.values())


def test_asked_again_a_judge_sees_the_same_things_in_another_order():
    for name in ("detection", "fuzzing", "intruder", "steering"):
        scorer = registry.get(name)()
        first, second = (
            scorer.questions(CASE, RIGHT, Judging(Oracle(), labels=ALL, again=again))
            for again in (False, True)
        )
        about = [sorted(a for q in asked for a in q.about) for asked in (first, second)]
        assert about[0] == about[1]
        assert {q.request for q in first}.isdisjoint({q.request for q in second})


def test_scorers_are_one_file_each():
    assert isinstance(registry, Registry)
    assert registry.names() == sorted(
        ["detection", "embedding", "fuzzing", "intruder", "simulation", "steering"]
    )
    assert all(registry.get(n).__module__.endswith(f".scorers.{n}") for n in registry.names())


# The whole of scoring, on a folder of made cases.


LETTERS = {0: "zq", 1: "x", 2: "k", 3: "j", 4: "v"}


@pytest.fixture
def explained(tmp_path):
    from saekit.core.files import write_json

    cases = {i: case(i, letters) for i, letters in LETTERS.items()}
    made = {i: Made([Label(f"letters {s}", "usable")], "") for i, s in LETTERS.items()}
    write_json(tmp_path / study.SETTINGS, {"explain": "made by hand"})
    return Explained(tmp_path, cases, made, {})


def test_scores_stand_next_to_their_controls(explained):
    found = score(explained, Oracle(chooses_=True), embed=embed, shown=False)
    scores = found.result.scores
    for name in ("detection", "fuzzing", "embedding"):
        assert scores[name].value == 1.0 and scores[f"{name}_random"].value < 0.6
        assert scores[f"{name}_shuffled"].value == pytest.approx(0.5, abs=0.03)
        assert scores[f"{name}_above_random"].low > 0.3
        assert scores[f"{name}_invalid"].value == 0.0
    assert scores["intruder"].value == scores["steering"].value == 1.0
    assert scores["steering_unsteered"].value < 0.6
    assert scores["intruder_shuffled"].value == pytest.approx(0.25, abs=0.1)
    assert scores["detection_again"].value == 1.0  # the oracle never changes its mind
    row = found.latents.rows()[0]
    assert row["latent"] == 0 and row["explanation"] == "letters zq"
    assert row["detection_low"] < row["detection_accuracy"] == 1.0
    assert '"z"' in row["without_model"] and '"q"' in row["without_model"]
    assert list(found.columns().columns)[:3] == ["latent", "explanation", "detection"]


def test_nonsense_is_reported_as_such(explained):
    found = score(explained, Oracle(noise="hm"), embed=embed, shown=False)
    scores = found.result.scores
    for name, chance in {"detection": 0.5, "fuzzing": 0.5, "intruder": 0.25}.items():
        assert scores[name].value == chance == scores[f"{name}_random"].value
        assert scores[f"{name}_invalid"].value == 1.0


def test_scoring_goes_on_where_it_stopped_and_asks_for_nothing_twice(explained):
    import json

    from saekit.core.errors import ConfigError
    from saekit.generators.limits import Limits

    judge = Oracle()
    cut = score(explained, judge, "cut", embed=embed, shown=False, limits=Limits(requests=40))
    assert cut.stopped == "budget" and cut.result.details["requests_sent"] == 40
    again = score(explained, judge, "cut", embed=embed, shown=False)
    whole = score(explained, judge, "whole", embed=embed, shown=False)
    assert again.latents == whole.latents and not again.stopped
    assert again.result.details["requests_known"] == 40
    lines = (cut.folder / "journal.jsonl").read_text().splitlines()
    keys = [json.loads(line)["key"] for line in lines]
    assert len(keys) == len(set(keys)) == whole.result.details["requests_sent"]
    assert scoring.answers_of(cut.folder) == whole.answers
    with pytest.raises(ConfigError, match="another seed"):
        score(explained, judge, "cut", embed=embed, shown=False, seed=1)
    with pytest.raises(ConfigError, match="another judge"):
        score(explained, Oracle(small=False), "cut", embed=embed, shown=False)


def test_other_labels_are_scored_on_the_same_texts(explained):
    from saekit.core.errors import DataError

    only = [registry.get("detection")()]
    how = {"scorers": only, "shown": False, "again": False}
    good = score(explained, Oracle(), "a", **how)
    bad = score(explained, Oracle(), "b", labels={0: "letters x", 1: "letters k"}, **how)
    assert good.result.scores["detection"].value == 1.0
    assert bad.result.scores["detection"].value == 0.5 and len(bad.latents) == 2
    with pytest.raises(DataError, match="Latents 77 have no texts"):
        score(explained, Oracle(), "c", labels={77: "x"}, **how)


def test_simulation_is_refused_of_a_judge_without_log_probabilities(explained):
    from saekit.core.errors import ConfigError

    with pytest.raises(ConfigError, match="needs log-probabilities"):
        score(explained, Oracle(), scorers=[registry.get("simulation")()], shown=False)
