"""Replies of every form that generators give them."""

import re

import pytest

from saekit.studies.sensitivity import prompts
from saekit.studies.sensitivity.examples import Snippet
from saekit.studies.sensitivity.parsing import judged, single, split
from saekit.studies.sensitivity.prompts import SEPARATOR, marked, marks_for
from tests.studies.explain.oracle import Oracle

S = f"\n{SEPARATOR}\n"


@pytest.mark.parametrize("n", [1, 8, 9, 10, 11, 12])
def test_a_reply_with_separators_has_as_many_texts(n):
    assert len(split(S.join(f"text number {i} here" for i in range(n)))) == n


@pytest.mark.parametrize(
    ("reply", "texts"),
    [
        ("a\n\nb", ["a", "b"]),
        ("  \n\n ", []),
        ("", []),
        ("1. one\n2. two\n3) three", ["one", "two", "three"]),
        ("- one\n- two", ["one", "two"]),
        ('["one", "two\\nlines"]', ["one", "two\nlines"]),
        ('```json\n["one", "two"]\n```', ["one", "two"]),
        (f"Here are 3 passages:{S}one{S}two", ["one", "two"]),
        ("Sure, here are the passages:\n\none\n\ntwo", ["one", "two"]),
        (f"a {{{{marked}}}} word{S}other", ["a marked word", "other"]),
        (f"one↵two{S}x", ["one\ntwo", "x"]),
        ("a text with 1. a number", ["a text with 1. a number"]),
        (f"{{{{unpaired{S}x", ["{{unpaired", "x"]),
        ("[1, 2]", ["[1, 2]"]),
        ("[" * 3000, ["[" * 3000]),
    ],
)
def test_replies_are_split_by_what_they_are(reply, texts):
    assert split(reply) == texts


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ('"A quoted passage."', "A quoted passage."),
        ("Here is one more passage:\n\nThe cat sat.", "The cat sat."),
        ("- The cat sat.\n- The dog.", "The cat sat."),
        ("", ""),
    ],
)
def test_a_reply_with_one_text_is_stripped_of_what_is_around_it(reply, text):
    assert single(reply) == text


def test_what_is_of_no_use_is_named_and_only_the_wanted_number_is_used():
    examples = ["the quick brown fox jumps over the dog"]
    texts = [
        "a new text of words",
        "A new  text of words",
        "the quick brown fox jumps over the dog!",
        "I'm sorry, I cannot help with that request.",
        "This passage is about a fox and a dog.",
        "two words",
        "another one that is new",
        "and a third that is too many",
    ]
    found = judged(texts, examples, 2)
    assert [t.verdict for t in found] == [
        "usable",
        "duplicate",
        "copied",
        "refusal",
        "about it",
        "too short",
        "usable",
        "beyond",
    ]
    more = judged(["a new text of words", "fresh words come here"], examples, 3, found)
    assert [t.verdict for t in more] == ["duplicate", "usable"]


def test_what_small_models_say_in_place_of_a_passage_is_no_text():
    about = [
        "I would write:",
        "The original passage:",
        "I'm ready to assist you with that.",
        "You're an AI assistant for text re-writing.",
        "This passage is:",
    ]
    texts = [
        "I am a baker and my bread is the best in town",
        "You are the one that we all want here",
        "He had three things with him: a hat and a map and bread",
    ]
    assert {t.verdict for t in judged(about, [], 9)} == {"about it"}
    assert {t.verdict for t in judged(texts, [], 9)} == {"usable"}


def test_runs_of_tokens_are_marked_together_with_marks_that_no_text_holds():
    snippet = Snippet([1, 2, 3, 4], [0.0, 2.0, 1.0, 0.0], 1, 0, 0, 0)
    assert marked(snippet, ["a", "b", "c", "d"], ("{{", "}}"), 0.5) == "a{{bc}}d"
    last = snippet._replace(acts=[0.0, 0.0, 0.0, 1.0])
    assert marked(last, ["a", "b", "c", "d"], ("{{", "}}"), 0.5) == "abc{{d}}"
    assert marks_for(["plain"]) == ("{{", "}}")
    assert marks_for(["a {{ jinja }}"]) == ("[[", "]]")


def test_a_small_model_is_shown_a_talk_and_asked_for_the_word_of_an_example():
    texts = [[" we", " ate", " at", " the", f" h{i}", "otel", "s", ".", "\n"] for i in range(7)]
    shown = [Snippet([0] * 9, [0.0] * 4 + [1.0] * 2 + [0.0] * 3, 5, 0, 0, 0) for _ in texts]
    asked = prompts.requests(Oracle(), 3, shown, texts, 7, seed=0)
    talks = [request.messages for request in asked]
    # Five in a row have the same words, so that a local model reads them once.
    assert len(set(talks[:5])) == 1 and len({talks[4], talks[5]}) == 2 and talks[5] == talks[6]
    assert len({request.seed for request in asked}) == 7
    roles = [role for role, _ in talks[0]]
    assert roles == ["user", "assistant"] * 5 + ["user"]
    words = [re.search(r'the word "(h\dotels)" in it', m)[1] for r, m in talks[0] if r == "user"]
    assert len(set(words)) == 6  # the one that is asked for is in no answer
    answers = [m for role, m in talks[0] if role == "assistant"]
    assert [w in a for w, a in zip(words, answers, strict=False)] == [True] * 5
    assert not any(words[-1] in a for a in answers)
    (api,) = prompts.requests(Oracle(small=False), 3, shown, texts, 7, seed=0)
    assert all(f"{{{{ h{i}otel}}}}" in api.messages[1][1] for i in range(7))


@pytest.mark.parametrize(
    ("text", "at", "word"),
    [([" in", "ham", "per"], 1, "inhamper"), ([" a", "."], 1, "."), ([" a", "\n"], 1, "↵")],
)
def test_the_word_of_a_token(text, at, word):
    assert prompts.word_at(text, at) == word
