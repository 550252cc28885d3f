"""The running mean of weights, against one written by hand."""

import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.topk import TopK
from saekit.training.ema import WeightMean
from saekit.training.loop import train
from saekit.training.run import Run
from saekit.training.trainer import Training
from tests import world
from tests.training.cut import assert_resumes, weights

PLAIN = {"normalise": "none", "centre": "none"}  # finished weights are those of training


@pytest.fixture(scope="module")
def lm():
    return world.model()


def test_the_mean_is_unbiased_from_the_first_step():
    sae = TopK(d_in=4, d_out=4, d_sae=6, k=2).build(torch.Generator().manual_seed(0))
    mean, g = WeightMean(sae, 0.9), torch.Generator().manual_seed(1)
    seen = []
    for t in range(1, 8):
        with torch.no_grad():
            sae.W_enc.copy_(torch.randn(4, 6, generator=g))
        mean.update(t)
        seen.append(sae.W_enc.detach().double().clone())
        shares = torch.tensor([0.9 ** (t - s) for s in range(1, t + 1)], dtype=torch.float64)
        wanted = (torch.stack(seen) * (shares / shares.sum())[:, None, None]).sum(0)
        torch.testing.assert_close(mean.mean["W_enc"].double(), wanted, atol=1e-6, rtol=1e-5)
    assert mean.mean["W_enc"].stride() == sae.W_enc.stride()
    mean.restart("W_enc", torch.tensor([1, 4]), 1)
    changed = (mean.mean["W_enc"] == sae.W_enc).all(0)
    assert changed.tolist() == [False, True, False, False, True, False]
    mean.finish()
    assert torch.equal(sae.W_enc, mean.mean["W_enc"])


@pytest.mark.parametrize(
    "sae",
    [
        BatchTopK(d_in=32, d_out=32, d_sae=64, k=4.0),
        JumpReLU(d_in=32, d_out=32, d_sae=64, target_l0=4.0),
    ],
    ids=lambda cfg: cfg.name,
)
def test_the_finished_sae_has_mean_weights_on_the_constraint(lm, tmp_path, monkeypatch, sae):
    """Parameters (a learnt threshold too) are means; buffers are taken anew of these."""
    run = world.run(tmp_path, sae=sae, ema=0.8, **PLAIN)
    seen, real = [], Training.step

    def step(self, x, y):
        loss = real(self, x, y)
        seen.append({k: v.double().clone() for k, v in self.sae.state_dict().items()})
        return loss

    monkeypatch.setattr(Training, "step", step)
    train(run, lm, tmp_path / "out", shown=False)
    shares = torch.tensor([0.8 ** (len(seen) - t) for t in range(1, len(seen) + 1)]).double()
    shares /= shares.sum()
    for name, found in weights(tmp_path / "out").items():
        every = torch.stack([s[name] for s in seen])
        wanted = torch.tensordot(shares, every, 1)
        if name.startswith("cutoff"):
            continue  # test_settling
        if name == "W_dec":
            assert float(wanted.norm(dim=-1).min()) < 0.999
            wanted = wanted / wanted.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["batch_topk", "jumprelu"])
def test_a_run_with_a_mean_resumes_bit_for_bit(lm, tmp_path, monkeypatch, name):
    more = {"batch_topk": BatchTopK(d_in=32, d_out=32, d_sae=64, k=4.0)}
    more["jumprelu"] = JumpReLU(d_in=32, d_out=32, d_sae=64, target_l0=4.0)
    run = world.run(tmp_path, sae=more[name], ema=0.95)
    assert_resumes(run, lm, tmp_path, monkeypatch, at=31)


def test_training_itself_is_not_changed(lm, tmp_path, monkeypatch):
    last, real = {}, Training.step

    def step(self, x, y):
        loss = real(self, x, y)
        last[self.run.ema] = {k: v.clone() for k, v in self.sae.state_dict().items()}
        return loss

    monkeypatch.setattr(Training, "step", step)
    for ema in (None, 0.9):
        train(world.run(tmp_path, ema=ema, tokens=2000), lm, tmp_path / str(ema), shown=False)
    assert all(torch.equal(last[None][k], last[0.9][k]) for k in last[None])


@pytest.mark.parametrize("ema", [0.0, 1.0, -0.5, float("nan")])
def test_values_out_of_range_are_named(tmp_path, ema):
    with pytest.raises(ConfigError, match="`ema` must be .*above 0 and below 1; got"):
        Run.from_dict(world.run(tmp_path).to_dict() | {"ema": ema})
