"""Codes against dense arrays."""

import torch

from saekit.core.codes import Codes


def dense(n=7, d_sae=11, seed=0):
    g = torch.Generator().manual_seed(seed)
    acts = torch.randn(n, d_sae, generator=g)
    acts[acts < 0.5] = 0
    acts[3] = 0  # an empty row
    return acts


def test_dense_and_back():
    assert torch.equal(Codes.from_dense(dense()).dense(), dense())
    shaped = dense().view(7, 1, 11)
    assert torch.equal(Codes.from_dense(shaped).dense(), shaped)


def test_fixed_width_rows():
    values, latents = dense().topk(3)
    wanted = torch.zeros(7, 11).scatter(1, latents, values)
    assert torch.equal(Codes.fixed(values, latents, 11).dense(), wanted)


def test_taking_rows_and_joining_them():
    codes = Codes.from_dense(dense())
    assert torch.equal(codes.take(torch.tensor([5, 3, 5])).dense(), dense()[[5, 3, 5]])
    assert torch.equal(codes.take(slice(2, 5)).dense(), dense()[2:5])
    again = Codes.cat([codes.take(slice(0, 4)), codes.take(slice(4, 7))])
    assert torch.equal(again.dense(), dense())


def test_dropping_zeros_changes_nothing_dense():
    codes = Codes.fixed(*dense().topk(4), 11)
    live = codes.live()
    assert len(live.values) < len(codes.values)
    assert torch.equal(live.dense(), codes.dense())


def test_gradients_pass_through_dense():
    acts = dense().requires_grad_()
    Codes.from_dense(acts).dense().square().sum().backward()
    assert acts.grad is not None
    torch.testing.assert_close(acts.grad, 2 * dense())


def test_no_rows():
    none = Codes.from_dense(torch.zeros(0, 5))
    assert none.n_rows == 0 and none.dense().shape == (0, 5)
