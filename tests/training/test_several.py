"""A batched step: every SAE ends where it would have ended alone."""

import dataclasses

import pytest
import torch

from saekit.core import machine
from saekit.core.errors import ConfigError
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.topk import TopK
from saekit.training.fit import Fit
from saekit.training.several import Several
from saekit.training.trainer import Training


class Noise:
    def __init__(self, batch=64, d=16):
        self.served_tokens, self.g = 0, torch.Generator().manual_seed(1)
        self.size, self.d = batch, d

    def batch(self):
        self.served_tokens += self.size
        x = torch.randn(self.size, self.d, generator=self.g)
        return x, x

    def state(self):
        return {}, {}

    def load(self, tensors, values):
        raise AssertionError("nothing is resumed here")


def fits(n=3, batch=64, d=16, d_sae=400, **changes):
    sae = TopK(d_in=d, d_out=d, d_sae=d_sae, k=4)
    common = {"sae": sae, "tokens": 12 * batch, "batch_tokens": batch, "clip_norm": 0.05}
    common |= {"dead_after_tokens": 3 * batch}  # some are dead: the auxiliary loss is on
    return [Fit(seed=seed, **common | changes) for seed in range(n)]


@pytest.mark.parametrize("screened", [False, True])
def test_each_ends_where_it_would_alone(screened, monkeypatch):
    size = {"batch": 1024, "d_sae": 1024} if screened else {}
    monkeypatch.setattr(machine, "bfloat16_products", lambda: screened)
    given = fits(**size)
    several = Several(given, Noise(size.get("batch", 64)))
    had_dead = False
    while several.stream.served_tokens < given[0].total_tokens:
        losses = several.step(*several.stream.batch())
        had_dead |= bool(several.dead.any())
    assert had_dead
    for fit, sae, last in zip(given, several.finish(), losses, strict=True):
        alone = Training(fit, Noise(size.get("batch", 64)))
        while alone.stream.served_tokens < fit.total_tokens:
            loss = alone.step(*alone.stream.batch())
        torch.testing.assert_close(last.total, loss.total, rtol=1e-4, atol=1e-6)
        for name, value in alone.sae.state_dict().items():
            torch.testing.assert_close(sae.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    assert not torch.equal(several.saes[0].W_dec, several.saes[1].W_dec)


def test_what_cannot_be_batched_is_refused():
    first, second, third = fits()
    with pytest.raises(ConfigError, match="seeds alone"):
        Several([first, dataclasses.replace(second, lr=1e-2)], Noise())
    with pytest.raises(ConfigError, match="Only `topk`"):
        sae = BatchTopK(d_in=4, d_out=4, d_sae=8, k=2.0)
        Several([dataclasses.replace(third, sae=sae)], Noise())
    with pytest.raises(ConfigError, match="no `ema`"):
        Several([dataclasses.replace(first, ema=0.9)], Noise())
    with pytest.raises(ConfigError, match="empty"):
        Several([], Noise())
