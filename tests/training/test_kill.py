"""A process killed outright, at whatever moment, goes on to the same bits."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from saekit.core.files import read_json
from saekit.models.tiny import save_tiny
from tests import share, world

SMALL = ["--site", "L1.resid_post", "--d-sae", "256", "--k", "8", "--tokens", "20000"]
SMALL += ["--epochs", "12", "--dtype", "float32", "--quiet", "--set", "n_ctx=32"]
SMALL += ["--set", "batch_tokens=128", "--set", "checkpoint_tokens=10000"]


def command(*words):
    code = "from saekit.cli.main import main; main()"
    return [sys.executable, "-c", code, *map(str, words)]


def weights(out):
    return hashlib.sha256((out / "sae" / "weights.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("buffer_tokens", [2048, 100_000])
def test_kill_and_resume_ends_with_the_same_weights(tmp_path, buffer_tokens):
    model = save_tiny(tmp_path / "model")
    text = world.text_file(tmp_path, n_docs=1500)
    start = ["train", "--model", model, "--corpus", text, *SMALL]
    start += ["--epochs", "4", "--set", f"buffer_tokens={buffer_tokens}", "--out"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(command(*start, whole), check=True, capture_output=True)
    running = subprocess.Popen(command(*start, cut), stderr=subprocess.DEVNULL)
    while not list((cut / "checkpoints").glob("step-*")):
        time.sleep(0.02)
        assert running.poll() is None, "it ended before its first checkpoint"
    time.sleep(random.random() * 0.5)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not (cut / "sae" / "config.json").exists()
    done = subprocess.run(
        command("train", "--resume", cut, "--quiet"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert weights(whole) == weights(cut)


@pytest.mark.slow
def test_a_signal_to_the_command_exits_130(tmp_path):
    model, text = save_tiny(tmp_path / "model"), world.text_file(tmp_path, n_docs=1500)
    out = tmp_path / "out"
    words = ["train", "--model", model, "--corpus", text, *SMALL, "--epochs", "200", "--out", out]
    running = subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True)
    while not (out / "log.jsonl").exists():
        time.sleep(0.02)
        assert running.poll() is None
    time.sleep(1)
    os.kill(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "--resume" in err and "Traceback" not in err
    assert list((out / "checkpoints").glob("step-*"))


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "sweep"])
@pytest.mark.parametrize("buffer_tokens", [2048, 100_000])
def test_twenty_kills_at_random_lose_nothing(tmp_path, verb, buffer_tokens):
    """Whatever it was doing: loading, harvesting, training, writing a checkpoint or the SAE."""
    model, text = save_tiny(tmp_path / "model"), world.text_file(tmp_path, n_docs=1500)
    start = [verb, "--model", model, "--corpus", text, *SMALL, "--epochs", "40"]
    start += ["--set", "checkpoint_tokens=4000", "--set", f"buffer_tokens={buffer_tokens}"]
    start += ["--vary", "seed=0,1"] if verb == "sweep" else []
    whole = tmp_path / "whole"
    began, first = time.monotonic(), 0.0
    running = subprocess.Popen(command(*start, "--out", whole), stdout=subprocess.DEVNULL)
    while running.poll() is None:
        if not first and any(whole.rglob("step-*")):
            first = time.monotonic() - began  # seconds to the first checkpoint
        time.sleep(0.02)
    assert running.returncode == 0 and first
    chance, kills, tried, n_kills = random.Random(buffer_tokens), 0, 0, share.part(20, 4)
    marker = "sweep.json" if verb == "sweep" else "run.json"
    folders = [p.relative_to(whole).parent for p in whole.rglob("run.json")]
    assert folders
    while kills < n_kills:  # a job that ends before them is begun again
        cut, ended, tried = tmp_path / f"cut{tried}", False, tried + 1
        while not ended:
            here = [verb, "--resume", cut, "--quiet"]
            running = subprocess.Popen(
                command(*(here if (cut / marker).exists() else [*start, "--out", cut])),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            try:  # some before the first checkpoint, some after a few more
                wait = chance.uniform(0.2, 1.5) * first if kills < n_kills else None
                _, err = running.communicate(timeout=wait)
                assert running.returncode == 0 or "is finished" in err, err
                ended = True
            except subprocess.TimeoutExpired:
                running.send_signal(signal.SIGKILL)
                running.communicate()
                kills += 1
        for folder in folders:
            assert weights(whole / folder) == weights(cut / folder)
            counts = [read_json(f / folder / "manifest.json")["harvest"] for f in (whole, cut)]
            assert counts[0] == counts[1]  # no token lost, none seen twice
