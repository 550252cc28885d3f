"""Processes killed outright while they write a cache, and while they train on one."""

import json
import random
import signal
import subprocess
import time

import pytest

from saekit.activations.store import SHARDS, Store
from saekit.models.tiny import save_tiny
from tests import world
from tests.activations.cached import assert_same
from tests.train.test_kill import command, weights

FEW_OR_MANY = [1, pytest.param(20, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Words of the command that writes, without its folder, and what it writes undisturbed."""
    base = tmp_path_factory.mktemp("base")
    model, text = save_tiny(base / "model"), world.text_file(base, n_docs=1500)
    words = ["cache", "write", "--model", model, "--corpus", text, "--site", "L1.resid_post"]
    words += ["--tokens", 60_000, "--dtype", "float32", "--precision", "float32", "--quiet"]
    words += ["--set", "n_ctx=32", "--set", "shard_bytes=200000", "--out"]
    subprocess.run(command(*words, base / "whole"), check=True, capture_output=True)
    return words, Store.open(base / "whole")


def lines(folder):
    path = folder / SHARDS
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("n_kills", FEW_OR_MANY)
def test_a_writer_killed_at_random_loses_and_doubles_no_token(written, tmp_path, n_kills):
    words, whole = written
    folder, killed = tmp_path / "cut", 0
    for _ in range(n_kills):
        before = lines(folder)
        running = subprocess.Popen(command(*words, folder), stderr=subprocess.DEVNULL)
        while lines(folder) <= before and running.poll() is None:
            time.sleep(0.005)
        time.sleep(random.random() * 0.05)
        running.send_signal(signal.SIGKILL)
        killed += running.wait() == -signal.SIGKILL
        if (folder / "manifest.json").exists():
            assert not Store.open(folder).damaged()
    assert killed >= 1
    done = subprocess.run(command(*words, folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cut = Store.open(folder)
    assert_same(cut, whole)
    assert [r.first_row for r in cut.records] == [0, *[r.end_row for r in cut.records[:-1]]]
    assert (cut.n_rows, cut.n_kept) == (whole.n_rows, whole.n_kept)


@pytest.mark.slow
@pytest.mark.parametrize("n_kills", [1, 20])
def test_training_on_a_cache_killed_at_random_ends_with_the_same_weights(
    written, tmp_path, n_kills
):
    _, store = written
    start = ["train", "--cache", store.folder, "--d-sae", "256", "--k", "8", "--tokens", "20000"]
    start += ["--epochs", str(3 if n_kills < 10 else 40), "--quiet", "--set", "batch_tokens=128"]
    start += ["--set", "shuffle=full", "--set", "buffer_tokens=4096"]
    start += ["--set", "checkpoint_tokens=5000", "--out"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(command(*start, whole), check=True, capture_output=True)
    killed = 0
    for i in range(n_kills):
        words = [*start, cut] if not i else ["train", "--resume", cut, "--quiet"]
        seen = newest(cut)
        running = subprocess.Popen(command(*words), stderr=subprocess.DEVNULL)
        while newest(cut) <= seen and running.poll() is None:
            time.sleep(0.01)
        time.sleep(random.random() * 0.05)
        running.send_signal(signal.SIGKILL)
        killed += running.wait() == -signal.SIGKILL
    assert killed >= 1
    if not (cut / "sae" / "config.json").exists():
        done = subprocess.run(
            command("train", "--resume", cut, "--quiet"), capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert weights(whole) == weights(cut)
    log = (cut / "log.jsonl").read_text().splitlines()
    tokens = [json.loads(line).get("tokens") for line in log]
    assert max(t for t in tokens if t is not None) == 20_000 * (3 if n_kills < 10 else 40)


def newest(out):
    return max((p.name for p in (out / "checkpoints").glob("step-*")), default="")
