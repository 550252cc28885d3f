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


def assert_resumes(run, lm, folder, monkeypatch, at):
    """Train whole, and killed at a step and resumed; the bits must be the same."""
    train(run, lm, folder / "whole", shown=False)
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
    assert_same(weights(folder / "whole"), weights(folder / "cut"))
    return weights(folder / "whole")
