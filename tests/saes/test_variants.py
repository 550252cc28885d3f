"""What the smaller architectures promise beyond the contract, against their dense formulas."""

import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.saes.abs_topk import AbsTopK
from saekit.saes.base import SAEConfig, Step
from saekit.saes.gated import Gated
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.multi_topk import MultiTopK
from saekit.saes.p_anneal import PAnneal
from saekit.saes.relu import ReLU
from saekit.saes.skip import Skip
from saekit.saes.standardised import Standardised
from saekit.saes.topk import TopK

SIZES = {"d_in": 8, "d_out": 8, "d_sae": 24}


def step(progress=1.0, dead=None):
    return Step(0, progress, torch.zeros(24, dtype=torch.bool) if dead is None else dead)


def built(cfg, seed=0):
    g = torch.Generator().manual_seed(seed)
    sae = cfg.build(g).double()
    for p in sae.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return sae, torch.randn(40, cfg.d_in, generator=g, dtype=torch.float64)


def pre_acts(sae, x):
    return x @ sae.W_enc + sae.b_enc


def test_abs_topk_keeps_the_largest_of_both_signs():
    sae, x = built(AbsTopK(**SIZES, k=4))
    codes, pre = sae.encode(x).dense(), pre_acts(sae, x)
    wanted = torch.zeros_like(pre)
    index = pre.abs().topk(4).indices
    wanted.scatter_(1, index, pre.gather(1, index))
    torch.testing.assert_close(codes, wanted)
    assert (codes < 0).any() and (codes > 0).any()


def test_abs_topk_revives_with_signed_activations():
    dead = torch.arange(24) < 6
    sae, x = built(AbsTopK(**SIZES, k=4, aux_coefficient=1.0, aux_k=2))
    out = sae.loss(x, x, step(dead=dead))
    pre, err = pre_acts(sae, x)[:, :6], (x - out.y_hat).detach()
    index = pre.abs().topk(2).indices
    acts = torch.zeros_like(pre).scatter(1, index, pre.gather(1, index))
    wanted = (acts @ sae.W_dec[:6] - err).square().sum() / err.square().sum()
    torch.testing.assert_close(out.terms["aux"], wanted)


def test_multi_topk_adds_the_error_at_the_wider_k():
    sae, x = built(MultiTopK(**SIZES, k=3, wide_coefficient=0.5, aux_coefficient=0.0))
    out, pre = sae.loss(x, x, step()), pre_acts(sae, x)

    def error(k):
        index = pre.topk(k).indices
        acts = torch.zeros_like(pre).scatter(1, index, pre.gather(1, index)).relu()
        return (acts @ sae.W_dec + sae.b_dec - x).square().mean()

    torch.testing.assert_close(out.terms["mse"], error(3))
    torch.testing.assert_close(out.terms["wide"], 0.5 * error(12))
    assert len(out.acts.values) == 3 * len(x)


def test_annealing_k_goes_from_the_start_to_the_end():
    sae, x = built(TopK(**SIZES, k=2, start_k=10, anneal=0.5))
    kept = [len(sae.loss(x, x, step(p)).acts.values) // len(x) for p in (0, 0.25, 0.5, 1)]
    assert kept == [10, 6, 2, 2]
    assert len(sae.encode(x).values) == 2 * len(x)


@pytest.mark.parametrize("p", [1.0, 0.5])
def test_relu_takes_the_norm_of_every_token(p):
    sae, x = built(ReLU(**SIZES, l1_coefficient=0.7, p=p, warm_up=0.0))
    sizes = pre_acts(sae, x).relu() * sae.W_dec.norm(dim=-1)
    wanted = 0.7 / 8 * sizes.pow(p).sum(-1).pow(1 / p).mean()
    torch.testing.assert_close(sae.loss(x, x, step()).terms["l1"], wanted)


def test_p_anneal_presses_small_activations_harder_and_no_more_in_all():
    cfg = PAnneal(**SIZES, l1_coefficient=0.7, end_p=0.3, anneal_from=0.5, warm_up=0.0)
    sae, x = built(cfg)
    assert [cfg.p_at(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1, 1, 0.3])
    norms = sae.W_dec.norm(dim=-1)
    for progress, p in ((0.5, 1.0), (0.75, 0.65), (1.0, 0.3)):
        sizes = pre_acts(sae, x).relu() * norms
        term = sae.loss(x, x, step(progress)).terms["lp"]
        torch.testing.assert_close(term, 0.7 / 8 * sizes.sum(-1).mean())
        powers = (sizes + cfg.smoothing).pow(p).sum(-1).mean()
        factor = (sizes.sum() / ((sizes + cfg.smoothing).pow(p) - cfg.smoothing**p).sum()).detach()
        found, wanted = (
            torch.autograd.grad(t, (sae.W_enc, sae.W_dec, sae.b_enc), retain_graph=True)
            for t in (term, 0.7 / 8 * factor * powers)
        )
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("penalty", ["target", "step", "tanh"])
def test_jumprelu_penalties_and_pull_on_the_dead(penalty):
    cfg = JumpReLU(
        **SIZES,
        penalty=penalty,
        target_l0=4.0,
        l0_coefficient=0.7,
        warm_up=0.0,
        pre_act_coefficient=0.3,
        tanh_scale=2.0,
    )
    sae, x = built(cfg)
    dead = torch.arange(24) % 3 == 0
    out, pre = sae.loss(x, x, step(dead=dead)), pre_acts(sae, x)
    acts = pre * (pre > sae.threshold)
    l0, norms = (acts != 0).double().sum(-1).mean(), sae.W_dec.norm(dim=-1)
    wanted = {
        "target": (l0 / 4 - 1) ** 2,
        "step": l0 / 8,
        "tanh": torch.tanh(2 * acts * norms).sum(-1).mean() / 8,
    }[penalty]
    torch.testing.assert_close(out.terms["l0"], 0.7 * wanted)
    below = ((sae.threshold - pre).relu() * norms)[:, dead].sum(-1).mean() / 8
    torch.testing.assert_close(out.terms["pre_act"], 0.3 * below)


@pytest.mark.parametrize("inner", [TopK(**SIZES, k=3), Gated(**SIZES)], ids=["topk", "gated"])
def test_wrappers_go_into_each_other(inner):
    """A skip around a standardised SAE, and the reverse, predict what their formulas say."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, 8, generator=g, dtype=torch.float64) * 3 + 1
    deviation, mean = x.std(-1, keepdim=True) + 1e-5, x.mean(-1, keepdim=True)
    z = (x - mean) / deviation
    outer, _ = built(Skip(**SIZES, inner=Standardised(**SIZES, inner=inner)))
    core = outer.inner.inner
    torch.testing.assert_close(outer(x), core(z) * deviation + mean + x @ outer.W_skip)
    other, _ = built(Standardised(**SIZES, inner=Skip(**SIZES, inner=inner)))
    core, W_skip = other.inner.inner, other.inner.W_skip
    torch.testing.assert_close(other(x), (core(z) + z @ W_skip) * deviation + mean)


def test_wrappers_refuse_another_size():
    with pytest.raises(ConfigError, match="same d_in, d_out and d_sae"):
        Skip(d_in=8, d_out=8, d_sae=32, inner=TopK(**SIZES, k=3))


def test_a_skip_learns_what_is_linear():
    g = torch.Generator().manual_seed(0)
    sae = Skip(**SIZES, inner=TopK(**SIZES, k=3)).build(g)
    x, A = torch.randn(256, 8, generator=g), torch.randn(8, 8, generator=g)
    opt = torch.optim.Adam(sae.parameters(), 0.05)
    for _ in range(300):
        out = sae.loss(x, x @ A, step())
        opt.zero_grad()
        out.total.backward()
        opt.step()
        sae.after_step(out)
    assert (out.y_hat - x @ A).square().mean() < 0.02 * (x @ A).square().mean()


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("topk", {"k": 25}, "`k` must be at most `d_sae`"),
        ("topk", {"k": 3.5}, "must be a whole number"),
        ("topk", {"k": 3, "start_k": 6}, "`start_k` and `anneal` go together"),
        ("topk", {"aux_k": 0, "k": 3}, "`aux_k` must be at least 1"),
        ("topk", {"decoder": "free-ish", "k": 3}, "'unit' or 'free'"),
        ("multi_topk", {"k": 4, "wide_k": 4}, "`wide_k` must be above k"),
        ("abs_topk", {"k": 0}, "`k` must be at least 1"),
        ("batch_topk", {"k": 3, "threshold_decay": 1.0}, "must be at least 0 and below 1"),
        ("jumprelu", {"target_l0": 4, "bandwidth": 0.0}, "`bandwidth` must be above 0"),
        ("jumprelu", {"target_l0": 4, "penalty": "l1"}, "'target' or 'step' or 'tanh'"),
        ("relu", {"p": 0.0}, "`p` must be above 0"),
        ("relu", {"l1_coefficient": float("nan")}, "at least 0; got nan"),
        ("p_anneal", {"end_p": 1.5}, "`end_p` must be above 0 and at most 1"),
        ("gated", {"l1_coeficient": 1.5}, "Did you mean `l1_coefficient`"),
        ("matching_pursuit", {"k": 3, "tolerance": -1.0}, "`tolerance` must be at least 0"),
    ],
)
def test_bad_settings_are_refused_by_name(name, wrong, words):
    with pytest.raises(ConfigError, match=words):
        SAEConfig.from_dict({"name": name, **SIZES, **wrong})
