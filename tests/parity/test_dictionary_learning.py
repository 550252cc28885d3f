"""saekit and dictionary_learning: the same weights, the same numbers, or the stated difference."""

import pytest
import torch

from saekit.saes.base import Step
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.gated import Gated
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.matryoshka import Matryoshka
from saekit.saes.p_anneal import PAnneal
from saekit.saes.relu import ReLU
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
    our_sae,
    peer,
    tangent,
    world,
)

pytestmark = pytest.mark.parity
SIZES = {"d_in": D, "d_out": D, "d_sae": D_SAE}
K, LATE = 6, 5000  # LATE: a step when their warm-ups are over
COMMON = {"steps": 10_000, "activation_dim": D, "dict_size": D_SAE, "layer": 0, "lm_name": ""}
COMMON |= {"device": "cpu"}
WIDTHS = (64, 128, 256)


def build(module, name, w, **settings):
    """Return a trainer of dictionary_learning whose dictionary has the weights of a world."""
    trainer = getattr(peer(f"dictionary_learning.trainers.{module}"), name)(**COMMON, **settings)
    ae = trainer.ae.to(w.x.dtype)
    W_enc, W_dec = _matrices(ae)
    pairs = [(W_enc, w.W_enc), (W_dec, w.W_dec), (_b_dec(ae), w.b_dec)]
    if _b_enc(ae) is not None:
        pairs.append((_b_enc(ae), w.b_enc))
    fill(pairs)
    return trainer


def _matrices(ae):
    """Return W_enc [d_in, d_sae] and W_dec [d_sae, d_in] of a dictionary."""
    if hasattr(ae, "encoder"):
        return ae.encoder.weight.t(), ae.decoder.weight.t()
    return ae.W_enc, ae.W_dec


def _b_dec(ae):
    names = dict(ae.named_parameters())
    return next(names[n] for n in ("b_dec", "bias", "decoder_bias") if n in names)


def _b_enc(ae):
    names = dict(ae.named_parameters())
    return next((names[n] for n in ("b_enc", "encoder.bias", "gate_bias") if n in names), None)


def ours_of(ae, *, centred=True):
    """Return saekit's weights as functions of those of a dictionary."""
    W_enc, W_dec = _matrices(ae)
    return affine(W_enc, _b_enc(ae), W_dec, _b_dec(ae), centred=centred)


def params(ae):
    return dict(ae.named_parameters())


def mark_dead(trainer, dead):
    trainer.num_tokens_since_fired[dead] = trainer.dead_feature_threshold


TOPK_LIKE = {
    "topk": (("top_k", "TopKTrainer", {"k": K}), TopK(k=K, aux_coefficient=0.0, **SIZES)),
    "batch_topk": (
        ("batch_top_k", "BatchTopKTrainer", {"k": K}),
        BatchTopK(k=K, aux_coefficient=0.0, **SIZES),
    ),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", TOPK_LIKE)
def test_topk_family(name, seed):
    (module, trainer, settings), cfg = TOPK_LIKE[name]
    w = world(seed)
    trainer = build(module, trainer, w, **settings)
    x_hat, f = trainer.loss(w.x, step=0, logging=True)[1:3]
    ours = our_loss(cfg, ours_of(trainer.ae), w.x)
    assert_close(ours.acts.dense(), f, "codes")
    assert_close(ours.y_hat, x_hat, "reconstruction")
    theirs = trainer.loss(w.x, step=0)
    assert_same_term(D * ours.terms["mse"], theirs, params(trainer.ae), what="mse")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", TOPK_LIKE)
def test_aux_k(name, seed):
    """Equal but for the denominator: theirs takes the batch mean off the error, ours does not."""
    (module, trainer, settings), cfg = TOPK_LIKE[name]
    w = world(seed)
    trainer = build(module, trainer, w, **settings)
    mark_dead(trainer, w.dead)
    pre = torch.relu(trainer.ae.encoder(w.x - trainer.ae.b_dec))
    cfg = type(cfg).from_dict(cfg.to_dict() | {"aux_coefficient": 1.0})
    ours = our_loss(cfg, ours_of(trainer.ae), w.x, dead=w.dead)
    e = (w.x - ours.y_hat).detach()
    theirs = trainer.get_auxiliary_loss(e, pre)
    ratio = e.square().sum() / (e - e.mean(0)).square().sum()
    assert_same_term(ratio * ours.terms["aux"], theirs, params(trainer.ae), what="aux")


def test_whole_topk_step():
    """Loss, removal of the radial gradient, and unit rows after the step."""
    w = world(0)
    trainer = build("top_k", "TopKTrainer", w, k=K)
    decoder = trainer.ae.decoder.weight
    remove = peer("dictionary_learning.trainers.trainer")
    theirs = torch.autograd.grad(trainer.loss(w.x, step=0), decoder)[0]
    theirs = remove.remove_gradient_parallel_to_decoder_directions(decoder, theirs, D, D_SAE).t()
    sae = our_sae(TOPK_LIKE["topk"][1], ours_of(trainer.ae))
    loss = sae.loss(w.x, w.x, Step(0, 1.0, torch.zeros(D_SAE, dtype=torch.bool)))
    loss.total.backward()
    sae.before_step()
    assert_close(D * sae.W_dec.grad, theirs, "radial part removed")


def test_batch_topk_threshold_difference():
    """Theirs is unset for 1000 steps, then starts at the value of one batch."""
    w = world(0)
    trainer = build("batch_top_k", "BatchTopKTrainer", w, k=K)
    trainer.loss(w.x, step=1000)
    assert float(trainer.ae.threshold) == -1.0
    l0 = (trainer.ae.encode(w.x) > 0).sum(-1).float().mean()
    assert l0 > 10 * K  # so long, every positive pre-activation is on in use
    trainer.loss(w.x, step=1001)
    cfg = BatchTopK(k=K, aux_coefficient=0.0, **SIZES)
    ours = our_sae(cfg, ours_of(trainer.ae))
    ours.after_step(ours.loss(w.x, w.x, Step(0, 0.0, torch.zeros(D_SAE, dtype=torch.bool))))
    assert_close(ours.threshold, trainer.ae.threshold, "one batch")


@pytest.mark.parametrize("seed", SEEDS)
def test_matryoshka(seed):
    """Theirs weighs each width by 1/G and then takes the mean, so the error counts 1/G of ours."""
    w = world(seed)
    trainer = build(
        "matryoshka_batch_top_k",
        "MatryoshkaBatchTopKTrainer",
        w,
        k=K,
        group_fractions=[0.25, 0.25, 0.5],
    )
    cfg = Matryoshka(k=K, widths=WIDTHS, aux_coefficient=0.0, **SIZES)
    ours = our_loss(cfg, ours_of(trainer.ae), w.x)
    x_hat, f = trainer.loss(w.x, step=0, logging=True)[1:3]
    assert_close(ours.acts.dense(), f, "codes")
    assert_close(ours.y_hat, x_hat, "reconstruction")
    theirs = trainer.loss(w.x, step=0)
    assert_same_term(ours.total * D / len(WIDTHS), theirs, params(trainer.ae), what="all widths")


@pytest.mark.parametrize("seed", SEEDS)
def test_relu_with_unit_decoder(seed):
    """Their penalty has no decoder norms: equal for unit rows, along which neither side moves."""
    w = world(seed)
    trainer = build("standard", "StandardTrainer", w, l1_penalty=3.0)
    x_hat, f = trainer.loss(w.x, step=LATE, logging=True)[1:3]
    cfg = ReLU(l1_coefficient=3.0, warm_up=0.0, decoder="unit", **SIZES)
    ours = our_loss(cfg, ours_of(trainer.ae), w.x)
    assert_close(ours.acts.dense(), f, "codes")
    assert_close(ours.y_hat, x_hat, "reconstruction")
    same_but_along_rows(D * ours.total, trainer.loss(w.x, step=LATE), trainer.ae, "loss")


@pytest.mark.parametrize("seed", SEEDS)
def test_relu_with_free_decoder(seed):
    """The April update: decoder norms are free and weigh the penalty, as in saekit."""
    w = world(seed, unit=False)
    trainer = build("standard", "StandardTrainerAprilUpdate", w, l1_penalty=3.0)
    cfg = ReLU(l1_coefficient=3.0, warm_up=0.0, **SIZES)
    ours = our_loss(cfg, ours_of(trainer.ae), w.x)
    theirs = trainer.loss(w.x, step=LATE)
    assert_same_term(D * ours.total, theirs, params(trainer.ae), what="loss")


def same_but_along_rows(ours, theirs, ae, what):
    """Assert equal losses and gradients, that of unit decoder rows without the radial part."""
    assert_same_term(ours, theirs, params(ae), but=("decoder.weight",), what=what)
    rows = ae.decoder.weight.detach().t()
    mine, wanted = (grads(v, params(ae))["decoder.weight"].t() for v in (ours, theirs))
    assert_close(tangent(mine, rows), tangent(wanted, rows), f"{what} d/dW_dec")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("p", [1.0, 0.5])
def test_p_anneal(seed, p):
    """Equal at one p: our c (theirs is carried from step to step) is divided out.

    In float64: with p below 1 the slope at activations near 0 magnifies rounding.
    """
    w = world(seed).double()
    trainer = build("p_anneal", "PAnnealTrainer", w, sparsity_function="Lp^p")
    trainer.p, trainer.sparsity_coeff = p, 3.0
    cfg = PAnneal(
        l1_coefficient=3.0,
        warm_up=0.0,
        end_p=p,
        anneal_from=0.0,
        smoothing=1e-20,
        decoder="unit",
        **SIZES,
    )
    ours = our_loss(cfg, ours_of(trainer.ae), w.x)
    sizes = ours.acts.values
    c = sizes.sum() / sizes[sizes > 0].pow(p).sum()
    same_but_along_rows(
        D * (ours.terms["mse"] + ours.terms["lp"] / c),
        trainer.loss(w.x, step=LATE),
        trainer.ae,
        "loss",
    )


def test_p_anneal_difference_the_penalty_keeps_its_size():
    """Ours: as large as L1 at every p. Theirs: alpha follows queued means, at 10 steps in all."""
    w = world(0)
    trainer = build("p_anneal", "PAnnealTrainer", w, sparsity_function="Lp^p")
    for end_p in (1.0, 0.5, 0.2):
        cfg = PAnneal(
            l1_coefficient=3.0, warm_up=0.0, end_p=end_p, anneal_from=0.0, decoder="unit", **SIZES
        )
        ours = our_loss(cfg, ours_of(trainer.ae), w.x)
        l1 = 3.0 / D * ours.acts.values.sum() / len(w.x)
        assert_close(ours.terms["lp"], l1, f"p = {end_p}")
    assert len(trainer.sparsity_update_steps) == 10


def gated(w):
    trainer = build("gdm", "GatedSAETrainer", w, l1_penalty=2.0)
    ae = trainer.ae
    g = torch.Generator().manual_seed(5)
    fill((p, 0.2 * torch.randn(D_SAE, generator=g)) for p in (ae.gate_bias, ae.mag_bias, ae.r_mag))
    shift = ae.decoder_bias @ ae.encoder.weight.t() * ae.r_mag.exp()
    return trainer, ours_of(ae) | {"r_mag": ae.r_mag, "b_mag": ae.mag_bias - shift}


@pytest.mark.parametrize("seed", SEEDS)
def test_gated(seed):
    w = world(seed)
    trainer, weights = gated(w)
    x_hat, f = trainer.loss(w.x, step=LATE, logging=True)[1:3]
    ours = our_loss(Gated(l1_coefficient=2.0, warm_up=0.0, **SIZES), weights, w.x)
    assert_close(ours.acts.dense(), f, "codes")
    assert_close(ours.y_hat, x_hat, "reconstruction")
    same_but_along_rows(D * ours.total, trainer.loss(w.x, step=LATE), trainer.ae, "loss")


def jump(w, theta=0.7, **settings):
    trainer = build("jumprelu", "JumpReluTrainer", w, bandwidth=0.4, target_l0=9.0, **settings)
    g = torch.Generator().manual_seed(9)
    fill([(trainer.ae.threshold, theta + 0.2 * torch.rand(D_SAE, generator=g))])
    return trainer, ours_of(trainer.ae, centred=False) | {"threshold": trainer.ae.threshold}


def our_jump(**settings):
    return JumpReLU(
        penalty="target", target_l0=9.0, bandwidth=0.4, warm_up=0.0, **settings, **SIZES
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_jumprelu(seed):
    """Codes, both terms and every gradient, but that of their penalty for the threshold."""
    w = world(seed)
    trainer, weights = jump(w, sparsity_penalty=0.0)
    f = trainer.loss(w.x, step=LATE, logging=True).f
    ours = our_loss(our_jump(l0_coefficient=1.0), weights, w.x)
    assert_close(ours.acts.dense(), f, "codes")
    error = trainer.loss(w.x, step=LATE)
    assert_same_term(D * ours.terms["mse"], error, params(trainer.ae), what="mse")
    trainer.sparsity_coefficient = 1.0
    assert_close(ours.terms["l0"], trainer.loss(w.x, step=LATE) - error, "target", 1e-4)


def test_jumprelu_difference_the_penalty_sees_half_the_window():
    """Theirs applies the step to activations, which are 0 below the threshold; ours to
    pre-activations, as in the paper."""
    w = world(0)
    trainer, weights = jump(w, sparsity_penalty=1.0)
    total = trainer.loss(w.x, step=LATE)
    trainer.sparsity_coefficient = 0.0
    theirs = grads(total - trainer.loss(w.x, step=LATE), params(trainer.ae))["threshold"]
    ours = grads(our_loss(our_jump(), weights, w.x).terms["l0"], params(trainer.ae))["threshold"]
    ae = trainer.ae
    over = (w.x @ ae.W_enc + ae.b_enc - ae.threshold).detach()
    slope = 2 * ((over > 0).sum(-1).float().mean() / 9 - 1) / 9
    near = over.abs() < 0.2
    assert_close(ours, -slope * near.float().mean(0) / 0.4, "ours")
    assert_close(theirs, -slope * (near & (over > 0)).float().mean(0) / 0.4, "theirs", 1e-3)
    assert (near & (over <= 0)).any()
