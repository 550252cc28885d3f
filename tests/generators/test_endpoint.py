"""A server that fails in every way: what may pass is asked again, nothing is paid twice."""

import json
import multiprocessing
import random
import time
from importlib.util import find_spec

import pytest

from saekit.core.errors import ConfigError
from saekit.generators import asking
from saekit.generators.asking import ask
from saekit.generators.base import Reply, Request
from saekit.generators.endpoint import Endpoint
from saekit.generators.journal import Journal
from saekit.generators.limits import Limits
from tests import share
from tests.generators.server import serving

# Not imported while tests are collected, which every process does: it takes a second and a half.
pytestmark = pytest.mark.skipif(find_spec("openai") is None, reason="needs openai")
FAULTS = ["429 0", "500", "503", "malformed", "truncated", "empty", "reset", "408"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(asking, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(asking, "MOST_WAIT_SECONDS", 0.05)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1234567890")


def wanted(n):
    return [
        Request(messages=(("system", "s"), ("user", f"number {i}")), max_tokens=20, seed=i)
        for i in range(n)
    ]


def echo(body):
    return "said " + body["messages"][-1]["content"]


def generator(server, **settings):
    return Endpoint(model="m", base_url=server.url, **settings)


def test_a_plain_server_answers(tmp_path):
    with serving(echo) as server:
        found = ask(generator(server), wanted(6), Journal(tmp_path / "j.jsonl"))
        assert [found.replies[i].text for i in range(6)] == [f"said number {i}" for i in range(6)]
        assert isinstance(found.replies[0], Reply) and found.replies[0].prompt_tokens == 12
        assert all(h["authorization"] == "Bearer sk-secret-1234567890" for h in server.headers)
    text = (tmp_path / "j.jsonl").read_text()
    assert "sk-secret" not in text


@pytest.mark.parametrize("fault", FAULTS)
def test_what_may_pass_is_asked_again(tmp_path, fault):
    with serving(echo, lambda n, body: fault if n < 3 else "") as server:
        found = ask(generator(server), wanted(4), Journal(tmp_path / "j.jsonl"))
    assert len(found.replies) == 4 and not found.stopped, found.failures
    assert set(server.paid.values()) == {1}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_will_not_pass_ends_the_run_at_once(tmp_path, status):
    with serving(echo, lambda n, body: str(status)) as server:
        limits = Limits(concurrency=1)
        found = ask(generator(server), wanted(5), Journal(tmp_path / "j.jsonl"), limits=limits)
        assert found.stopped == "refused" and str(status) in found.reason and server.n == 1
    assert "sk-secret" not in found.reason


def test_a_slow_server_times_out_and_is_asked_again(tmp_path):
    with serving(echo, lambda n, body: "slow" if n == 0 else "") as server:
        slow = generator(server, timeout_seconds=0.5)
        found = ask(slow, wanted(1), Journal(tmp_path / "j.jsonl"))
    assert found.replies[0].text == "said number 0"


@pytest.mark.parametrize("fault", ["endless", "endless error", "drip", "compressed"])
def test_a_reply_without_an_end_is_given_up_and_asked_for_again(tmp_path, fault):
    with serving(echo, lambda n, body: fault if n == 0 else "") as server:
        begin = time.monotonic()
        slow = generator(server, timeout_seconds=1.0)
        found = ask(slow, wanted(1), Journal(tmp_path / "j.jsonl"))
        assert time.monotonic() - begin < 20 and server.sent < 2000
    assert found.replies[0].text == "said number 0"


def test_the_wait_that_is_asked_for_is_kept_by_all(tmp_path):
    with serving(echo, lambda n, body: "429 1" if n == 0 else "") as server:
        limits = Limits(concurrency=1)
        ask(generator(server), wanted(2), Journal(tmp_path / "j.jsonl"), limits=limits)
        assert server.times[1] - server.times[0] >= 1.0


def test_usage_that_cannot_be_true_is_not_believed(tmp_path):
    with serving(echo, lambda n, body: "lies") as server:
        found = ask(generator(server), wanted(3), Journal(tmp_path / "j.jsonl"))
    assert 0 < found.spent.read < 1000 and found.spent.written == 60


def test_an_endpoint_that_is_down_leaves_a_reason(tmp_path):
    with serving(echo) as server:
        url = server.url
    down = Endpoint(model="m", base_url=url)
    found = ask(down, wanted(2), Journal(tmp_path / "j.jsonl"), limits=Limits(tries=2))
    assert not found.replies and "connection failed" in found.failures[0].reason


def test_settings_that_cannot_work_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="begins with http"):
        Endpoint(base_url="localhost:8000")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match=r"\$OPENAI_API_KEY"):
        next(Endpoint().replies(wanted(1)))


def run_all(url, journal, n):
    asking.FIRST_WAIT_SECONDS = asking.MOST_WAIT_SECONDS = 0.01
    limits = Limits(concurrency=1, tries=50)
    ask(Endpoint(model="m", base_url=url), wanted(n), Journal(journal), limits=limits)


@pytest.mark.slow
@pytest.mark.parametrize("n_kills", [share.part(10, 3)])
def test_killed_at_random_moments_it_ends_the_same_and_pays_for_nothing_twice(tmp_path, n_kills):
    chance = random.Random(3)
    faults = lambda n, body: chance.choice(["", "", "", *FAULTS])  # noqa: E731

    def answer(body):
        time.sleep(0.005)
        return echo(body)

    n, path = 40, tmp_path / "j.jsonl"
    context = multiprocessing.get_context("forkserver")
    with serving(answer, faults) as server:
        kills = 0
        for _ in range(n_kills):
            process = context.Process(target=run_all, args=(server.url, path, n))
            process.start()
            before = len(server.paid)
            while len(server.paid) <= before and process.is_alive():
                time.sleep(0.005)
            time.sleep(chance.random() * 0.05)
            process.kill()
            process.join()
            kills += process.exitcode < 0
        found = ask(generator(server), wanted(n), Journal(path), limits=Limits(tries=50))
        assert len(found.replies) == n, (found.stopped, found.failures)
        assert kills >= 1 and [found.replies[i].text for i in range(n)] == [
            f"said number {i}" for i in range(n)
        ]
        # A reply that was on its way when the process was killed was paid and not read.
        assert sum(server.paid.values()) <= n + kills
    keys = [json.loads(x)["key"] for x in path.read_text().splitlines() if '"reply"' in x]
    assert len(set(keys)) == n
