"""Runs of several processes: stopped, gone on with on another number of them, killed."""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import read_json, read_json_lines
from saekit.hub.native import load
from saekit.models.tiny import save_tiny
from saekit.training import checkpoint
from saekit.training.loop import train
from saekit.training.parallel.checkpoint import COMMIT
from tests import world
from tests.training.parallel.spawn import environment, result

SIZES = {"tokens": 2560, "checkpoint_tokens": 640}
SETTINGS = {"streams": 2, **SIZES}
STOP = 16  # of 20 steps; checkpoints are every fifth


@pytest.fixture(scope="module")
def lm():
    return world.model()


def weights(out):
    return load(out).sae.state_dict()


def assert_near(one, other, share):
    assert one.keys() == other.keys()
    for name in one:
        off = (one[name] - other[name]).abs().max() / other[name].abs().max().clamp_min(1e-6)
        assert off < share, (name, float(off))


def losses(out):
    return {r["step"]: r["loss"] for r in read_json_lines(out / "log.jsonl") if "loss" in r}


def assert_same_losses(one, other):
    assert losses(one).keys() == losses(other).keys()
    for step, loss in losses(one).items():
        assert loss == pytest.approx(losses(other)[step], rel=1e-5), step


@pytest.fixture(scope="module")
def alone(lm, tmp_path_factory):
    """One process that reads two streams."""
    folder = tmp_path_factory.mktemp("alone")
    train(world.run(folder, **SETTINGS), lm, folder / "whole", shown=False)
    return folder / "whole"


@pytest.mark.slow
@pytest.mark.parametrize("latent_shards", [1, 2])
def test_a_run_of_two_goes_on_on_one(lm, alone, tmp_path, latent_shards):
    how = {"folder": str(tmp_path), "latent_shards": latent_shards, **SETTINGS}
    result(2, "run", tmp_path, out="cut", stop=STOP, **how)
    (last,) = checkpoint.steps(tmp_path / "cut" / "checkpoints")[-1:]
    assert (last / COMMIT).exists() and not (tmp_path / "cut" / "sae").exists()
    refuses_what_is_not_whole(lm, tmp_path)
    train(world.run(tmp_path, **SETTINGS), lm, tmp_path / "cut", resume=True, shown=False)
    assert_same_losses(tmp_path / "cut", alone)
    assert_near(weights(tmp_path / "cut"), weights(alone), 1e-3)
    counts = [read_json(f / "manifest.json")["harvest"] for f in (tmp_path / "cut", alone)]
    assert counts[0] == counts[1]


def refuses_what_is_not_whole(lm, folder):
    """A part with a flipped bit, and a checkpoint whose commit was never written."""
    shutil.copytree(folder / "cut", folder / "hurt")
    before, last = checkpoint.steps(folder / "hurt" / "checkpoints")
    (before / COMMIT).unlink()
    flip(last / "part-00001.safetensors")
    said = "part-00001.safetensors of step-000000015 is damaged.*no file"
    with pytest.raises(FormatError, match=said):
        train(world.run(folder, **SETTINGS), lm, folder / "hurt", resume=True, shown=False)


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.slow
def test_a_run_of_one_goes_on_on_two(lm, tmp_path, monkeypatch):
    from tests.training.parallel import worker

    settings = dict(SIZES)
    train(world.run(tmp_path, **settings), lm, tmp_path / "whole", shown=False)
    monkeypatch.setattr(worker.processes, "world", lambda: worker.processes.Group())
    monkeypatch.setattr("saekit.training.loop.Training.step", worker.Training.step)
    how = {"folder": str(tmp_path), "out": "cut", "stop": STOP, **settings}
    assert worker.run(None, how) == {"stopped": True}
    monkeypatch.undo()
    how = {"folder": str(tmp_path), "out": "cut", "resume": True, **settings}
    result(2, "run", tmp_path, **how, latent_shards=2)
    assert_same_losses(tmp_path / "cut", tmp_path / "whole")
    assert_near(weights(tmp_path / "cut"), weights(tmp_path / "whole"), 1e-3)


@pytest.mark.slow
def test_two_go_on_as_two_bit_for_bit_past_a_damaged_checkpoint(tmp_path):
    how = {"folder": str(tmp_path), "latent_shards": 2, "arch": "batch_topk", **SETTINGS}
    result(2, "run", tmp_path, out="whole", **how)
    result(2, "run", tmp_path, out="cut", stop=STOP, **how)
    before, last = checkpoint.steps(tmp_path / "cut" / "checkpoints")
    assert (before / COMMIT).exists()
    flip(last / "part-00001.safetensors")
    result(2, "run", tmp_path, out="cut", resume=True, **how)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


@pytest.mark.slow
def test_a_run_of_four_goes_on_on_two(lm, tmp_path):
    settings = {"streams": 4, "folder": str(tmp_path), **SIZES}
    result(4, "run", tmp_path, out="cut", stop=STOP, latent_shards=2, **settings)
    result(2, "run", tmp_path, out="cut", resume=True, **settings)
    settings.pop("folder")
    train(world.run(tmp_path, **settings), lm, tmp_path / "whole", shown=False)
    assert_same_losses(tmp_path / "cut", tmp_path / "whole")


def test_streams_deal_the_text_and_nothing_twice(lm, tmp_path):
    from saekit.training.loop import open_harvest

    whole = open_harvest(world.run(tmp_path), lm).stream
    rows = torch.cat([r.tokens for r in whole.rows(16)])
    parts = [whole.dealt(i, 3) for i in range(3)]
    dealt = [torch.cat([r.tokens for r in part.rows(16)]) for part in parts]
    assert sum(map(len, dealt)) == len(rows)
    for i, part in enumerate(dealt):
        assert torch.equal(part, rows[i::3]) and parts[i].count() == len(part)
        later = torch.cat([r.tokens for r in parts[i].rows(7, first_row=5, n_rows=9)])
        assert torch.equal(later, part[5:14])
    assert len({p.digest for p in (whole, *parts)}) == 4


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"streams": 7}, "multiple of 7"),
        ({"streams": 2, "tokens": 6001}, "`tokens` must be a multiple of 2"),
        ({"streams": 2, "tokens": 10**6, "buffer_tokens": 10**6}, "Ask for no more"),
    ],
)
def test_what_cannot_be_dealt_is_refused(lm, tmp_path, wrong, said):
    with pytest.raises((ConfigError, Exception), match=said):
        train(world.run(tmp_path, **wrong), lm, tmp_path / "out", shown=False)
    assert not (tmp_path / "out" / "sae").exists()


def test_latents_dealt_over_one_process_are_refused(lm, tmp_path):
    with pytest.raises(ConfigError, match="torchrun --standalone --nproc-per-node 2"):
        train(world.run(tmp_path), lm, tmp_path / "out", shown=False, latent_shards=2)


TRAIN = ["--site", "L1.resid_post", "--d-sae", "256", "--k", "8", "--tokens", "20000"]
TRAIN += ["--epochs", "2", "--dtype", "float32", "--quiet", "--set", "n_ctx=32"]
TRAIN += ["--set", "batch_tokens=128", "--set", "checkpoint_tokens=10000"]


def torchrun(*words, restarts=2):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*start, "--max-restarts", str(restarts), "-m", "saekit", "train", *map(str, words)]


@contextlib.contextmanager
def started(words):
    """A context with an agent, after which neither it nor a worker of it is left."""
    running = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        yield running
    finally:
        if running.poll() is None:
            workers = children(running)
            running.kill()
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            running.communicate()


def children(process):
    """Return the workers of an agent."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def digest(out):
    return hashlib.sha256((out / "sae" / "weights.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--latent-shards", "2"], []])
def test_a_process_killed_outright_is_started_anew(tmp_path, more):
    model, text = save_tiny(tmp_path / "model"), world.text_file(tmp_path, n_docs=1500)
    words = ["--model", model, "--corpus", text, *TRAIN, *more, "--out"]
    env = environment()
    done = subprocess.run(
        torchrun(*words, tmp_path / "whole"), env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with started(torchrun(*words, tmp_path / "cut")) as running:
        while not list((tmp_path / "cut" / "checkpoints").glob("step-*")):
            time.sleep(0.02)
            assert running.poll() is None, "it ended before its first checkpoint"
        os.kill(children(running)[-1], signal.SIGKILL)
        _, said = running.communicate(timeout=300)
    assert running.returncode == 0, said
    assert "exitcode: -9" in said
    assert digest(tmp_path / "whole") == digest(tmp_path / "cut")
    one, other = losses(tmp_path / "whole"), losses(tmp_path / "cut")
    assert one.keys() == other.keys()
    # The record after a restart is a mean over fewer steps.
    assert sum(one[step] != other[step] for step in one) <= 1


@pytest.mark.slow
def test_a_signal_to_the_agent_writes_a_checkpoint(tmp_path):
    model, text = save_tiny(tmp_path / "model"), world.text_file(tmp_path, n_docs=1500)
    words = ["--model", model, "--corpus", text, *TRAIN, "--epochs", "400", "--out"]
    log = tmp_path / "out" / "log.jsonl"
    with started(torchrun(*words, tmp_path / "out")) as running:
        while not log.exists() or '"step", "step": 20' not in log.read_text():
            time.sleep(0.05)
            assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=120)
    assert "--resume" in said
    (last,) = checkpoint.steps(tmp_path / "out" / "checkpoints")[-1:]
    assert (last / COMMIT).exists()
