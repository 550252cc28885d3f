"""What gradients share: activation functions and attention give what plain autograd gives."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention as attention

from saekit.models.fast_gradients import shared as frozen_shared
from saekit.models.fast_gradients.shared import SharedAttention, freeze_activations
from saekit.models.tiny import tiny


def drawn(*shape, seed=0, grad=True):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.requires_grad_() if grad else x


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_and_its_gradients_are_the_plain_ones(kv_heads, scale):
    inputs = [drawn(2, h, 9, 8, seed=i) for i, h in enumerate((4, kv_heads, kv_heads))]
    how = {"is_causal": True, "scale": scale, "enable_gqa": kv_heads < 4}
    plain = attention(*inputs, **how)
    with SharedAttention():
        shared = attention(*inputs, **how)
    assert "_Attention" in type(shared.grad_fn).__name__
    torch.testing.assert_close(shared, plain, rtol=1e-10, atol=1e-12)
    seed = drawn(*plain.shape, seed=9, grad=False)
    for _ in range(2):  # the graph goes back through as often as one likes
        pair = [torch.autograd.grad(y, inputs, seed, retain_graph=True) for y in (shared, plain)]
        for one, other in zip(*pair, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_other_attention_stays_plain(monkeypatch):
    q, k, v = (drawn(1, 2, 6, 4, seed=i) for i in range(3))
    mask = torch.ones(6, 6, dtype=torch.bool).tril()

    def shared(*args, **how):
        with SharedAttention():
            return "_Attention" in type(attention(*args, **how).grad_fn).__name__

    assert shared(q, k, v, is_causal=True)
    assert not shared(q, k, v) and not shared(q, k, v, attn_mask=mask)
    assert not shared(q, k, v, is_causal=True, dropout_p=0.5)
    assert not shared(q[:, :, :3], k, v, is_causal=True)
    assert not shared(q.half(), k.half(), v.half(), is_causal=True)
    with torch.no_grad():
        assert not shared(q, k, v, is_causal=True)
    monkeypatch.setattr(frozen_shared, "KEPT_TOKENS", 5)
    assert not shared(q, k, v, is_causal=True)


@pytest.mark.parametrize("kind", [nn.GELU, nn.SiLU, nn.ReLU, nn.Tanh])
def test_activation_functions_keep_their_slope(kind):
    layer, plain = nn.Sequential(kind()), kind()
    freeze_activations(layer)
    x = drawn(5, 7)
    y, want = layer(x), plain(x)
    assert torch.equal(y, want) and "_Elementwise" in type(y.grad_fn).__name__
    for seed in (drawn(5, 7, seed=1, grad=False), torch.ones_like(y)):
        got, other = (torch.autograd.grad(v, x, seed, retain_graph=True)[0] for v in (y, want))
        torch.testing.assert_close(got, other)
    assert torch.equal(layer(x.detach()), plain(x.detach()))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_every_familys_activation_is_known(family):
    module = tiny(family).module
    frozen = [m for m in module.modules() if "_activated" in str(m.__dict__.get("forward", ""))]
    assert len(frozen) == 2  # one a block
