"""What every scorer of explanations keeps: a value, documented, an answer for each truth."""

import dataclasses
import inspect
import json

import pytest

from saekit.core.errors import ConfigError
from saekit.generators.base import Reply
from saekit.studies.explain.scorers.base import Judging, Scorer, registry
from saekit.studies.explain.statistics import measured
from tests.studies.explain.made import case, embed
from tests.studies.explain.oracle import Oracle

CASE, LABEL = case(0, "zq"), "letters zq"
HOW = Judging(Oracle(chooses_=True), embed=embed, labels={0: LABEL, 1: "x", 2: "k", 3: "j", 4: "v"})


@pytest.fixture(params=registry.names())
def scorer(request):
    return registry.get(request.param)()


def test_it_is_a_value(scorer):
    raw = json.loads(json.dumps(scorer.to_dict()))
    assert Scorer.from_dict(raw) == scorer
    with pytest.raises(ConfigError):
        Scorer.from_dict(raw | {"no_such_field": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        scorer.name = "x"


def test_it_is_documented(scorer):
    text = inspect.getdoc(type(scorer)) or ""
    assert text and text.partition("\n")[0].endswith(".") and scorer.title
    for field in dataclasses.fields(scorer):
        assert f"\n    {field.name}: " in text


def test_it_asks_the_same_again_by_the_same_seed_and_something_else_when_asked_twice(scorer):
    if not scorer.asks:
        assert scorer.directly(CASE, LABEL, HOW) == scorer.directly(CASE, LABEL, HOW)
        return
    first, second = (scorer.questions(CASE, LABEL, HOW) for _ in range(2))
    assert first == second and first
    twice = scorer.questions(CASE, LABEL, dataclasses.replace(HOW, again=True))
    assert {q.request for q in first}.isdisjoint({q.request for q in twice})


def test_nonsense_has_an_answer_for_each_truth_that_says_nothing(scorer):
    if not scorer.asks:
        found = scorer.directly(CASE, LABEL, HOW)
        assert len(found) == len(CASE.tests)
        return
    for question in scorer.questions(CASE, LABEL, HOW):
        found = scorer.read(question, Reply(text="banana?"))
        assert [a.truth for a in found] == question.truths
        assert all(a.said is None for a in found)
        assert measured(scorer.kind, found).invalid == 1.0
