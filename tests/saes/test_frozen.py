"""Frozen halves stay as they were drawn, to the bit, and the other half learns."""

import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.hub.native import load, save
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.frozen import HALVES, Frozen
from saekit.saes.gated import Gated
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.matching_pursuit import MatchingPursuit
from saekit.saes.relu import ReLU
from saekit.saes.topk import TopK
from saekit.training.fit import Fit
from saekit.training.loop import train
from saekit.training.trainer import Training
from tests import world

SIZES = {"d_in": 16, "d_out": 16, "d_sae": 32}
INNER = [
    TopK(**SIZES, k=4),
    BatchTopK(**SIZES, k=4),
    JumpReLU(**SIZES, target_l0=4),
    ReLU(**SIZES, l1_coefficient=0.01),
    Gated(**SIZES, l1_coefficient=0.01),
]


class Noise:
    """A stream of random activations."""

    def __init__(self):
        self.served_tokens, self.chance = 0, torch.Generator().manual_seed(1)

    def batch(self):
        self.served_tokens += 64
        x = torch.randn(64, 16, generator=self.chance)
        return x, x

    def state(self):
        return {}, {}

    def load(self, tensors, values):
        raise AssertionError("nothing is resumed here")


def trained(cfg, steps=20):
    training = Training(Fit(sae=cfg, tokens=steps * 64, batch_tokens=64, lr=1e-2), Noise())
    before = {k: v.clone() for k, v in training.sae.state_dict().items()}
    for _ in range(steps):
        training.step(*training.stream.batch())
    return before, training.sae.state_dict()


@pytest.mark.parametrize("half", sorted(HALVES))
@pytest.mark.parametrize("inner", INNER, ids=lambda c: c.name)
def test_the_frozen_half_keeps_its_bits_and_the_other_learns(inner, half):
    before, after = trained(Frozen(**SIZES, inner=inner, half=half))
    frozen = {f"inner.{name}" for name in HALVES[half]}
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    other = "inner.W_enc" if half == "decoder" else "inner.W_dec"
    assert not torch.equal(before[other], after[other])


def test_it_begins_with_the_weights_of_what_it_wraps():
    inner = TopK(**SIZES, k=4)
    plain = inner.build(torch.Generator().manual_seed(3))
    frozen = Frozen(**SIZES, inner=inner).build(torch.Generator().manual_seed(3))
    assert torch.equal(frozen.directions(), plain.directions())


def test_it_is_saved_and_loaded(tmp_path):
    sizes = {"d_in": 32, "d_out": 32, "d_sae": 64}
    run = world.run(tmp_path, sae=Frozen(**sizes, inner=TopK(**sizes, k=4), half="encoder"))
    train(run, world.model(), tmp_path / "out", shown=False)
    one = load(tmp_path / "out")
    two = load(save(*one, tmp_path / "again"))
    x = torch.randn(5, 32)
    assert torch.equal(one.encode(x).dense(), two.encode(x).dense())
    assert one.cfg.half == "encoder"


def test_what_has_no_such_half_is_refused():
    inner = MatchingPursuit(**SIZES, k=3)
    with pytest.raises(ConfigError, match="no W_enc"):
        Frozen(**SIZES, inner=inner, half="encoder").build(torch.Generator())
