"""Explanations out of replies, what is asked for them, and the one that needs no model."""

import pytest

from saekit.generators.scripted import Scripted
from saekit.studies.explain.labels import label_of, request, without_model
from saekit.studies.explain.material import case_from
from tests.studies.explain.made import case
from tests.studies.explain.oracle import Oracle


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("Explanation: names of animals.", "names of animals."),
        ("Let me see. They share a word.\n**Explanation:** the word zoo", "the word zoo"),
        ('"the word zoo"', "the word zoo"),
        ("Sure, here is the explanation: numbers", "numbers"),
        ("1. words for food\n2. cooking", "words for food"),
        ("The unit responds to dates", "dates"),
        ("\n\n- `def` at the start of a function\n", "def at the start of a function"),
        ("Weather. " + "And much more to say about it " * 9, "Weather."),
    ],
)
def test_a_reply_becomes_one_line(reply, text):
    found = label_of(reply, 20)
    assert (found.text, found.verdict) == (text, "usable")


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("", "empty"),
        (" \n...\n", "empty"),
        ("I'm sorry, I cannot help with that.", "refusal"),
        ("word " * 40, "too long"),
    ],
)
def test_what_is_no_explanation_is_told_apart(reply, verdict):
    assert label_of(reply, 20).verdict == verdict


@pytest.mark.parametrize("judge", [Oracle(), Oracle(small=False), Scripted(text=True)])
@pytest.mark.parametrize("with_negatives", [True, False])
def test_negatives_are_shown_where_asked_for(judge, with_negatives):
    one = case(0, "z")
    how = {"with_negatives": with_negatives, "most_words": 20, "seed": 0}
    asked = request(judge, one, **how, tried=0)
    words = asked.text + "".join(content for _, content in asked.messages)
    off = one.negatives[0].text[:8]
    assert (off in words) == with_negatives
    assert not any(s.text in words for s in one.tests)  # tested texts are never shown
    if not judge.is_small and not asked.text:
        assert "{{z}}" in words


def test_asked_again_it_is_another_request():
    how = {"with_negatives": True, "most_words": 20, "seed": 0}
    first, second = (request(Oracle(), case(0, "z"), **how, tried=n) for n in (0, 1))
    assert first.temperature == 0 and second.temperature > 0 and first.sample != second.sample


def test_without_a_model_it_names_the_commonest_peaks_and_what_is_promoted():
    found = without_model(case(0, "zq"))
    assert found == 'the words "z", "q"; words that come before "a", "b"'
    silent = case(0, "zq")._replace(shown=[], promoted=())
    assert without_model(silent) == "no word in particular"


def test_a_case_survives_being_written():
    import json

    one = case(3, "zq")
    assert case_from(json.loads(json.dumps(one.record()))) == one
