"""The same seed gives the same weights with and without compiled kernels, bit for bit."""

import pytest
import torch

from saekit.core import machine
from saekit.saes.base import SAEConfig
from saekit.training.fit import Fit
from saekit.training.trainer import Training

ARCHITECTURES = {
    "topk": {"k": 8},
    "batch_topk": {"k": 8.0},
    "jumprelu": {"target_l0": 8.0},
    "abs_topk": {"k": 8},
}


class Noise:
    """A stream of random activations."""

    def __init__(self):
        self.served_tokens, self.g = 0, torch.Generator().manual_seed(1)

    def batch(self):
        self.served_tokens += 1024
        x = torch.randn(1024, 32, generator=self.g)
        return x, x

    def state(self):
        return {}, {}

    def load(self, tensors, values):
        raise AssertionError("nothing is resumed here")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_compiled_kernels_change_no_bit(name, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(machine, "bfloat16_products", lambda: True)
    raw = {"name": name, "d_in": 32, "d_out": 32, "d_sae": 1024} | ARCHITECTURES[name]
    fit = Fit(sae=SAEConfig.from_dict(raw), tokens=8 * 1024, batch_tokens=1024)
    ended = {}
    for native in (True, False):
        calls = []

        def asked(native=native, calls=calls):
            calls.append(native)
            return native

        monkeypatch.setattr(machine, "native_kernels", asked)
        training = Training(fit, Noise())
        while training.stream.served_tokens < fit.total_tokens:
            training.step(*training.stream.batch())
        assert calls, "the choice never came to the two paths"
        ended[native] = training.sae.state_dict()
    for key, value in ended[True].items():
        assert torch.equal(value, ended[False][key]), key
