"""Training: it learns, it stops cleanly, and it goes on as if it had not stopped."""

import json
import os
import shutil
import signal
import threading

import pytest
import torch

from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError, FormatError, Interrupted, ResourceError, TrainingError
from saekit.core.files import read_json, read_json_lines
from saekit.hub.native import load
from saekit.saes.base import registry
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.topk import TopK, TopKSAE
from saekit.training import checkpoint, loop
from saekit.training.loop import train
from tests import world


@pytest.fixture(scope="module")
def lm():
    return world.model()


def weights(out):
    return load(out).sae.state_dict()


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.fixture(scope="module")
def learned(lm, tmp_path_factory):
    """A run that learns for three epochs, and its folder."""
    folder = tmp_path_factory.mktemp("learned")
    run = world.run(folder, epochs=3)
    train(run, lm, folder / "out", shown=False)
    return run, folder / "out"


def test_a_run_learns_and_says_what_it_did(lm, learned):
    run, out = learned
    log = [r for r in read_json_lines(out / "log.jsonl") if r["kind"] == "step"]
    assert log[-1]["fvu"] < 0.7 * log[0]["fvu"]
    assert log[-1]["tokens"] == run.total_tokens and log[-1]["step"] == run.total_steps
    sae, card = load(out)
    assert sae.cfg == run.sae
    assert card.tokens == run.total_tokens and card.model == lm.provenance()
    manifest = read_json(out / "manifest.json")
    assert manifest["harvest"]["kept"] >= run.tokens
    assert manifest["config"] == run.to_dict()


def test_the_finished_sae_takes_raw_activations(lm, learned):
    run, out = learned
    harvest = loop.open_harvest(run, lm)
    x = torch.cat([acts.x for acts in harvest.batches(0, 64)])
    sae = load(out).sae
    with torch.no_grad():
        fvu = (sae(x) - x).square().sum() / (x - x.mean(0)).square().sum()
    log = list(read_json_lines(out / "log.jsonl"))
    assert float(fvu) == pytest.approx(log[-1]["fvu"], rel=0.25)


@pytest.mark.parametrize("name", registry.names())
def test_every_architecture_trains(lm, tmp_path, name):
    wide = {"d_in": 32, "d_out": 32, "d_sae": 64}
    raw = registry.get(name).example().to_dict() | wide
    if "inner" in raw:
        raw["inner"] |= wide
    sites = 2 if "site" in registry.get(name).event else 1
    raw |= {"n_sites": sites} if sites > 1 else {}
    window = 4 if "seq" in registry.get(name).event else 0
    pair = Pair(read=("L1.resid_post", "L0.resid_post")[:sites], window=window)
    run = world.run(tmp_path, sae=registry.get(name).from_dict(raw), pair=pair, tokens=3000)
    train(run, lm, tmp_path / "out", shown=False)
    log = [r for r in read_json_lines(tmp_path / "out" / "log.jsonl") if r["kind"] == "step"]
    assert log[-1]["fvu"] < log[0]["fvu"]


def test_a_transcoder_and_a_multi_layer_sae_train(lm, tmp_path):
    for i, pair in enumerate(
        [
            Pair(read=("L1.mlp_in",), write=("L1.mlp_out",)),
            Pair(read=("L0.resid_post", "L1.resid_post"), fold=True),
        ]
    ):
        out = tmp_path / str(i)
        train(world.run(tmp_path, pair=pair, epochs=2), lm, out, shown=False)
        log = [r for r in read_json_lines(out / "log.jsonl") if r["kind"] == "step"]
        assert log[-1]["fvu"] < log[0]["fvu"]
        assert load(out, site=pair.read[0]).card.pair == pair


@pytest.mark.parametrize("buffer_tokens", [512, 10_000])
def test_the_same_seed_gives_the_same_weights(lm, tmp_path, buffer_tokens):
    run = world.run(tmp_path, tokens=3000, buffer_tokens=buffer_tokens)
    for name in ("one", "two"):
        train(run, lm, tmp_path / name, shown=False)
    assert_same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    other = world.run(tmp_path, tokens=3000, buffer_tokens=buffer_tokens, seed=1)
    train(other, lm, tmp_path / "three", shown=False)
    assert not torch.equal(weights(tmp_path / "one")["W_dec"], weights(tmp_path / "three")["W_dec"])


@pytest.mark.parametrize("buffer_tokens", [512, 10_000])
@pytest.mark.parametrize("name", ["topk", "batch_topk"])
def test_a_run_that_died_goes_on_bit_for_bit(lm, tmp_path, monkeypatch, buffer_tokens, name):
    """A run ended between checkpoints, as by a kill, then resumed, ends with the same bits."""
    example = registry.get(name).example().to_dict() | {"d_in": 32, "d_out": 32, "d_sae": 64}
    sae = registry.get(name).from_dict(example)
    run = world.run(tmp_path, sae=sae, tokens=3000, buffer_tokens=buffer_tokens, epochs=2)
    train(run, lm, tmp_path / "whole", shown=False)

    class Killed(BaseException):
        pass

    real = loop.Training.step

    def step(self, x, y):
        if self.index == 33:  # in the second epoch
            raise Killed
        return real(self, x, y)

    monkeypatch.setattr(loop.Training, "step", step)
    with pytest.raises(Killed):
        train(run, lm, tmp_path / "cut", shown=False)
    monkeypatch.undo()
    train(run, lm, tmp_path / "cut", resume=True, shown=False)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    logs = [
        [(r["step"], r["loss"]) for r in read_json_lines(tmp_path / d / "log.jsonl") if "loss" in r]
        for d in ("whole", "cut")
    ]
    assert [s for s, _ in logs[0]] == [s for s, _ in logs[1]]
    assert logs[0][-1] == logs[1][-1]
    counts = [read_json(tmp_path / d / "manifest.json")["harvest"] for d in ("whole", "cut")]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint(lm, tmp_path, number):
    run = world.run(tmp_path, epochs=40)
    threading.Timer(0.6, os.kill, (os.getpid(), number)).start()
    with pytest.raises(Interrupted, match="--resume"):
        train(run, lm, tmp_path / "out", shown=False)
    (last,) = checkpoint.steps(tmp_path / "out" / "checkpoints")[-1:]
    assert read_json(last / "checkpoint.json")["step"] > 0
    assert not (tmp_path / "out" / "sae").exists()
    assert signal.getsignal(number) is not None


def test_nan_stops_the_run_and_keeps_the_checkpoint(lm, tmp_path, monkeypatch):
    real = TopKSAE.loss

    def loss(self, x, y, step):
        out = real(self, x, y, step)
        return out._replace(total=out.total * float("nan")) if step.index == 30 else out

    monkeypatch.setattr(TopKSAE, "loss", loss)
    with pytest.raises(TrainingError, match="step 30"):
        train(world.run(tmp_path), lm, tmp_path / "out", shown=False)
    assert len(checkpoint.steps(tmp_path / "out" / "checkpoints")) >= 1
    assert not (tmp_path / "out" / "sae").exists()


def test_a_damaged_checkpoint_is_passed_over(lm, tmp_path):
    run = world.run(tmp_path, epochs=2)
    train(run, lm, tmp_path / "whole", shown=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "sae")
    _, newest = checkpoint.steps(tmp_path / "cut" / "checkpoints")
    data = bytearray((newest / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "weights.safetensors").write_bytes(bytes(data))
    train(run, lm, tmp_path / "cut", resume=True, shown=False)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_no_whole_checkpoint_is_an_error(lm, tmp_path):
    run = world.run(tmp_path)
    train(run, lm, tmp_path / "out", shown=False)
    for path in checkpoint.steps(tmp_path / "out" / "checkpoints"):
        (path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(FormatError, match="damaged"):
        train(run, lm, tmp_path / "out", resume=True, shown=False)


def test_a_folder_in_use_is_not_touched(lm, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="in use"):
        train(world.run(tmp_path), lm, tmp_path / "out", shown=False)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_resuming_another_run_is_refused(lm, tmp_path):
    train(world.run(tmp_path, tokens=1500), lm, tmp_path / "out", shown=False)
    with pytest.raises(ConfigError, match="other settings"):
        train(world.run(tmp_path, seed=5), lm, tmp_path / "out", resume=True, shown=False)


def test_an_sae_of_another_width_is_refused(lm, tmp_path):
    sae = TopK(d_in=16, d_out=16, d_sae=64, k=4)
    with pytest.raises(ConfigError, match="32 wide"):
        train(world.run(tmp_path, sae=sae), lm, tmp_path / "out", shown=False)
    assert not (tmp_path / "out").exists()


def test_a_disk_too_small_is_refused_before_work(lm, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))  # pyright: ignore
    with pytest.raises(ResourceError, match="are free"):
        train(world.run(tmp_path), lm, tmp_path / "out", shown=False)
    assert not (tmp_path / "out").exists()


def test_a_run_reads_back_from_its_file(lm, tmp_path):
    run = world.run(tmp_path, sae=JumpReLU(d_in=32, d_out=32, d_sae=64, target_l0=4.0))
    assert type(run).from_dict(json.loads(json.dumps(run.to_dict()))) == run
