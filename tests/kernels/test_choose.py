"""The choice of latents: what bfloat16 screens is what float32 would choose, proved or redone."""

import pytest
import torch

from saekit.core import machine
from saekit.kernels import choose

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
    assert choose._screened(x, W)
    codes = choose.top_latents(x, W, b, k, by_size=by_size)
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
    right = choose.top_latents(x, W, b, 32).latents.view(N, 32)
    assert (rough != right).any(-1).float().mean() > 0.1


def test_rows_that_cannot_be_proved_are_computed_in_full(path):
    x, W, b = weights()
    W = W.clone().t().contiguous()
    W[7] *= 1e4  # one long column: the bound on the error says nothing any more
    W = W.t()
    codes = choose.top_latents(x, W, b, 8)
    want = exact(x, W, b).topk(8, dim=-1).indices.sort(-1).values
    assert (codes.latents.view(N, 8) == want).float().mean() > 0.999


@pytest.mark.parametrize("shape", ["one", "each"])
@pytest.mark.parametrize("low", [-0.5, 0.0, 6.0])
def test_what_is_above_a_threshold_is_what_the_exact_product_says(path, shape, low):
    x, W, b = weights()
    x = x / x.norm(dim=-1, keepdim=True) * D**0.5
    threshold = torch.tensor(low) if shape == "one" else torch.linspace(low, low + 3, len(b))
    codes = choose.above(x, W, b, threshold)
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
        top = choose.top_latents(x, W, b, 16)
        over = choose.above(x / x.norm(dim=-1, keepdim=True), W, b, torch.tensor(1.2))
        found[native] = [top.values, top.latents, over.values, over.latents, over.starts]
    assert all(torch.equal(a, c) for a, c in zip(found[True], found[False], strict=True))
    assert len(found[True][2]) > 100


def test_not_a_number_stays_one(path):
    x, W, b = weights()
    x[5, 3] = float("nan")
    codes = choose.top_latents(x, W, b, 4)
    values = codes.values.view(N, 4)
    assert values[5].isnan().all()
    assert values[torch.arange(N) != 5].isfinite().all()


def test_ties_and_zero_rows(path):
    x, W, b = weights()
    x[0] = 0
    b = torch.zeros_like(b)
    codes = choose.top_latents(x, W, b, 4)
    first = codes.latents.view(N, 4)[0]
    assert len(first.unique()) == 4
    assert (codes.values.view(N, 4)[0] == 0).all()


@pytest.mark.parametrize("size", [1e-20, 1e-25, 1e-30, 1e-36])
def test_tiny_numbers_whose_squares_vanish_are_not_screened_out(path, size):
    g = torch.Generator().manual_seed(0)
    x, W = torch.randn(N, 64, generator=g) * size, torch.randn(1100, 64, generator=g).t()
    pre = x.double() @ W.double()
    codes = choose.top_latents(x, W, torch.zeros(1100), 8)
    assert torch.equal(codes.latents.view(N, 8), pre.topk(8, dim=-1).indices.sort(-1).values)
    over = choose.above(x, W, torch.zeros(1100), torch.tensor(20 * size))
    on = torch.zeros_like(pre, dtype=torch.bool)
    on[over.rows(), over.latents] = True
    assert torch.equal(on, pre > 20 * size)
    assert 1000 < int(on.sum()) < 20_000


def in_pairs(d_sae=2200):
    """Weights in which latent i + d_sae / 2 is latent i again: an odd k cuts through a pair."""
    x, W, b = weights(5, d_sae // 2)
    return x, torch.cat([W, W], 1).t().contiguous().t(), torch.cat([b, b])


def lowest_of_equals(x, W, b, k, *, by_size=False):
    """Return what one product in float64 and a stable sort choose."""
    pre = exact(x, W, b)
    size = pre.abs() if by_size else pre
    return torch.sort(size, dim=-1, descending=True, stable=True).indices[:, :k].sort(-1).values


@pytest.mark.parametrize("by_size", [False, True])
@pytest.mark.parametrize("rows", [N, 100, 1])
def test_of_equal_latents_the_lowest_is_kept_whatever_the_path_and_batch(path, rows, by_size):
    x, W, b = in_pairs()
    if by_size:
        W, b = W.clone(), b.clone()
        W[:, 1100:] *= -1  # equal in size, of the other sign
        b[1100:] *= -1
        W = W.t().contiguous().t()
    k, want = 17, lowest_of_equals(x, W, b, 17, by_size=by_size)
    parts = [choose.top_latents(p, W, b, k, by_size=by_size) for p in x.split(rows)[:4]]
    got = torch.cat([p.latents.view(-1, k) for p in parts])
    want = want[: len(got)]
    assert (got < 1100).sum() == 9 * len(got)  # the upper half of the last pair is left out
    assert (got == want).all(-1).float().mean() > 0.99  # float32 tells some others apart not so


def test_rows_of_zeros_take_the_first_latents(path):
    x, W, b = weights()
    codes = choose.top_latents(torch.zeros_like(x), W, torch.zeros_like(b), 4)
    assert torch.equal(codes.latents.view(N, 4), torch.arange(4).expand(N, 4))


def test_in_order_equals_stand_by_latent(path):
    x, W, b = in_pairs()
    for rows in (N, 50):
        got = choose.top_latents(x[:rows], W, b, 17, in_order=True)
        latents, values = got.latents.view(-1, 17), got.values.view(-1, 17)
        assert (values.diff() <= 0).all()
        assert (latents.diff()[values.diff() == 0] > 0).all()
        fewer = choose.top_latents(x[:rows], W, b, 7, in_order=True).latents.view(-1, 7)
        assert torch.equal(fewer, latents[:, :7])
