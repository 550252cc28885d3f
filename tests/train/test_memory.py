"""What a run will hold is said before it starts, and a run that cannot fit is refused."""

import pytest
import torch

from saekit.core import machine
from saekit.core.errors import ResourceError
from saekit.saes.relu import ReLU
from saekit.saes.topk import TopK
from saekit.train import memory
from saekit.train.fit import Fit
from saekit.train.loop import train
from tests import world


def fit(**kwargs):
    sae = kwargs.pop("sae", None) or TopK(d_in=768, d_out=768, d_sae=24576, k=32)
    return Fit(sae=sae, tokens=10**6, batch_tokens=2048, **kwargs)


def test_weights_gradients_and_moments_are_counted():
    parts = memory.plan_fit(fit(), "cpu").parts
    weights = 2 * 768 * 24576 * 4
    assert parts["weights"] == parts["gradients"] == weights
    assert parts["moments"] == 2 * weights
    assert parts["mean weights"] == 0
    assert memory.plan_fit(fit(ema=0.99), "cpu").parts["mean weights"] == weights


def test_an_architecture_that_starts_dense_is_planned_so():
    dense = memory.plan_fit(fit(sae=ReLU(d_in=768, d_out=768, d_sae=24576)), "cpu").parts
    assert dense["dense codes"] > 2048 * 24576 * 4
    assert memory.plan_fit(fit(), "cpu").parts["dense codes"] == 0


def test_a_run_that_cannot_fit_is_refused_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda device="cpu": 1000)
    with pytest.raises(ResourceError, match=r"does not fit.*of 0 MB free.*Lower"):
        train(world.run(tmp_path), world.model(), tmp_path / "out", shown=False)
    assert not (tmp_path / "out").exists()


def test_running_out_ends_with_the_plan_and_what_to_change():
    plan = memory.Plan({"weights": 10**9, "activations": 5 * 10**9}, None)
    with pytest.raises(ResourceError, match=r"6\.0 GB.*Lower `buffer_tokens`"), (
        memory.explained(plan)
    ):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="unrelated"), (
        memory.explained(memory.Plan({"weights": 1}, None))
    ):
        raise RuntimeError("unrelated")


def test_free_memory_is_known_on_linux():
    free = machine.free_memory()
    assert free is None or 0 < free < 2**50
