"""BatchTopK: the batch's budget is exact, and the threshold in use is unbiased."""

import pytest
import torch

from saekit.saes.base import Step
from saekit.saes.batch_topk import BatchTopK


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
