"""GPU kernels against plain matrix products: interpreted on a CPU, compiled on a GPU.

Triton decides at its import whether it interprets, for the whole process. So without a GPU
tests/conftest.py asks for the interpreter, and with one for the device; on a machine that has
one, `TRITON_INTERPRET=1 pytest tests/kernels/test_triton.py` runs the interpreted half, and
`pytest -m gpu` the compiled one.
"""

import importlib
import sys

import pytest
import torch

from saekit.core.codes import Codes

BOUND = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}

pytest.importorskip("triton")
maps = importlib.import_module("saekit.kernels.triton.maps")
choose = importlib.import_module("saekit.kernels.triton.choose")


# Interpreting takes up to six seconds a test. -m gpu runs the compiled half.
@pytest.fixture(
    params=[
        pytest.param("interpreter", marks=pytest.mark.slow),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ]
)
def device(request, monkeypatch):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if (request.param == "interpreter") != maps.INTERPRETED:
        pytest.skip("Triton interprets or compiles, one of both in a process: TRITON_INTERPRET")
    if request.param == "cuda":
        return "cuda"
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # Triton also asks at a first call
    return "cpu"


def draw(*shape, seed=0, device="cpu", dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g).to(device, dtype)


def draw_codes(n, d_sae, share, device="cpu", dtype=torch.float32):
    """Codes with rows of any length: the last is empty, the first full."""
    g = torch.Generator().manual_seed(1)
    on = torch.rand(n, d_sae, generator=g) < share
    on[-1], on[0] = False, True
    return Codes.from_dense((draw(n, d_sae, seed=2) * on).to(device, dtype))


def by_latent(codes):
    order = torch.sort(codes.latents, stable=True).indices
    counts = torch.bincount(codes.latents, minlength=codes.d_sae)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return codes.rows()[order], codes.values[order].contiguous(), starts


def close(found, expected, dtype=torch.float32):
    size = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found.float(), expected.float(), atol=BOUND[dtype] * size, rtol=0)


def check_maps(codes, W, rows):
    """Each map against the dense product it stands for, in float32."""
    dense, kind = codes.dense().float(), W.dtype
    found = maps.decode(codes.values, codes.latents, codes.starts, W)
    assert found.dtype == kind
    close(found, dense @ W.float(), kind)
    found = maps.dot(rows, W, codes.latents, codes.starts)
    close(found, (rows.float() @ W.float().t())[codes.rows(), codes.latents], kind)
    close(maps.sum_by_latent(*by_latent(codes), rows), dense.t() @ rows.float(), kind)


@pytest.mark.parametrize(
    ("n", "width", "d_sae", "share"), [(1, 5, 7, 1), (3, 33, 129, 0.1), (17, 96, 300, 0.005)]
)
def test_maps_are_dense_products(device, n, width, d_sae, share):
    codes = draw_codes(n, d_sae, share, device)
    check_maps(codes, draw(d_sae, width, device=device), draw(n, width, seed=3, device=device))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_maps_take_short_floats(device, dtype):
    codes = draw_codes(3, 20, 0.3, device, dtype)
    W, rows = draw(20, 33, device=device, dtype=dtype), draw(3, 33, device=device, dtype=dtype)
    check_maps(codes, W, rows)
    mixed = maps.decode(codes.values.float(), codes.latents, codes.starts, W)
    assert mixed.dtype == torch.float32


def test_every_latent_in_every_row(device):
    check_maps(
        Codes.from_dense(draw(3, 7, device=device)),
        draw(7, 300, device=device),
        draw(3, 300, seed=3, device=device),
    )


def test_a_latent_twice_in_a_row(device):
    latents, starts = torch.tensor([2, 2, 0], device=device), torch.tensor([0, 3], device=device)
    W = draw(3, 5, device=device)
    values = torch.tensor([1.0, 2.0, 4.0], device=device)
    close(maps.decode(values, latents, starts, W), (3 * W[2] + 4 * W[0])[None])


@pytest.mark.parametrize("n", [0, 2])
def test_maps_of_nothing(device, n):
    none = torch.zeros(0, dtype=torch.int64, device=device)
    starts, values = torch.zeros(n + 1, dtype=torch.int64, device=device), none.float()
    W, rows = draw(7, 5, device=device), draw(n, 5, device=device)
    assert torch.equal(maps.decode(values, none, starts, W), torch.zeros(n, 5, device=device))
    assert maps.dot(rows, W, none, starts).shape == (0,)
    found = maps.sum_by_latent(none, values, torch.zeros(8, dtype=torch.int64, device=device), rows)
    assert torch.equal(found, torch.zeros(7, 5, device=device))


@pytest.mark.parametrize("counts", [[7], [3, 4, 0, 10], [0, 0, 31]])
def test_heavy_latents_are_added_in_segments(device, monkeypatch, counts):
    monkeypatch.setattr(maps, "SEGMENT", 3)  # 3: one program; 4 and 7: just above a multiple
    n, nnz = max(counts), sum(counts)
    tokens = torch.cat([torch.arange(c) for c in counts]).to(device)
    starts = torch.tensor([0, *counts], device=device).cumsum(0)
    weights, rows = draw(nnz, device=device), draw(n, 33, seed=4, device=device)
    found = maps.sum_by_latent(tokens, weights, starts, rows)
    latent = torch.repeat_interleave(torch.tensor(counts)).to(device)
    expected = torch.zeros(len(counts), 33, device=device)
    expected.index_add_(0, latent, weights[:, None] * rows[tokens])
    close(found, expected)
    assert torch.equal(found, maps.sum_by_latent(tokens, weights, starts, rows))


class Decoded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, W, codes):
        ctx.save_for_backward(values, W)
        ctx.codes = codes
        return maps.decode(values, codes.latents, codes.starts, W)

    @staticmethod
    def backward(ctx, *grads):
        (values, W), codes, grad = ctx.saved_tensors, ctx.codes, grads[0].contiguous()
        tokens, weights, starts = by_latent(codes._replace(values=values))
        d_values = maps.dot(grad, W, codes.latents, codes.starts)
        return d_values, maps.sum_by_latent(tokens, weights, starts, grad), None


def test_gradients_are_autograds(device):
    codes = draw_codes(3, 12, 0.3, device)
    grads = []
    for path in ("kernels", "plain"):
        values, W = codes.values.clone().requires_grad_(), draw(12, 5, device=device)
        W.requires_grad_()
        if path == "kernels":
            out = Decoded.apply(values, W, codes)
        else:
            out = codes._replace(values=values).dense() @ W
        (out * out).sin().sum().backward()
        grads.append((values.grad, W.grad))
    for found, expected in zip(*grads, strict=True):
        close(found, expected)


def test_what_kernels_do_not_take(device):
    W, index = draw(7, 5, device=device), torch.tensor([0, 1], device=device)
    for refused in (W.double(), W.t().contiguous().t()):
        with pytest.raises(maps.Unsupported, match="`W_dec`"):
            maps.decode(W[0, :1], index[:1], index, refused)


def encoder(n, d_in, d_sae, device, dtype=torch.float32):
    x, W = draw(n, d_in, device=device), draw(d_sae, d_in, seed=5, device=device)
    b = 0.1 * draw(d_sae, seed=6, device=device)
    return x.to(dtype), W.to(dtype), b


def dense_top(x, W, b, k, by_size=False):
    pre = torch.addmm(b, x.float(), W.float().t())
    latents = torch.topk(pre.abs() if by_size else pre, k, dim=-1).indices
    return pre, latents.sort().values


def check_top(found, pre, expected):
    assert torch.equal(found.latents.sort().values, expected)
    close(found.values, pre.gather(-1, found.latents))


@pytest.mark.parametrize("by_size", [False, True])
@pytest.mark.parametrize(("n", "d_in", "d_sae", "k"), [(1, 5, 129, 3), (3, 33, 300, 9)])
def test_top_latents_are_those_of_float32(device, n, d_in, d_sae, k, by_size):
    x, W, b = encoder(n, d_in, d_sae, device)
    found = choose.top_latents(x, W, b, k, by_size=by_size)
    check_top(found, *dense_top(x, W, b, k, by_size))
    assert found.recomputed == 0
    assert found.values.dtype == torch.float32


def test_top_latents_of_bfloat16_are_summed_in_float32(device):
    x, W, b = encoder(2, 33, 300, device, torch.bfloat16)
    check_top(choose.top_latents(x, W, b, 5), *dense_top(x, W, b, 5))


def test_what_a_tile_would_drop_is_found_all_the_same(device):
    x, W, b = encoder(2, 17, 600, device)
    b[130:160] += 1000.0  # more than one tile keeps of them
    found = choose.top_latents(x, W, b, 20)
    check_top(found, *dense_top(x, W, b, 20))
    assert found.recomputed == 2


def test_nearly_equal_scores_are_told_apart(device):
    x, W, b = encoder(1, 64, 300, device)
    W[:40] = W[0]
    b[:] = 0.0
    b[:40:4] = torch.arange(1, 11, device=device) * 1e-3  # far below bfloat16's rounding
    x[:] = 10 * W[0]
    check_top(choose.top_latents(x, W, b, 10), *dense_top(x, W, b, 10))


@pytest.mark.parametrize("level", [-0.0, -0.5])
def test_of_equal_scores_the_lowest_latents_are_kept(device, level):
    x, W, b = encoder(2, 5, 300, device)
    found = choose.top_latents(torch.zeros_like(x), W, b.fill_(level), 4)
    assert torch.equal(found.values, torch.full((2, 4), level, device=device))
    assert found.latents.sort().values.tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize("by_size", [False, True])
def test_of_equal_latents_of_other_tiles_the_lowest_are_kept(device, by_size):
    x, W, b = encoder(3, 33, 300, device)
    W[150:], b[150:] = W[:150], b[:150]
    if by_size:
        W[150:] *= -1
        b[150:] *= -1
    found = choose.top_latents(x, W, b, 7, by_size=by_size)
    pre = (x.double() @ W.double().t() + b.double()).cpu()
    sizes = pre.abs() if by_size else pre
    want = torch.sort(sizes, dim=-1, descending=True, stable=True).indices[:, :7].sort(-1).values
    assert torch.equal(found.latents.sort().values.cpu(), want)
    assert ((found.latents < 150).sum(-1) == 4).all()  # the upper half of the last is left out


def test_tiny_numbers_whose_squares_vanish_are_not_screened_out(device):
    x, W, b = encoder(3, 33, 300, device)
    pre = (x.double() @ W.double().t()).cpu()
    x, b = x * 1e-25, torch.zeros_like(b)
    found = choose.top_latents(x, W, b, 4)
    assert torch.equal(found.latents.sort().values.cpu(), pre.topk(4).indices.sort(-1).values)
    with pytest.raises(choose.TooDense):  # so plain products decide
        choose.above(x, W, b, torch.tensor(0.5e-25, device=device))


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy says what the interpreter meets
def test_rows_that_are_not_finite_do_not_touch_others(device):
    x, W, b = encoder(3, 33, 300, device)
    x[0, 3], x[1, 5] = float("nan"), float("inf")
    found = choose.top_latents(x, W, b, 4)
    assert found.recomputed == 2
    assert found.values[0].isnan().all()
    assert (found.values[1] == float("inf")).all()
    pre, latents = dense_top(x[2:], W, b, 4)
    assert torch.equal(found.latents[2:].sort().values, latents)
    close(found.values[2:], pre.gather(-1, found.latents[2:]))


def test_large_shares_are_left_to_the_reference(device):
    x, W, b = encoder(1, 5, 7, device)
    for k in (1, 7):
        with pytest.raises(choose.Unsupported, match=f"k={k}"):
            choose.top_latents(x, W, b, k)


@pytest.mark.parametrize("n", [0, 1])
def test_choosing_from_few_tokens(device, n):
    x, W, b = encoder(n, 5, 129, device)
    assert choose.top_latents(x, W, b, 2).latents.shape == (n, 2)
    values, rows, latents = choose.above(x, W, b, torch.tensor(99.0, device=device))
    assert values.shape == rows.shape == latents.shape == (0,)


@pytest.mark.parametrize("each", [False, True])
def test_above_is_what_float32_finds(device, each):
    x, W, b = encoder(3, 33, 300, device)
    x[1] = 0.0  # a row with nothing
    level = torch.tensor(8.0, device=device)
    level = level + draw(300, seed=7, device=device) if each else level
    pre = torch.addmm(b, x, W.t())
    values, rows, latents = choose.above(x, W, b, level)
    expected = (pre > level).nonzero()
    assert torch.equal(torch.stack([rows, latents], 1), expected)
    close(values, pre[rows, latents])


def test_above_leaves_dense_rows_to_products_and_nan_out(device):
    x, W, b = encoder(2, 5, 300, device)
    with pytest.raises(choose.TooDense, match="600 of 600"):
        choose.above(x, W, b, torch.tensor(-1e9, device=device))
    x[0, 0] = float("nan")
    x[1] = 0.0
    with pytest.raises(choose.TooDense):
        choose.above(x[:1], W, b, torch.tensor(0.0, device=device))
    x, W, b = encoder(1, 5, 100, device)
    W[3, 0] = float("nan")
    _, _, latents = choose.above(x, W, b, torch.tensor(0.0, device=device))
    assert 3 not in latents.tolist()


def test_the_rule_for_gathers():
    shares = [
        1 / maps.gather_share(*case)
        for case in [(torch.bfloat16, "bf16"), (torch.float32, "tf32"), (torch.float32, "fp32")]
    ]
    assert shares == pytest.approx([184, 184, 31], abs=1)


def test_importing_saekit_does_not_import_triton():
    import subprocess

    code = "import sys, saekit.saes.topk, saekit.training.trainer; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["topk", "batch_topk", "jumprelu", "relu"])
def test_a_training_step_through_kernels_is_that_of_the_reference(device, monkeypatch, name):
    """Loss and every gradient, with the choice of latents and all sums by kernels."""
    from saekit.kernels import gpu
    from saekit.saes.base import Step, registry

    settings = {"topk": {"k": 4}, "batch_topk": {"k": 4.0}, "jumprelu": {"target_l0": 4.0}}
    cfg = registry.get(name)(d_in=24, d_out=24, d_sae=160, **settings.get(name, {}))
    sae = cfg.build(torch.Generator().manual_seed(0)).to(device)
    x = draw(40, 24, device=device)
    step = Step(5, 0.5, torch.zeros(160, dtype=torch.bool, device=device))
    got = {}
    for kernels in (True, False):
        monkeypatch.setattr(gpu, "usable", lambda tensor, on=kernels: on)
        sae.zero_grad()
        loss = sae.loss(x, x, step)
        loss.total.backward()
        grads = {n: p.grad.clone() for n, p in sae.named_parameters()}
        got[kernels] = {"loss": loss.total.detach(), **grads}
    for key, value in got[False].items():
        torch.testing.assert_close(got[True][key], value, rtol=1e-4, atol=1e-6)


def test_what_a_kernel_does_not_take_is_said_once(device, monkeypatch):
    from saekit.kernels import gpu

    monkeypatch.setattr(gpu, "usable", lambda tensor: True)
    gpu._say.cache_clear()
    codes = draw_codes(5, 9, 0.3, device)
    args = (codes.values.double(), codes.latents, codes.starts, draw(9, 4, device=device).double())
    with pytest.warns(UserWarning, match=r"decode.*float64"):
        assert gpu.run("maps", "decode", *args) is None
    assert gpu.run("maps", "decode", *args) is None  # a second warning would be an error
