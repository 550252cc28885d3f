"""Killed before every file operation, in the middle of every write: going on ends the same.

The same weights, bit for bit, the same tables and counts, and nothing left over. bench.json and
times in other files are left out, which differ between any two runs.
"""

import os
import shutil
import time
from pathlib import Path

import pytest

from saekit.analysis.index_folder import Index
from saekit.core.files import read_json
from tests import share
from tests.crash.harness import Case, Server, differences, filled, gone_on, killed_at, whole

# Points of each command in the default run.
FEW = int(os.environ.get("SAEKIT_CRASH_POINTS", "4"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory):
    """A run with a finished SAE."""
    folder = tmp_path_factory.mktemp("trained")
    assert server.run([*train(server), "--out", folder / "one"]).code == 0
    return folder


@pytest.fixture(scope="module")
def trained_beside(server, trained):
    """What the long table alone needs: a truth, and an SAE that two layers share."""
    words = ["truth", "make", *settings(n_features=16, d_model=8), "--out", trained / "truth"]
    assert server.run(words).code == 0
    both = ["--site", "L0.resid_post", "--site", "L1.resid_post", "--fold"]
    answer = server.run([*train(server, site=()), *both, "--out", trained / "both"])
    assert answer.code == 0, answer.text


def settings(**values):
    return [word for k, v in values.items() for word in ("--set", f"{k.replace('__', '.')}={v}")]


def train(server, *more, verb="train", site=("--site", "L1.resid_post"), **changes):
    numbers = {"n_ctx": 16, "batch_tokens": 64, "checkpoint_tokens": 256, "log_steps": 4}
    return [
        verb,
        "--model",
        server.model,
        "--corpus",
        server.text,
        "--d-sae",
        "32",
        "--tokens",
        "900",
        "--dtype",
        "float32",
        "--quiet",
        *site,
        *settings(**(numbers | changes)),
        *more,
    ]


def cases(server, trained):
    """Every command that writes a folder, by name."""
    resumed = ["train", "--resume", "OUT", "--quiet"]
    swept = ["sweep", "--resume", "OUT", "--quiet"]
    k, out = ("--k", "4"), ("--out", "OUT")
    seeds = ("--vary", "seed=0,1")
    sites = ("--vary", "site=L0.resid_post,L1.resid_post")
    cache = [
        "cache",
        "write",
        "--model",
        server.model,
        "--corpus",
        server.text,
        "--site",
        "L1.resid_post",
        "--dtype",
        "float32",
        "--quiet",
        "--tokens",
        "600",
        *settings(n_ctx=16, shard_bytes=20000),
        *out,
    ]
    truth = [
        "--truth",
        trained / "truth",
        "--tokens",
        "900",
        "--quiet",
        *settings(batch_tokens=64, checkpoint_tokens=256),
        *out,
    ]
    depth = [
        "locality",
        "depth",
        "--sae",
        trained / "one",
        "--corpus",
        server.text,
        "--windows",
        "30",
        "--n-ctx",
        "8",
        "--no-figures",
        "--quiet",
        *out,
    ]
    return {
        "train": Case(train(server, *k, *out), "run.json", resumed),
        "train, rolling": Case(train(server, *k, *out, buffer_tokens=128), "run.json", resumed),
        "train, windows": Case(
            train(server, *k, "--arch", "temporal", *out, buffer_tokens=128, pair__window=5),
            "run.json",
            resumed,
        ),
        "sweep": Case(train(server, *k, *seeds, *out, verb="sweep"), "sweep.json", swept),
        "sweep, side by side": Case(
            train(server, *k, *sites, *out, verb="sweep", site=(), buffer_tokens=128),
            "sweep.json",
            swept,
        ),
        "truth make": Case(["truth", "make", *settings(n_features=16, d_model=8), *out]),
        "truth train": Case(
            ["truth", "train", *truth],
            "fit.json",
            ["truth", "train", *truth[:2], "--resume", "OUT", "--quiet"],
        ),
        "cache write": Case([*cache, "--precision", "float32"]),
        "cache write, int8": Case([*cache, "--precision", "int8w"]),
        "index": Case(["index", trained / "one", "--tokens", "500", "--codes", "--quiet", *out]),
        "locality depth": Case(depth, "run.json", [*depth, "--resume"]),
        "layers analyse": Case(
            ["layers", "analyse", trained / "both", "--tokens", "500", "--quiet", *out]
        ),
    }


NAMES = list(cases(type("S", (), {"model": "", "text": ""}), Path()))


@pytest.fixture(scope="module")
def case_of(server, trained):
    return cases(server, trained)


def spread(n):
    """Return a few of the operations 1..n, those at both ends among them."""
    return sorted({1 + round(i * (n - 1) / (FEW - 1)) for i in range(FEW)})


def noted(name, tried, unlike, began):
    """Add a line to the table that SAEKIT_CRASH_TABLE names, of a command's kills."""
    if table := os.environ.get("SAEKIT_CRASH_TABLE"):
        said = list(unlike.values())
        stuck = sum(found == ["stuck"] for found in said)
        left = sum(any(f.startswith("left over") for f in found) for found in said)
        row = [name, tried, len(said) - stuck, stuck, left, f"{time.monotonic() - began:.0f}"]
        with Path(table).open("a") as file:
            file.write(f"| {' | '.join(map(str, row))} |\n")


def equal_at(server, case, folder, points, name):
    began = time.monotonic()
    left, names = whole(server, case, folder)
    assert names, "no file operation was seen"
    unlike = {}
    for at in points(len(names)):
        out = killed_at(server, case, folder, at)
        try:
            gone_on(server, case, out)
            found = differences(left, out)
        except AssertionError as error:
            found = [str(error)[-600:]]
        if found:
            unlike[f"{at}: {names[at - 1]}"] = found
    noted(name, f"{len(points(len(names)))} of {len(names)}", unlike, began)
    assert not unlike


@pytest.mark.parametrize("name", ["train", "sweep", "cache write", "index"])
def test_a_few_kills(server, case_of, tmp_path, name):
    equal_at(server, case_of[name], tmp_path, spread, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_every_operation(server, case_of, trained_beside, tmp_path, name):
    equal_at(server, case_of[name], tmp_path, share.points(NAMES.index(name)), name)


@pytest.mark.slow
def test_an_earlier_index_stays_until_the_new_one_is_whole(server, case_of, trained, tmp_path):
    """Kill an index over an earlier one: one of the two is there, whole."""
    old = tmp_path / "old" / "out"
    words = ["index", trained / "one", "--split", "test", "--quiet", "--out", old]
    assert server.run(words).code == 0
    counted = shutil.copytree(old.parent, tmp_path / "counted")
    names = server.run(filled(case_of["index"].start, counted / "out"), counted).names
    assert any(name.startswith("exchange") for name in names)
    tokens = {read_json(f / "out/index.json")["n_tokens"] for f in (old.parent, counted)}
    assert len(tokens) == 2
    for at in share.points(0)(len(names)):
        out = killed_at(server, case_of["index"], tmp_path, at, before=old)
        assert Index(out).record(3) and Index(out).n_tokens in tokens
        gone_on(server, case_of["index"], out)
        assert not differences(counted / "out", out)
