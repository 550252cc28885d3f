"""Choosing among given answers by their probability, as the local model does."""

import math

import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.generators.base import Failure, Request
from saekit.generators.endpoint import Endpoint
from saekit.generators.journal import Journal
from saekit.generators.local import Local, loaded
from saekit.generators.scripted import Scripted
from saekit.models.tiny import save_tiny


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_tiny(folder)
    return Local(model=str(folder), chat=False)


def by_hand(local, text, options):
    lm = loaded(local.model, "", "cpu")
    scores = []
    for option in options:
        head, answer = lm.tokens(text)[0].tolist(), lm.tokenizer.encode([option])[0]
        logits = lm.logits(torch.tensor([head + answer]))[0].float().log_softmax(-1)
        places = range(len(head) - 1, len(head) + len(answer) - 1)
        scores.append(sum(float(logits[at, i]) for at, i in zip(places, answer, strict=True)))
    return torch.tensor(scores, dtype=torch.float64).log_softmax(0).tolist()


@pytest.mark.parametrize("options", [("a", "b"), (" yes", " no"), ("1", "22", "333")])
def test_it_is_the_probability_of_each_answer_among_them(local, options):
    found = local.choose(Request(text="is it so?"), options)
    assert list(found) == list(options)
    assert list(found.values()) == pytest.approx(by_hand(local, "is it so?", options), abs=1e-4)
    assert sum(math.exp(v) for v in found.values()) == pytest.approx(1.0)


def test_requests_of_many_lengths_get_what_each_gets_alone(local):
    asked = [Request(text="so " * n, options=("a", "b")) for n in (9, 1, 30, 4)]
    asked.insert(2, Request(text="free", max_tokens=3, temperature=0.0))
    found = list(local.replies(asked))
    for request, reply in zip(asked, found, strict=True):
        if request.options:
            alone = local.choose(request, request.options)
            assert list(reply.logprobs[0].values()) == pytest.approx(list(alone.values()), abs=1e-4)
            assert reply.text == max(alone, key=alone.get)
    assert found[2].logprobs == () and isinstance(found[2].text, str)


def test_a_request_that_is_too_long_fails_by_itself(local):
    n = loaded(local.model, "", "cpu").n_ctx_max
    found = list(
        local.replies(
            [Request(text="x" * (2 * n), options=("a", "b")), Request(text="x", options=("a", "b"))]
        )
    )
    assert isinstance(found[0], Failure) and found[1].text in ("a", "b")


def test_options_make_another_request_and_none_keep_the_old_key():
    who = {"name": "x"}
    plain, free = Request(text="a"), Request(text="a", options=())
    assert plain.key(who) == free.key(who) != Request(text="a", options=("b", "c")).key(who)
    # Of a journal that was written before there were options.
    import dataclasses
    import json

    from saekit.core.files import digest

    record = dataclasses.asdict(plain)
    del record["options"]
    assert plain.key(who) == digest([json.dumps([who, record], sort_keys=True)])


@pytest.mark.parametrize("options", [("a",), ("a", "a"), ("a", "")])
def test_options_that_are_none_are_refused(options):
    with pytest.raises(ConfigError, match="at least two distinct"):
        Request(text="a", options=options)


def test_others_answer_in_words(tmp_path):
    for one in (Scripted(), Endpoint()):
        assert not one.chooses
        with pytest.raises(ConfigError, match="answers in words"):
            one.choose(Request(messages=(("user", "x"),)), ("a", "b"))
    assert Endpoint().tells_logprobs and not Scripted().tells_logprobs


def test_a_journal_gives_the_probabilities_back(local, tmp_path):
    request = Request(text="is it?", options=("a", "b"))
    (reply,) = local.replies([request])
    key = request.key(local.identity())
    Journal(tmp_path / "j.jsonl").keep(key, request, reply)
    assert Journal(tmp_path / "j.jsonl").get(key) == reply
