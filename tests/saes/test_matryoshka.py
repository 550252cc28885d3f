import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.saes.base import Step
from saekit.saes.matryoshka import Matryoshka


def built(**settings):
    g = torch.Generator().manual_seed(1)
    cfg = Matryoshka(d_in=8, d_out=8, d_sae=32, k=4.0, aux_coefficient=0.0, **settings)
    sae = cfg.build(g).double()
    sae.b_dec.data.normal_(generator=g)
    return sae, torch.randn(40, 8, generator=g, dtype=torch.float64)


def step(seed=0):
    return Step(0, 0.5, torch.zeros(32, dtype=torch.bool), seed)


@pytest.mark.parametrize("widths", [None, (1, 5, 20), (7,), (32,)])
def test_the_loss_is_that_of_every_prefix(widths):
    sae, x = built(widths=widths)
    out = sae.loss(x, x, step())
    acts = out.acts.dense()
    levels = {None: (2, 4, 8, 16, 32), (32,): (32,)}.get(widths) or (*widths, 32)
    errors = [
        (acts[:, :w] @ sae.W_dec[:w] + sae.b_dec - x).square().mean() / len(levels) for w in levels
    ]
    torch.testing.assert_close(out.terms["mse"], errors[-1])
    torch.testing.assert_close(out.terms["nested"], sum(errors[:-1], torch.zeros_like(errors[-1])))
    torch.testing.assert_close(out.y_hat, acts @ sae.W_dec + sae.b_dec)


def test_gradients_are_those_of_the_dense_formula():
    sae, x = built(widths=(4, 12))
    out = sae.loss(x, x, step())
    out.total.backward()
    found = {name: p.grad.clone() for name, p in sae.named_parameters()}
    sae.zero_grad()
    acts = (x @ sae.W_enc + sae.b_enc) * (out.acts.dense() != 0)
    total = sum(
        (acts[:, :w] @ sae.W_dec[:w] + sae.b_dec - x).square().mean() / 3 for w in (4, 12, 32)
    )
    total.backward()
    for name, p in sae.named_parameters():
        torch.testing.assert_close(found[name], p.grad, msg=name)


def test_random_widths_follow_the_seed_and_favour_short_prefixes():
    sae, _ = built(draw="random")
    drawn = torch.stack([sae._widths(seed) for seed in range(2000)])
    assert torch.equal(sae._widths(5), sae._widths(5))
    assert (drawn[:, -1] == 32).all() and (drawn >= 1).all()
    assert (drawn.diff(dim=1) >= 0).all()
    # P(width <= w) of the cut-off Pareto law with exponent 1/2
    for w in (1, 3, 8, 16):
        wanted = (1 - (w + 1) ** -0.5) / (1 - 32**-0.5)
        share = (drawn[:, :-1] <= w).double().mean()
        assert abs(share - wanted) < 0.02


@pytest.mark.parametrize("widths", [(), (4, 4), (8, 4), (0, 4), (4, 64)])
def test_refuses_widths_that_do_not_increase(widths):
    with pytest.raises(ConfigError, match="`widths` must increase|must be at least 1"):
        Matryoshka(d_in=8, d_out=8, d_sae=32, k=4.0, widths=widths)
