"""saekit and sparsify: the same weights, the same numbers, or the stated difference."""

import types

import pytest
import torch

from saekit.saes import _parts
from saekit.saes.multi_topk import MultiTopK
from saekit.saes.skip import Skip
from saekit.saes.topk import TopK
from tests.parity.mapping import (
    D_SAE,
    SEEDS,
    D,
    affine,
    assert_close,
    assert_same_term,
    fill,
    grads,
    our_loss,
    peer,
    world,
)

pytestmark = pytest.mark.parity
SIZES = {"d_in": D, "d_out": D, "d_sae": D_SAE}
K = 6
ENCODER = ("encoder.weight", "encoder.bias", "b_dec")  # b_dec too: it is taken off the input


def build(w, **settings):
    """Return a sparse coder with the weights of a world, and saekit's as functions of them."""
    module = peer("sparsify.sparse_coder")
    cfg = peer("sparsify.config").SparseCoderConfig(num_latents=D_SAE, k=K, **settings)
    coder = module.SparseCoder(D, cfg)
    fill([(coder.encoder.weight, w.W_enc.t()), (coder.encoder.bias, w.b_enc)])
    fill([(coder.W_dec, w.W_dec), (coder.b_dec, w.b_dec)])
    ours = affine(
        coder.encoder.weight.t(), coder.encoder.bias, coder.W_dec, coder.b_dec, centred=True
    )
    return coder, ours


def params(coder):
    return dict(coder.named_parameters())


def variance(x):
    return (x - x.mean(0)).square().sum()


@pytest.mark.parametrize("seed", SEEDS)
def test_topk(seed):
    """Their error is a share of the batch's variance, ours a mean over dimensions."""
    w = world(seed)
    coder, weights = build(w)
    out = coder(w.x)
    ours = our_loss(TopK(k=K, aux_coefficient=0.0, **SIZES), weights, w.x)
    codes = torch.zeros(len(w.x), D_SAE).scatter(1, out.latent_indices, out.latent_acts)
    assert_close(ours.acts.dense(), codes, "codes")
    assert_close(ours.y_hat, out.sae_out, "reconstruction")
    factor = w.x.numel() / variance(w.x)
    assert_same_term(factor * ours.terms["mse"], out.fvu, params(coder), what="fvu")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n_dead", [80, 5])
def test_aux_k_difference_theirs_does_not_reach_the_encoder(n_dead, seed):
    """The same value and decoder gradient; their encoder and its bias get none at all."""
    w = world(seed, n_dead=n_dead, dead_bias=0.6 if n_dead == 5 else 0.0)
    coder, weights = build(w)
    out = coder(w.x, dead_mask=w.dead)
    ours = our_loss(TopK(k=K, aux_coefficient=1.0, **SIZES), weights, w.x, dead=w.dead)
    missed = (w.x - out.sae_out).detach().square().sum()
    mine = ours.terms["aux"] * missed / variance(w.x) * min(n_dead / (D // 2), 1.0)
    assert_same_term(mine, out.auxk_loss, params(coder), but=ENCODER, what="aux")
    assert all(grads(out.auxk_loss, params(coder))[n].abs().max() == 0 for n in ENCODER)
    assert all(grads(mine, params(coder))[n].abs().max() > 0 for n in ENCODER)


@pytest.mark.parametrize("seed", SEEDS)
def test_multi_topk_difference_theirs_does_not_reach_the_encoder(seed):
    """The same value and decoder gradient; their encoder learns nothing from the wider error."""
    w = world(seed)
    coder, weights = build(w, multi_topk=True)
    out = coder(w.x)
    ours = our_loss(MultiTopK(k=K, aux_coefficient=0.0, **SIZES), weights, w.x)
    factor = w.x.numel() / variance(w.x)
    assert_same_term(factor * ours.terms["mse"], out.fvu, params(coder), what="fvu")
    wide, theirs = factor * ours.terms["wide"], out.multi_topk_fvu / 8
    assert_same_term(wide, theirs, params(coder), but=ENCODER, what="wide")
    assert all(grads(theirs, params(coder))[n].abs().max() == 0 for n in ENCODER[:2])
    assert all(grads(wide, params(coder))[n].abs().max() > 0 for n in ENCODER[:2])


def test_multi_topk_difference_what_counts_as_fired():
    """Theirs returns the wider code, so its trainer takes 4 k latents a token as alive."""
    coder, weights = build(world(0), multi_topk=True)
    x = world(0).x
    assert coder(x).latent_indices.shape[-1] == 4 * K
    ours = our_loss(MultiTopK(k=K, aux_coefficient=0.0, **SIZES), weights, x)
    assert len(ours.acts.values) == K * len(x)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("transcode", [True, False])
def test_skip(transcode, seed):
    w, g = world(seed), torch.Generator().manual_seed(seed)
    coder, weights = build(w, skip_connection=True, transcode=transcode)
    if transcode:  # b_dec is then not taken off the input
        weights["b_enc"] = coder.encoder.bias
    fill([(coder.W_skip, 0.2 * torch.randn(D, D, generator=g))])
    y = torch.randn(len(w.x), D, generator=g) + w.x.flip(-1)
    out = coder(w.x, y)
    cfg = Skip(inner=TopK(k=K, aux_coefficient=0.0, **SIZES), **SIZES)
    weights = {f"inner.{k}": v for k, v in weights.items()} | {"W_skip": coder.W_skip.mT}
    ours = our_loss(cfg, weights, w.x, y)
    assert_close(ours.y_hat, out.sae_out, "prediction")
    factor = y.numel() / variance(y)
    assert_same_term(factor * ours.terms["mse"], out.fvu, params(coder), what="fvu")


def test_annealing_of_k():
    trainer = peer("sparsify.trainer").Trainer
    config = types.SimpleNamespace(k_decay_steps=50)
    for step in range(0, 80, 7):
        state = types.SimpleNamespace(global_step=step, cfg=config, initial_k=240, final_k=32)
        ours = round(_parts.annealed(32, 240, 0.5, step / 100))
        assert ours == trainer.get_current_k(state)
