"""Runs ended between checkpoints, as by a kill, then taken up again."""

import pytest
import torch

from saekit.core.files import read_tensors
from saekit.training.loop import train
from saekit.training.trainer import Training


class Killed(BaseException):
    pass


def weights(out):
    return read_tensors(out / "sae" / "weights.safetensors")


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def left_alone(run, lm, out):
    """Train without an end in between and return the weights."""
    train(run, lm, out, shown=False)
    return weights(out)


def assert_resumes(run, lm, folder, monkeypatch, at, whole=None):
    """Train killed at a step and resumed; the bits are those of `left_alone`, given or not."""
    whole = left_alone(run, lm, folder / "whole") if whole is None else whole
    real = Training.step

    def step(self, x, y):
        if self.index == at:
            raise Killed
        return real(self, x, y)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", step)
        with pytest.raises(Killed):
            train(run, lm, folder / "cut", shown=False)
    assert list((folder / "cut" / "checkpoints").glob("step-*"))
    train(run, lm, folder / "cut", resume=True, shown=False)
    assert_same(whole, weights(folder / "cut"))
    return whole
