"""The two sizes a token can be brought to, and what is put back."""

import pytest
import torch

from saekit.saes.base import Scaling
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
