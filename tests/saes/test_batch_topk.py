"""BatchTopK: the batch's budget is exact, and the threshold in use is unbiased."""

import pytest
import torch

from saekit.saes.base import Step, registry
from saekit.saes.batch_topk import BatchTopK

GENERATOR = torch.Generator()


def built(k=3.0, d_sae=64):
    cfg = BatchTopK(d_in=8, d_out=8, d_sae=d_sae, k=k)
    return cfg.build(torch.Generator().manual_seed(0))


def test_training_keeps_the_largest_of_the_batch_whatever_the_running_threshold():
    sae, x = built(), torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    pre = (x @ sae.W_enc + sae.b_enc).detach().relu().flatten()
    wanted = pre.topk(150).values.sort().values
    for running in (0.0, 0.5, 1.5, 100.0):
        sae.cutoff_sum.fill_(running)
        sae.cutoff_weight.fill_(1.0)
        loss = sae.loss(x, x, Step(0, 0.0, torch.zeros(64, dtype=torch.bool)))
        torch.testing.assert_close(loss.acts.values.sort().values, wanted)


def test_the_threshold_has_no_bias_from_its_start():
    sae, x = built(), torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    for _ in range(3):  # far fewer steps than the memory of the mean
        loss = sae.loss(x, x, Step(0, 0.0, torch.zeros(64, dtype=torch.bool)))
        sae.after_step(loss)
    assert float(sae.threshold) == pytest.approx(float(loss.acts.values.min()), rel=1e-5)
    l0 = len(sae.encode(x).values) / len(x)
    assert l0 == pytest.approx(3.0, abs=0.05)


@pytest.mark.parametrize("wrap", [None, "standardised", "skip"])
@pytest.mark.parametrize("name", ["batch_topk", "matryoshka"])
def test_settling_takes_the_threshold_of_the_weights_as_they_are(name, wrap):
    inner = registry.get(name)(d_in=8, d_out=8, d_sae=64, k=3.0, start_k=9.0, anneal=0.5)
    cfg = inner if wrap is None else registry.get(wrap)(d_in=8, d_out=8, d_sae=64, inner=inner)
    sae, x = cfg.build(torch.Generator().manual_seed(0)), torch.randn(400, 8)
    sae.after_step(sae.loss(x, x, Step(0, 0.0, torch.zeros(64, dtype=torch.bool))))
    with torch.no_grad():  # weights move on, and the running mean does not see it
        for weight in sae.parameters():
            weight.mul_(1.5)
    assert sae.settles
    assert abs(len(sae.encode(x).values) / 400 - 3.0) > 0.5
    sae.settle(x)
    assert len(sae.encode(x).values) / 400 == pytest.approx(3.0, abs=0.01)


def test_settling_on_what_keeps_nothing_leaves_the_threshold():
    sae = built()
    sae.after_step(sae.loss(torch.randn(50, 8), torch.randn(50, 8), Step(0, 0.0, torch.zeros(64))))
    before = float(sae.threshold)
    with torch.no_grad():
        sae.b_enc.fill_(-100.0)
    sae.settle(torch.randn(50, 8))
    assert float(sae.threshold) == before


def test_only_what_runs_along_settles():
    names = [n for n in registry.names() if registry.get(n).example().build(GENERATOR).settles]
    assert names == ["batch_topk", "crosscoder", "matryoshka"]
