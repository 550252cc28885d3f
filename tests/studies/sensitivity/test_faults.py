"""`saekit sensitivity run` against a server that fails in every way, killed and taken up again."""

import json
import multiprocessing
import random
import time
from importlib.util import find_spec

import pytest

import saekit
from saekit.cli.main import main
from saekit.generators import asking
from saekit.models.tiny import save_tiny, tiny
from saekit.studies.sensitivity.prompts import SEPARATOR
from tests import share, world
from tests.generators.server import serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("openai") is None, reason="needs openai"),
]
FAULTS = ["429 0.01", "429", "500", "503", "408", "malformed", "truncated", "empty", "reset"]
SETS = (
    "texts=4",
    "rounds=2",
    "examples.around=4",
    "examples.least_count=3",
    "examples.random=20",
    "examples.top=4",
    "examples.weighted=2",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = tmp_path_factory.mktemp("faults")
    saekit.train(
        tiny(), run=world.run(base, tokens=3000, model=tiny().name), out=base / "run", shown=False
    )
    save_tiny(base / "model")
    return base / "run"


def command(run, url, out):
    """Run the command; a process of its own when it is to be killed."""
    asking.FIRST_WAIT_SECONDS = asking.MOST_WAIT_SECONDS = 0.01
    words = ["run", run, "--model", run.parent / "model", "--latents", 8, "--tokens", 2000]
    words += ["--by", "endpoint", "--base-url", url, "--by-model", "m", "--out", out]
    words += ["--by-set", "timeout_seconds=1", "--limit", "tries=60", "--limit", "concurrency=1"]
    words += ["--floor", "random_encoder", "--quiet"]
    words += [w for one in SETS for w in ("--set", one)]
    try:
        main(["sensitivity", *map(str, words)])
    except SystemExit as ended:
        return ended.code or 0


def answer(body):
    """Half of what was asked for, so that each latent is asked for more; words by the request."""
    time.sleep(0.01)
    words = random.Random(json.dumps(body, sort_keys=True))
    known = ["the", "cat", "sat", "on", "a", "mat", "today", "and", "ran"]
    texts = [" ".join(words.choices(known, k=7)) for _ in "ab"]
    return f"\n{SEPARATOR}\n".join(texts)


def left(folder):
    names = ("texts.json", "examples.json", "feature_stats.csv", "summary.csv", "audit.json")
    return {name: (folder / name).read_bytes() for name in names}


def test_faults_and_kills_change_nothing_and_nothing_is_paid_twice(run, tmp_path, monkeypatch):
    chance = random.Random(5)
    context = multiprocessing.get_context("forkserver")
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "one"))
    with serving(answer) as server:
        calm = command(run, server.url, tmp_path / "calm")
        asked = dict(server.paid)
        # The same address, now with faults: the answers are to the same requests.
        server.paid.clear()
        server.faults = lambda n, body: chance.choice(["", "", "", *FAULTS])
        monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "other"))
        kills = 0
        for number in range(share.part(10, 4)):
            process = context.Process(target=command, args=(run, server.url, tmp_path / "wild"))
            process.start()
            before = sum(server.paid.values())
            while number % 5 and sum(server.paid.values()) <= before and process.is_alive():
                time.sleep(0.002)
            time.sleep(chance.random() * (0.15 if number % 5 else 8))  # or before it asks anything
            process.kill()
            process.join()
            kills += process.exitcode < 0
        assert command(run, server.url, tmp_path / "wild") == calm == 0
        assert kills >= 3 and set(server.paid) == set(asked)
        # A reply that was on its way when the process was killed was paid and not read.
        assert sum(server.paid.values()) <= len(asked) + kills
    assert left(tmp_path / "wild") == left(tmp_path / "calm")
    floor = "floors/random_encoder"
    assert left(tmp_path / "wild" / floor) == left(tmp_path / "calm" / floor)


def test_an_endpoint_that_is_down_ends_the_run_and_a_later_one_goes_on(run, tmp_path, capsys):
    with serving(answer, lambda n, body: "401") as server:
        assert command(run, server.url, tmp_path / "s") == 1
        assert server.n == 1 and "Run the same command again" in capsys.readouterr().out
        server.faults = lambda n, body: ""
        assert command(run, server.url, tmp_path / "s") == 0
