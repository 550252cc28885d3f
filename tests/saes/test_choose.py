"""The choice of latents: what bfloat16 screens is what float32 would choose, proved or redone."""

import pytest
import torch

from saekit.core import machine
from saekit.saes import _choose

D, N = 48, 1024


@pytest.fixture(params=["native", "torch"])
def path(request, monkeypatch):
    """Screen with and without compiled kernels, on any processor."""
    if request.param == "native":
        pytest.importorskip("numba")
    monkeypatch.setattr(machine, "bfloat16_products", lambda: True)
    monkeypatch.setattr(machine, "native_kernels", lambda: request.param == "native")
    return request.param


def weights(seed=0, d_sae=1100, n=N):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=g) * torch.rand(n, 1, generator=g).mul(6).exp2()
    W = torch.randn(d_sae, D, generator=g) * torch.rand(d_sae, 1, generator=g).add(0.1)
    return x, W.t(), torch.randn(d_sae, generator=g) * 0.3


def exact(x, W, b):
    return x.double() @ W.double() + b.double()


@pytest.mark.parametrize("k", [1, 3, 32, 64])
@pytest.mark.parametrize("by_size", [False, True])
def test_the_k_largest_are_those_of_the_exact_product(path, k, by_size):
    x, W, b = weights()
    assert _choose._screened(x, W)
    codes = _choose.top_latents(x, W, b, k, by_size=by_size)
    pre = exact(x, W, b)
    size = pre.abs() if by_size else pre
    want = torch.topk(size, k, dim=-1).indices.sort(-1).values
    got = codes.latents.view(N, k)
    differ = (got != want).any(-1)
    # Where float32 itself cannot tell two pre-activations apart, either may be taken.
    cut = size.topk(k, dim=-1).values[:, -1]
    lowest = size.gather(-1, got).amin(-1)
    assert torch.allclose(lowest[differ], cut[differ], rtol=1e-5)
    assert differ.float().mean() < 0.01
    torch.testing.assert_close(
        codes.values.view(N, k).double(), pre.gather(-1, got), rtol=1e-4, atol=1e-4
    )


def test_screening_alone_would_choose_wrongly(path):
    x, W, b = weights()
    rough = (x.bfloat16() @ W.bfloat16() + b.bfloat16()).topk(32, dim=-1).indices.sort(-1).values
    right = _choose.top_latents(x, W, b, 32).latents.view(N, 32)
    assert (rough != right).any(-1).float().mean() > 0.1


def test_rows_that_cannot_be_proved_are_computed_in_full(path):
    x, W, b = weights()
    W = W.clone().t().contiguous()
    W[7] *= 1e4  # one long column: the bound on the error says nothing any more
    W = W.t()
    codes = _choose.top_latents(x, W, b, 8)
    want = exact(x, W, b).topk(8, dim=-1).indices.sort(-1).values
    assert (codes.latents.view(N, 8) == want).float().mean() > 0.999


@pytest.mark.parametrize("shape", ["one", "each"])
@pytest.mark.parametrize("low", [-0.5, 0.0, 6.0])
def test_what_is_above_a_threshold_is_what_the_exact_product_says(path, shape, low):
    x, W, b = weights()
    x = x / x.norm(dim=-1, keepdim=True) * D**0.5
    threshold = torch.tensor(low) if shape == "one" else torch.linspace(low, low + 3, len(b))
    codes = _choose.above(x, W, b, threshold)
    pre = exact(x, W, b)
    on = pre > threshold
    got = torch.zeros_like(on)
    got[codes.rows(), codes.latents] = True
    assert (pre - threshold)[on != got].abs().max().item() < 1e-4 if (on != got).any() else True
    assert (on != got).sum() <= 5
    torch.testing.assert_close(
        codes.values.double(), pre[codes.rows(), codes.latents], rtol=1e-4, atol=1e-4
    )


def test_both_paths_give_the_same_bits(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(machine, "bfloat16_products", lambda: True)
    x, W, b = weights(3)
    found = {}
    for native in (True, False):
        monkeypatch.setattr(machine, "native_kernels", lambda native=native: native)
        top = _choose.top_latents(x, W, b, 16)
        over = _choose.above(x / x.norm(dim=-1, keepdim=True), W, b, torch.tensor(1.2))
        found[native] = [top.values, top.latents, over.values, over.latents, over.starts]
    assert all(torch.equal(a, c) for a, c in zip(found[True], found[False], strict=True))
    assert len(found[True][2]) > 100


def test_not_a_number_stays_one(path):
    x, W, b = weights()
    x[5, 3] = float("nan")
    codes = _choose.top_latents(x, W, b, 4)
    values = codes.values.view(N, 4)
    assert values[5].isnan().all()
    assert values[torch.arange(N) != 5].isfinite().all()


def test_ties_and_zero_rows(path):
    x, W, b = weights()
    x[0] = 0
    b = torch.zeros_like(b)
    codes = _choose.top_latents(x, W, b, 4)
    first = codes.latents.view(N, 4)[0]
    assert len(first.unique()) == 4
    assert (codes.values.view(N, 4)[0] == 0).all()
