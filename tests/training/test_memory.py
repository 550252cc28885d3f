"""What a run will hold is said before it starts, and a run that cannot fit is refused."""

import pytest
import torch

from saekit.core import machine
from saekit.core.errors import ResourceError
from saekit.recipes import get
from saekit.saes.base import registry
from saekit.saes.crosscoder import Crosscoder
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.multi_topk import MultiTopK
from saekit.saes.relu import ReLU
from saekit.saes.skip import Skip
from saekit.saes.standardised import Standardised
from saekit.saes.temporal import Temporal
from saekit.saes.topk import TopK
from saekit.training import memory
from saekit.training.fit import Fit
from saekit.training.loop import train
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
    with (
        pytest.raises(ResourceError, match=r"6\.0 GB.*Lower `buffer_tokens`"),
        memory.explained(plan),
    ):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_pass():
    with (
        pytest.raises(RuntimeError, match="unrelated"),
        memory.explained(memory.Plan({"weights": 1}, None)),
    ):
        raise RuntimeError("unrelated")


def test_free_memory_is_known_on_linux():
    free = machine.free_memory()
    assert free is None or 0 < free < 2**50


ARCHITECTURES = [registry.get(name).example() for name in registry.names()]


@pytest.mark.parametrize("cfg", ARCHITECTURES, ids=lambda cfg: cfg.name)
def test_the_plan_counts_the_numbers_of_every_architectures_matrices(cfg):
    sae = cfg.build(torch.Generator().manual_seed(0))
    held = sum(p.numel() for n, p in sae.named_parameters() if p.ndim > 1 and ".b_" not in f".{n}")
    assert cfg.n_weights == held


@pytest.mark.parametrize("wrapper", [Standardised, Skip])
@pytest.mark.parametrize("inner", [TopK, MultiTopK, JumpReLU])
def test_an_architecture_around_another_is_planned_as_the_one_in_it(wrapper, inner):
    sizes = {"d_in": 512, "d_out": 512, "d_sae": 8192}
    alone = memory.plan_fit(fit(sae=inner(**sizes)), "cpu")
    around = memory.plan_fit(fit(sae=wrapper(inner=inner(**sizes), **sizes)), "cpu")
    assert around.parts["dense codes"] == alone.parts["dense codes"] == 0
    assert alone.total <= around.total < 1.03 * alone.total
    dense = memory.plan_fit(fit(sae=wrapper(inner=ReLU(**sizes), **sizes)), "cpu")
    assert dense.parts["dense codes"] > 2048 * 8192 * 4


def test_codes_that_are_dense_in_spite_of_a_k_are_planned_so():
    sizes = {"d_in": 64, "d_out": 64, "d_sae": 1024}
    for cfg in (Temporal(**sizes, k=4), Crosscoder(**sizes, n_sites=2, activation="relu")):
        assert memory.plan_fit(fit(sae=cfg), "cpu").parts["dense codes"] > 0
    assert memory.plan_fit(fit(sae=Crosscoder(**sizes, n_sites=2)), "cpu").parts["dense codes"] == 0


def test_the_published_multi_layer_run_fits_where_it_should():
    parts = memory.plan_fit(get("mlsae"), "cpu").parts
    assert parts["dense codes"] == 0 and 15e9 < sum(parts.values()) < 17e9
