"""Alone, what crosses processes gives back what it was given."""

import pytest
import torch

from saekit.core import processes
from saekit.core.errors import ConfigError
from saekit.core.processes import Group


@pytest.mark.parametrize("name", ["sum", "mean", "min", "max", "joined", "averaged", "from_first"])
def test_a_group_of_one_gives_back_the_same_tensor(name):
    x = torch.randn(3, requires_grad=True)
    assert getattr(Group(), name)(x) is x


def test_a_group_of_one_sends_nothing():
    group = Group()
    x = torch.ones(2)
    group.add_in_place([x], 5.0)
    assert torch.equal(x, torch.ones(2))
    assert group.gather(x).shape == (1, 2)
    assert group.texts("a") == ["a"] and group.any(True) and not group.any(False)
    assert group.on_first(lambda: 7) == 7
    assert group.first and processes.first() and processes.world().size == 1


def test_things_are_dealt_in_equal_runs():
    parts = [Group(rank=r, size=4).share(12) for r in range(4)]
    assert [i for p in parts for i in range(12)[p]] == list(range(12))


def test_a_session_without_torchrun_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes.session() as world:
        assert world.size == 1
    processes.leave(3)  # does not end a process that is alone


@pytest.mark.parametrize("wrong", ["no", "0", "-1", "inf", "nan"])
def test_a_timeout_that_is_none_is_refused(monkeypatch, wrong):
    monkeypatch.setenv(processes.TIMEOUT_VARIABLE, wrong)
    with pytest.raises(ConfigError, match="seconds above 0"):
        processes._timeout()


def test_a_lost_process_is_an_error_of_training():
    with (
        pytest.raises(processes.TrainingError, match="lost or hangs.*Connection closed"),
        processes.talking(),
    ):
        raise RuntimeError("Connection closed by peer\nmore")
