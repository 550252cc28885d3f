"""The two sizes a token can be brought to, and what is put back."""

import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.saes.base import Scaling, Step
from saekit.saes.relu import ReLU
from saekit.saes.standardised import Standardised
from saekit.saes.topk import TopK

SIZES = {"d_in": 8, "d_out": 8, "d_sae": 16}


def made(by, inverse):
    g = torch.Generator().manual_seed(1)
    sae = Standardised(by=by, inverse=inverse, inner=TopK(k=3, **SIZES), **SIZES).build(g).double()
    sae.inner.b_dec.data.normal_(generator=g)
    return sae, 0.01 * torch.randn(30, 8, generator=g).double() + 0.02  # 1e-5 is not nothing


@pytest.mark.parametrize("inverse", ["exact", "published"])
@pytest.mark.parametrize("by", ["std", "rms"])
def test_what_divides_and_what_multiplies(by, inverse):
    sae, x = made(by, inverse)
    if by == "std":
        mean, spread = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        divided = spread + 1e-5
    else:
        mean, spread = 0.0, x.square().mean(-1, keepdim=True).sqrt()
        divided = spread
    size = divided if inverse == "exact" else spread
    inner = sae.inner.encode((x - mean) / divided)
    codes = sae.encode(x)
    torch.testing.assert_close(codes.dense(), inner.dense() * size)
    torch.testing.assert_close(sae.decode(codes), sae.inner.decode(inner) * size + mean)


@pytest.mark.parametrize("inverse", ["exact", "published"])
@pytest.mark.parametrize("by", ["std", "rms"])
def test_a_scaling_folds_exactly(by, inverse):
    sae, z = made(by, inverse)
    ones = torch.ones(8, dtype=torch.float64)
    x, y = Scaling(0.3 * ones, 0.2), Scaling(-ones, 3.0)
    codes, wanted = sae.encode(z).dense(), sae(z) / y.scale + y.mean
    raw = z / x.scale + x.mean
    sae.rescale(x, y)
    torch.testing.assert_close(sae(raw), wanted)
    torch.testing.assert_close(sae.encode(raw).dense(), codes / x.scale)


def shared_bias():
    g = torch.Generator().manual_seed(2)
    inner = TopK(k=3, aux_coefficient=0.0, **SIZES)
    sae = Standardised(inverse="published", bias="shared", inner=inner, **SIZES).build(g).double()
    sae.inner.b_dec.data.normal_(generator=g)
    sae.inner.b_enc.data.copy_(-(sae.inner.b_dec @ sae.inner.W_enc))
    return sae, torch.randn(30, 8, generator=g).double()


def test_a_shared_bias_learns_by_the_chain_rule():
    sae, x = shared_bias()
    w_enc, w_dec, b = (
        getattr(sae.inner, n).detach().clone().requires_grad_() for n in ("W_enc", "W_dec", "b_dec")
    )
    z = sae.standardised(x)
    top = ((z - b) @ w_enc).topk(3, dim=-1)
    acts = torch.zeros(30, 16).double().scatter(-1, top.indices, top.values.relu())
    (acts @ w_dec + b - z).square().mean().backward()
    nothing = Step(0, 0.0, torch.zeros(16, dtype=torch.bool))
    sae.loss(x, x, nothing).total.backward()
    sae.before_step()
    torch.testing.assert_close(sae.inner.b_dec.grad, b.grad)
    torch.testing.assert_close(sae.inner.W_enc.grad, w_enc.grad)
    assert not sae.inner.b_enc.grad.any()


def test_a_shared_bias_stays_one():
    sae, x = shared_bias()
    descent = torch.optim.Adam(sae.parameters(), lr=0.1)
    for index in range(3):
        descent.zero_grad()
        out = sae.loss(x, x, Step(index, 0.0, torch.zeros(16, dtype=torch.bool)))
        out.total.backward()
        sae.before_step()
        descent.step()
        sae.after_step(out)
    b, w_enc = sae.inner.b_dec, sae.inner.W_enc
    assert b.abs().max() > 0.1
    torch.testing.assert_close(sae.inner.b_enc, -(b @ w_enc))


def test_a_shared_bias_needs_latents_chosen_by_rank():
    with pytest.raises(ConfigError, match="chooses? latents by rank, as topk; got `relu`"):
        Standardised(bias="shared", inner=ReLU(**SIZES), **SIZES)
