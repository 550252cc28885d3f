"""Crosscoder: against its definition in dense products, with both activations."""

import dataclasses

import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.saes.base import Scaling, Step
from saekit.saes.crosscoder import Crosscoder, CrosscoderSAE

N_SITES, D_IN, D_OUT, D_SAE = 3, 8, 6, 24


def config(activation, d_out=D_IN):
    return Crosscoder(
        d_in=D_IN,
        d_out=d_out,
        d_sae=D_SAE,
        n_sites=N_SITES,
        activation=activation,
        k=2.5,
        threshold_decay=0.5,
    )


@pytest.fixture
def g():
    return torch.Generator().manual_seed(0)


def step(progress=0.5, dead=False):
    return Step(10, progress, torch.full((D_SAE,), dead))


def trained(cfg, g, n_steps=30):
    sae = cfg.build(g)
    x = torch.randn(128, N_SITES, D_IN, generator=g)
    y = x[..., : cfg.d_out]
    opt = torch.optim.Adam(sae.parameters(), 1e-2)
    for _ in range(n_steps):
        out = sae.loss(x, y, step())
        opt.zero_grad()
        out.total.backward()
        opt.step()
        sae.after_step(out)
    with torch.no_grad():  # so that sites and latents differ in size
        sae.W_dec.mul_(torch.rand(N_SITES, D_SAE, 1, generator=g) + 0.5)
    return sae.double(), x.double(), y.double()


def dense(sae: CrosscoderSAE, x):
    """Pre-activations and decoder norms by loops over sites."""
    pre = sae.b_enc + sum(x[:, s] @ sae.W_enc[s] for s in range(N_SITES))
    size = torch.stack([sae.W_dec[s].norm(dim=1) for s in range(N_SITES)]).sum(0)
    return pre, size


def decoded(sae, acts):
    return torch.stack([acts @ sae.W_dec[s] + sae.b_dec[s] for s in range(N_SITES)], dim=1)


@pytest.mark.parametrize("d_out", [D_IN, D_OUT])
def test_relu_is_its_definition(g, d_out):
    sae, x, y = trained(config("relu", d_out), g)
    pre, size = dense(sae, x)
    acts = pre.relu()
    torch.testing.assert_close(sae.encode(x).dense(), acts)
    torch.testing.assert_close(sae(x), decoded(sae, acts))
    loss = sae.loss(x, y, step())
    mse = (decoded(sae, acts) - y).square().mean()
    l1 = sae.cfg.l1_coefficient * (acts * size).sum(1).mean() / (N_SITES * d_out)
    torch.testing.assert_close(loss.total, mse + l1)
    wanted = torch.autograd.grad(mse + l1, list(sae.parameters()))
    found = torch.autograd.grad(loss.total, list(sae.parameters()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_the_penalty_warms_up(g):
    sae, x, y = trained(config("relu"), g)
    half, full = (sae.loss(x, y, step(p)).terms["l1"] for p in (0.025, 0.5))
    torch.testing.assert_close(2 * half, full)


@pytest.mark.parametrize("d_out", [D_IN, D_OUT])
def test_batch_topk_keeps_what_weighs_most(g, d_out):
    sae, x, y = trained(config("batch_topk", d_out), g)
    pre, size = dense(sae, x)
    effect = pre * size
    least = effect.flatten().topk(int(2.5 * len(x))).values[-1]
    acts = pre * (effect >= least)
    assert not torch.equal(acts != 0, pre >= pre.flatten().topk(int(2.5 * len(x))).values[-1])
    loss = sae.loss(x, y, step())
    torch.testing.assert_close(loss.acts.dense(), acts.detach())
    torch.testing.assert_close(loss.y_hat, decoded(sae, acts))
    torch.testing.assert_close(loss.terms["mse"], (decoded(sae, acts) - y).square().mean())


def test_in_use_the_threshold_is_the_mean_of_the_least_kept(g):
    sae = config("batch_topk").build(g).double()
    total = weight = 0.0
    for _ in range(4):
        x = torch.randn(64, N_SITES, D_IN, generator=g).double()
        loss = sae.loss(x, x, step())
        sae.after_step(loss)
        effect = loss.acts.dense() * dense(sae, x)[1].detach()
        total = 0.5 * total + 0.5 * float(effect[effect > 0].min())
        weight = 0.5 * weight + 0.5
    assert float(sae.threshold) == pytest.approx(total / weight)
    pre, size = dense(sae, x)
    torch.testing.assert_close(sae.encode(x).dense(), pre * (pre * size > total / weight))


def test_the_least_kept_is_that_of_the_step_not_of_the_weights_after_it(g):
    """Sizes change in a step; latents were chosen by those before it."""
    sae = config("batch_topk").build(g).double()
    x = torch.randn(64, N_SITES, D_IN, generator=g).double()
    loss = sae.loss(x, x, step())
    effect = loss.acts.dense() * dense(sae, x)[1].detach()
    with torch.no_grad():
        sae.W_dec.mul_(torch.rand(N_SITES, D_SAE, 1, generator=g) + 2.0)
    sae.after_step(loss)
    assert float(sae.threshold) == pytest.approx(float(effect[effect > 0].min()))


def test_settling_takes_the_threshold_of_the_weights_as_they_are(g):
    sae, x, _ = trained(config("batch_topk"), g)
    assert sae.settles and not config("relu").build(g).settles
    with torch.no_grad():
        sae.W_enc.mul_(2)
    assert abs(len(sae.encode(x).values) / len(x) - 2.5) > 0.5
    sae.settle(x)
    assert len(sae.encode(x).values) / len(x) == pytest.approx(2.5, abs=0.01)


def test_dead_latents_learn_from_what_was_missed(g):
    sae, x, y = trained(config("batch_topk"), g)
    with torch.no_grad():
        sae.b_enc[5] = -100.0
    sae.zero_grad()
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[5] = True
    sae.loss(x, y, Step(1, 0.5, dead)).terms["aux"].backward()
    assert sae.W_enc.grad is not None and sae.W_dec.grad is not None
    assert sae.W_dec.grad[:, [0, 1]].abs().sum() == 0
    with torch.no_grad():
        sae.b_enc[5] = 1.0
    sae.loss(x, y, Step(1, 0.5, dead)).terms["aux"].backward()
    assert (sae.W_dec.grad[:, 5].abs().sum(-1) > 0).all()  # at every site


@pytest.mark.parametrize("activation", ["relu", "batch_topk"])
def test_rescaling_each_site_is_exact(g, activation):
    sae, z, _ = trained(config(activation), g)

    def scaling(scale):
        mean = torch.randn(N_SITES, D_IN, generator=g).double()
        return Scaling(mean, scale, site_scale=torch.rand(N_SITES, 1, generator=g).double() + 0.2)

    def raw(scaled, by):
        return scaled / by.scale / by.site_scale + by.mean

    for x, y in [(scaling(0.4), scaling(3.0)), (scaling(7.0), scaling(0.1))]:  # twice: it adds up
        wanted, codes = raw(sae(z), y), sae.encode(z).dense() / x.scale
        assert 0 < int((codes != 0).sum()) < codes.numel()
        z = raw(z, x)
        sae.rescale(x, y)
        torch.testing.assert_close(sae.encode(z).dense(), codes)
        torch.testing.assert_close(sae(z), wanted)


def test_weights_are_stored_by_latent(g):
    """Otherwise every step would copy them."""
    sae = config("relu").build(g)
    wide = sae._wide
    assert wide.W_enc.data_ptr() == sae.W_enc.data_ptr() and wide.W_enc.t().is_contiguous()
    assert wide.W_dec.data_ptr() == sae.W_dec.data_ptr() and wide.W_dec.is_contiguous()


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_sites": 1},
        {"k": 0},
        {"k": 25},
        {"threshold_decay": 1.0},
        {"aux_k": 0},
        {"aux_coefficient": -1.0},
        {"l1_coefficient": -1.0},
        {"warm_up": 1.0},
    ],
)
def test_impossible_settings_are_named(wrong):
    with pytest.raises(ConfigError, match=f"`{next(iter(wrong))}`"):
        dataclasses.replace(config("batch_topk"), **wrong)


def test_k_is_no_matter_where_it_is_not_used():
    assert Crosscoder(d_in=4, d_out=4, d_sae=8, n_sites=2, activation="relu").k > 8
