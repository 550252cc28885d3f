"""Going back where a step failed: to the last checkpoint, at half the rate, and exactly again."""

import math
import os
import signal

import pytest
import torch

from saekit.core.errors import ConfigError, Interrupted, TrainingError
from saekit.core.files import read_json_lines, read_tensors
from saekit.training import checkpoint, loop
from saekit.training.loop import train
from tests import world
from tests.training.cut import assert_resumes


@pytest.fixture(scope="module")
def lm():
    return world.model()


def weights(out):
    return read_tensors(out / "sae" / "weights.safetensors")


def poison(monkeypatch, when):
    """Make the loss NaN at steps that `when(training)` names."""
    real = loop.Training.step

    def step(self, x, y):
        return real(self, x * float("nan") if when(self) else x, y)

    monkeypatch.setattr(loop.Training, "step", step)


@pytest.mark.parametrize("changes", [{}, {"buffer_tokens": 8000}], ids=["rolling", "in memory"])
@pytest.mark.parametrize("at", [5, 30])
def test_training_goes_back_and_on_at_half_the_rate(lm, tmp_path, monkeypatch, changes, at):
    run = world.run(tmp_path, rollbacks=1, **changes)
    poison(monkeypatch, lambda t: t.index == at and t.rollbacks == 0)
    train(run, lm, tmp_path / "out", shown=False)
    log = list(read_json_lines(tmp_path / "out" / "log.jsonl"))
    (back,) = [r for r in log if r["kind"] == "rollback"]
    first = 0 if at == 5 else 24  # checkpoints are every 1,500 tokens, after 12 and 24 steps
    assert back["from_step"] == at and back["step"] == first and "nan" in back["reason"].lower()
    steps = [r for r in log if r["kind"] == "step"]
    assert [r["step"] for r in steps] == [*range(5, 47, 5), 47]
    for r in steps:
        share = 1 if r["step"] <= first else 0.5
        assert r["lr"] == pytest.approx(share * run.lr_at(r["step"] - 1))
    assert steps[-1]["tokens"] == run.total_tokens


def test_going_back_is_the_same_after_a_kill(lm, tmp_path, monkeypatch):
    run = world.run(tmp_path, rollbacks=2)
    poison(monkeypatch, lambda t: t.index in (20, 35) and t.rollbacks == (t.index > 30))
    train(run, lm, tmp_path / "whole", shown=False)
    real = loop.Training.step

    def step(self, x, y):
        if self.index == 28 and self.rollbacks == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, x, y)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "step", step)
        with pytest.raises(Interrupted):
            train(run, lm, tmp_path / "cut", shown=False)
    train(run, lm, tmp_path / "cut", resume=True, shown=False)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_without_a_rollback_left_training_ends(lm, tmp_path, monkeypatch):
    poison(monkeypatch, lambda t: t.index == 30)
    run = world.run(tmp_path, rollbacks=2)
    with pytest.raises(TrainingError, match="step 30"):
        train(run, lm, tmp_path / "out", shown=False)
    backs = [r for r in read_json_lines(tmp_path / "out" / "log.jsonl") if r["kind"] == "rollback"]
    assert len(backs) == 2
    assert not (tmp_path / "out" / "sae").exists()


def test_a_spike_is_a_failure_where_that_is_asked(lm, tmp_path, monkeypatch):
    real = loop.Training.step

    def step(self, x, y):
        return real(self, 30 * x if self.index == 60 else x, y)

    monkeypatch.setattr(loop.Training, "step", step)
    calm = world.run(tmp_path, epochs=2)
    train(calm, lm, tmp_path / "calm", shown=False)
    with pytest.raises(TrainingError, match="jumped"):
        train(world.run(tmp_path, epochs=2, spike=5.0), lm, tmp_path / "out", shown=False)


def test_a_run_killed_between_checkpoints_by_the_clock_goes_on(lm, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "LEAST_BETWEEN", 0)
    run = world.run(tmp_path, checkpoint_tokens=None, checkpoint_minutes=1e-9)
    assert run.checkpoint_every is None
    assert_resumes(run, lm, tmp_path, monkeypatch, at=20)


def test_the_clock_leaves_writing_a_fiftieth_of_the_time(monkeypatch):
    now = 100.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    clock, never = checkpoint.Clock(2), checkpoint.Clock(math.inf)
    for passed, due in ((119, False), (1, True)):
        now += passed
        assert clock.due is due
    with clock.writing():
        now += 1
    now += 119
    assert not clock.due
    now += 1
    assert clock.due
    with clock.writing():
        now += 10  # 50 times that is over 2 minutes
    now += 499
    assert not clock.due
    now += 1
    assert clock.due and not never.due


def test_going_back_has_a_checkpoint_a_quarter(tmp_path):
    run = world.run(tmp_path, checkpoint_tokens=None, rollbacks=1)
    assert run.checkpoint_every == run.total_tokens // 4


def test_settings_are_checked(tmp_path):
    for changes, said in (
        ({"spike": 1.0}, "above 1"),
        ({"rollbacks": -1}, "rollbacks"),
        ({"checkpoint_minutes": 0.0}, "above 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            world.run(tmp_path, **changes)


def test_a_damaged_checkpoint_is_said_and_the_one_before_used(lm, tmp_path, monkeypatch, capsys):
    run = world.run(tmp_path)
    train(run, lm, tmp_path / "whole", shown=False)
    real = loop.Training.step

    class Killed(BaseException):
        pass

    def step(self, x, y):
        if self.index == 40:
            raise Killed
        return real(self, x, y)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "step", step)
        with pytest.raises(Killed):
            train(run, lm, tmp_path / "cut", shown=False)
    before, last = checkpoint.steps(tmp_path / "cut" / "checkpoints")
    file = last / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(bytes(data))
    capsys.readouterr()
    train(run, lm, tmp_path / "cut", resume=True, shown=False)
    assert "damaged" in capsys.readouterr().err
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert before.name < last.name
