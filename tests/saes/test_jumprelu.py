"""JumpReLU: the pseudo-derivatives are those of their definition, and L0 reaches its target."""

import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.saes.base import Step
from saekit.saes.jumprelu import JumpReLU, _Jump, _Step

WIDTH = 0.2


def smooth_step(z):
    """The step convolved with a box of the bandwidth: its derivative is the pseudo-derivative."""
    return (z / WIDTH + 0.5).clamp(0, 1)


def test_the_threshold_learns_as_from_a_smoothed_step():
    pre = torch.linspace(-1, 2, 61, dtype=torch.float64) + 0.003
    at = torch.full_like(pre, 0.5).requires_grad_()
    _Step.apply(pre, at, WIDTH).sum().backward()
    h = 1e-6
    with torch.no_grad():
        slope = (smooth_step(pre - at - h) - smooth_step(pre - at + h)) / (2 * h)
    torch.testing.assert_close(at.grad, slope, atol=1e-6, rtol=1e-6)


def test_the_jump_is_the_step_times_the_threshold():
    pre = torch.linspace(-1, 2, 61, dtype=torch.float64) + 0.003
    grads = []
    for function in (_Jump, _Step):
        at = torch.full_like(pre, 0.5).requires_grad_()
        function.apply(pre, at, WIDTH).sum().backward()
        grads.append(at.grad)
    torch.testing.assert_close(grads[0], 0.5 * grads[1])


def test_acts_pass_their_gradient_only_where_on():
    pre = torch.tensor([0.2, 0.45, 0.55, 2.0], requires_grad=True)
    _Jump.apply(pre, torch.full((4,), 0.5), WIDTH).sum().backward()
    assert pre.grad is not None and pre.grad.tolist() == [0.0, 0.0, 1.0, 1.0]


def test_l0_reaches_its_target():
    g = torch.Generator().manual_seed(0)
    cfg = JumpReLU(d_in=16, d_out=16, d_sae=128, target_l0=6.0, warm_up=0.0)
    sae, dead = cfg.build(g), torch.zeros(128, dtype=torch.bool)
    scales = sae.rate_scales()
    groups = [
        {"params": [p], "lr": 3e-3 * scales.get(name, 1.0)} for name, p in sae.named_parameters()
    ]
    optimiser = torch.optim.Adam(groups)
    for i in range(600):
        x = torch.randn(256, 16, generator=g)
        out = sae.loss(x, x, Step(i, i / 600, dead))
        optimiser.zero_grad()
        out.total.backward()
        sae.before_step()
        optimiser.step()
        sae.after_step(out)
    l0 = len(sae.encode(torch.randn(2000, 16, generator=g)).values) / 2000
    assert l0 == pytest.approx(6.0, rel=0.2)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"bandwidth": 0.0}, "bandwidth"),
        ({"target_l0": 0.0}, "target_l0"),
        ({"target_l0": 99.0}, "widen the SAE"),
        ({"warm_up": 1.0}, "warm_up"),
    ],
)
def test_values_out_of_range_are_named(wrong, said):
    with pytest.raises(ConfigError, match=said):
        JumpReLU(d_in=8, d_out=8, d_sae=16, **({"target_l0": 4.0} | wrong))
