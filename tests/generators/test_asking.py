"""Requests are answered once, within limits, and again after what may pass."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from saekit.core.errors import ConfigError, FormatError, ResourceError
from saekit.generators import asking
from saekit.generators.asking import ask
from saekit.generators.base import Failure, Generator, Reply, Request
from saekit.generators.cache import ReplyCache
from saekit.generators.journal import Journal
from saekit.generators.limits import Limits
from saekit.generators.replay import Replay
from saekit.generators.scripted import Scripted


@dataclass(frozen=True, kw_only=True)
class Counting(Generator):
    """Answers with the last word; `fails` gives the outcomes before the answer, by word."""

    name: ClassVar[str] = "counting"
    parallel: ClassVar[bool] = True
    asked: ClassVar[list[str]] = []
    fails: ClassVar[dict[str, list[Failure]]] = {}

    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def replies(self, requests) -> Iterator[Reply | Failure]:
        for request in requests:
            word = request.messages[-1][1].split()[-1]
            self.asked.append(word)
            left = self.fails.get(word, [])
            yield left.pop(0) if left else Reply(text=word, prompt_tokens=3, completion_tokens=2)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(Counting, "asked", [])
    monkeypatch.setattr(Counting, "fails", {})
    monkeypatch.setattr(asking, "FIRST_WAIT_SECONDS", 0.001)


def wanted(*words):
    return [Request(messages=(("user", f"say {word}"),), max_tokens=10) for word in words]


def test_each_is_asked_once_and_comes_back_in_its_place(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    words = [f"w{i}" for i in range(30)]
    found = ask(Counting(), wanted(*words), journal)
    assert [found.replies[i].text for i in range(30)] == words and not found.stopped
    assert sorted(Counting.asked) == sorted(words)
    assert (found.spent.requests, found.spent.read, found.spent.written) == (30, 90, 60)
    again = ask(Counting(), wanted(*words, "new"), Journal(tmp_path / "j.jsonl"))
    assert again.known == 30 and Counting.asked.count("new") == 1 and len(Counting.asked) == 31


def test_what_decides_a_reply_is_in_its_key():
    request = wanted("a")[0]
    me = {"name": "x"}
    changed = [
        replace(request, sample=1),
        replace(request, seed=1),
        replace(request, temperature=0.5),
        replace(request, max_tokens=11),
        replace(request, stop=("x",)),
        replace(request, messages=(("user", "say b"),)),
        replace(request, top_logprobs=2),
    ]
    keys = {one.key(me) for one in (request, *changed)} | {request.key({"name": "y"})}
    assert len(keys) == len(changed) + 2


def test_what_may_pass_is_tried_again_and_what_may_not_ends_the_run(tmp_path):
    passing = Failure(reason="busy", again=True, status=429)
    Counting.fails = {"b": [passing, passing]}
    found = ask(Counting(), wanted("a", "b"), Journal(tmp_path / "a.jsonl"))
    assert len(found.replies) == 2 and Counting.asked.count("b") == 3
    lines = [json.loads(x) for x in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [x["kind"] for x in lines].count("failure") == 2

    Counting.fails = {"c": [passing] * 9}
    found = ask(Counting(), wanted("c", "d"), Journal(tmp_path / "b.jsonl"), limits=Limits(tries=3))
    assert set(found.replies) == {1} and found.failures[0].reason == "busy" and not found.stopped
    assert Counting.asked.count("c") == 3

    Counting.fails = {"e": [Failure(reason="who are you", again=False, status=401)]}
    limits = Limits(concurrency=1)
    found = ask(Counting(), wanted("e", "f", "g"), Journal(tmp_path / "c.jsonl"), limits=limits)
    assert (found.stopped, found.reason) == ("refused", "who are you")
    assert not found.replies and "f" not in Counting.asked


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize(
    ("caps", "most"),
    [
        ({"requests": 5}, 5),
        # A request may cost 10 tokens written and what it reads, so no more than this many go out.
        ({"tokens": 100}, 10),
        ({"usd": 1e-4, "usd_in": 1.0, "usd_out": 1.0}, 10),
    ],
)
def test_a_cap_is_never_passed(tmp_path, caps, most, concurrency):
    limits = Limits(concurrency=concurrency, **caps)
    words = [f"w{i}" for i in range(60)]
    found = ask(Counting(), wanted(*words), Journal(tmp_path / "j.jsonl"), limits=limits)
    assert found.stopped == "budget" and found.failures and len(found.replies) < 60
    spent = found.spent
    if "requests" in caps:
        assert spent.requests == most
    if "tokens" in caps:
        assert 0 < spent.read + spent.written <= 100
    if "usd" in caps:
        assert 0 < spent.usd <= 1e-4
    ended = len(found.replies)
    more = ask(Counting(), wanted(*words), Journal(tmp_path / "j.jsonl"))
    assert more.known == ended and len(more.replies) == 60 and len(Counting.asked) == 60


def test_the_cache_answers_other_runs_before_any_limit(tmp_path):
    cache = ReplyCache(tmp_path / "c.sqlite")
    ask(Counting(), wanted("a", "b"), Journal(tmp_path / "1.jsonl"), cache=cache)
    slow = Limits(requests_per_minute=1, requests=1)
    found = ask(
        Counting(), wanted("a", "b"), Journal(tmp_path / "2.jsonl"), cache=cache, limits=slow
    )
    assert found.known == 2 and len(Counting.asked) == 2 and not found.stopped
    assert all(json.loads(x)["cached"] for x in (tmp_path / "2.jsonl").read_text().splitlines())
    (tmp_path / "c.sqlite").write_bytes(b"junk" * 100)
    with pytest.raises(FormatError, match="is damaged"):
        ask(Counting(), wanted("z"), Journal(tmp_path / "3.jsonl"), cache=cache)


def test_threads_that_make_the_cache_at_once_all_write_to_it(tmp_path):
    for i in range(60):  # without the remedy one in six of them fails
        cache, start = ReplyCache(tmp_path / f"{i}.sqlite"), threading.Barrier(4)

        def put(key, cache=cache, start=start):
            start.wait()
            cache.put(key, Reply(text=key))

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(put, "abcd"))
        assert [cache.get(key).text for key in "abcd"] == list("abcd")


def test_requests_keep_their_pace(tmp_path):
    limits = Limits(requests_per_minute=1200, concurrency=4)
    import time

    began = time.monotonic()
    ask(Counting(), wanted(*"abcdef"), Journal(tmp_path / "j.jsonl"), limits=limits)
    assert time.monotonic() - began >= 5 * 60 / 1200


def test_a_torn_line_is_cut_away_and_the_rest_stays(tmp_path):
    path = tmp_path / "j.jsonl"
    ask(Counting(), wanted("a", "b"), Journal(path), limits=Limits(concurrency=1))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in (first + 1, len(whole) - 1, first):
        path.write_bytes(whole[:end])
        found = ask(Counting(), wanted("a", "b"), Journal(path))
        assert found.known == 1 and [found.replies[i].text for i in (0, 1)] == ["a", "b"]
        assert len([json.loads(x) for x in path.read_text().splitlines()]) == 2
    path.write_text('{"kind": "reply", "key": "k", "reply": {"text": 5}}\n')
    with pytest.raises(FormatError, match="holds a reply"):
        Journal(path)


def test_a_full_disk_ends_the_run_with_a_sentence(tmp_path, monkeypatch):
    import os

    def full(fd, data):
        raise OSError(28, "No space left on device")

    journal = Journal(tmp_path / "j.jsonl")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        ask(Counting(), wanted(*"abcdef"), journal, limits=Limits(concurrency=3))


def test_a_run_is_replayed_from_its_journal_alone(tmp_path):
    script = Scripted(answers=(("a", "first"), ("", "other")))
    path = tmp_path / "j.jsonl"
    before = ask(script, wanted("a", "b"), Journal(path))
    replay = Replay(journal=str(path), of=script.identity())
    found = ask(
        replay, wanted("a", "b", "c"), Journal(tmp_path / "k.jsonl"), limits=Limits(tries=1)
    )
    assert {i: r.text for i, r in found.replies.items()} == {
        i: r.text for i, r in before.replies.items()
    }
    assert "no reply to this request" in found.failures[2].reason


def test_what_a_generator_does_not_take_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="takes messages of a chat"):
        ask(Counting(), [Request(text="x")], Journal(tmp_path / "j.jsonl"))
    with pytest.raises(ConfigError, match="either `messages` or `text`"):
        Request()
    with pytest.raises(ConfigError, match="needs prices"):
        Limits(usd=1.0)


def test_threads_that_fail_do_not_hang(tmp_path):
    before = threading.active_count()
    Counting.fails = {f"w{i}": [Failure(reason="x", again=False)] for i in range(20)}
    ask(Counting(), wanted(*[f"w{i}" for i in range(20)]), Journal(tmp_path / "j.jsonl"))
    assert threading.active_count() == before
