"""The path on codes against plain matrix products and autograd's own gradients."""

import pytest
import torch

from saekit.core.codes import Codes
from saekit.kernels import sparse

D_IN, D_SAE = 6, 20


def draws(n, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, D_IN, generator=g, dtype=dtype)
    W_enc = sparse.latent_major(torch.randn(D_IN, D_SAE, generator=g, dtype=dtype))
    W_dec = torch.randn(D_SAE, D_IN, generator=g, dtype=dtype)
    b_enc = torch.randn(D_SAE, generator=g, dtype=dtype)
    return x, W_enc, W_dec, b_enc


def chosen(x, W_enc, b_enc, level):
    """Entries above a level: rows of any length, some empty."""
    pre = x @ W_enc + b_enc
    rows, latents = (pre > level).nonzero(as_tuple=True)
    return pre, sparse.chosen_codes(pre[rows, latents], rows, latents, len(x), D_SAE)


@pytest.mark.parametrize("dense_share", [2.0, -1.0])
@pytest.mark.parametrize("n", [0, 1, 9])
@pytest.mark.parametrize("level", [-50.0, 1.0, 4.0, 99.0])
def test_values_and_gradients_are_autograds(monkeypatch, dense_share, n, level):
    monkeypatch.setattr(sparse, "DENSE_SHARE", dense_share)
    found = {}
    for path in ("codes", "plain"):
        leaves = [t.clone().requires_grad_() for t in draws(n)]
        leaves[1] = sparse.latent_major(leaves[1].detach()).requires_grad_()
        x, W_enc, W_dec, b_enc = leaves
        with torch.no_grad():
            dense, codes = chosen(x, W_enc, b_enc, level)
        if path == "codes":
            pre = sparse.pre_acts(x, W_enc, b_enc, codes)
            out = sparse.decode(codes._replace(values=pre.tanh()), W_dec)
        else:
            pre = x @ W_enc + b_enc
            out = (pre.tanh() * (dense > level)) @ W_dec
        (out.sin().sum() + (out * out).sum()).backward()
        found[path] = [out.detach(), *(t.grad for t in leaves)]
    for a, b in zip(found["codes"], found["plain"], strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


def test_a_latent_in_every_row_and_one_in_none():
    latents = torch.tensor([[0, 3], [3, 1], [2, 3]])
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    W_dec = torch.randn(5, 4, requires_grad=True)
    acts = Codes.fixed(values, latents, 5)
    out = sparse.decode(acts, W_dec)
    torch.testing.assert_close(out, acts.dense() @ W_dec)
    out.sum().backward()
    assert W_dec.grad is not None
    assert torch.equal(W_dec.grad[4], torch.zeros(4))
    torch.testing.assert_close(W_dec.grad[3], torch.full((4,), 11.0))


def test_gradients_have_the_layout_of_their_weights():
    x, W_enc, _, b_enc = draws(9, torch.float32)
    W_enc.requires_grad_()
    _, codes = chosen(x, W_enc.detach(), b_enc, 1.0)
    sparse.pre_acts(x, W_enc, b_enc, codes).sum().backward()
    assert W_enc.grad is not None and W_enc.grad.stride() == W_enc.stride() == (1, D_IN)
