"""saekit and sae-lens: the same weights, the same numbers, or the difference that is stated."""

import pytest
import torch

from saekit.saes.abs_topk import AbsTopK
from saekit.saes.base import Step
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.gated import Gated
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.matching_pursuit import MatchingPursuit
from saekit.saes.matryoshka import Matryoshka
from saekit.saes.relu import ReLU
from saekit.saes.standardised import Standardised
from saekit.saes.temporal import Temporal
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
    world,
)

pytestmark = pytest.mark.parity
SIZES = {"d_in": D, "d_out": D, "d_sae": D_SAE}
K = 6
NAMES = {"topk": ("TopK", TopK), "batch_topk": ("BatchTopK", BatchTopK)}
NAMES |= {"abs_topk": ("AbsTopK", AbsTopK)}


def build(name, w, **settings):
    """Return sae-lens' training SAE of an architecture, with the weights of a world."""
    saes = peer("sae_lens.saes")
    cfg = getattr(saes, f"{name}TrainingSAEConfig")(d_in=D, d_sae=D_SAE, **settings)
    sae = getattr(saes, f"{name}TrainingSAE")(cfg)
    pairs = [(sae.W_dec, w.W_dec), (sae.b_dec, w.b_dec)]
    pairs += [(sae.W_enc, w.W_enc)] if "W_enc" in dict(sae.named_parameters()) else []
    pairs += [(sae.b_enc, w.b_enc)] if hasattr(sae, "b_enc") else []
    fill(pairs)
    return sae


def step(sae, x, dead=None, **coefficients):
    """Return the output of a training step of sae-lens."""
    given = peer("sae_lens.saes.sae").TrainStepInput(
        sae_in=x,
        coefficients=coefficients,
        dead_neuron_mask=dead,
        n_training_steps=1000,
        is_logging_step=False,
    )
    return sae.training_forward_pass(given)


def params(sae):
    return dict(sae.named_parameters())


def ours_of(sae, *, by_norm=False):
    """Return saekit's weights as functions of those of sae-lens."""
    return affine(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, centred=True, by_norm=by_norm)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("by_norm", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_topk_family(name, by_norm, seed):
    w = world(seed, unit=False)
    sae = build(NAMES[name][0], w, k=K, rescale_acts_by_decoder_norm=by_norm)
    cfg = NAMES[name][1](k=K, aux_coefficient=0.0, **SIZES)
    out = step(sae, w.x)
    ours = our_loss(cfg, ours_of(sae, by_norm=by_norm), w.x)
    assert_close(ours.acts.dense(), out.feature_acts, "codes")
    assert_close(ours.y_hat, out.sae_out, "reconstruction")
    assert_same_term(D * ours.terms["mse"], out.losses["mse_loss"], params(sae), what="mse")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n_dead", [80, 5])
@pytest.mark.parametrize("name", NAMES)
def test_aux_k_where_dead_pre_activations_are_positive(name, n_dead, seed):
    """Equal after their missing normalisation, and their weight for few dead latents."""
    w = world(seed, n_dead=n_dead, dead_bias=0.6 if n_dead == 5 else 0.0)
    sae = build(NAMES[name][0], w, k=K)
    cfg = NAMES[name][1](k=K, aux_coefficient=1.0, **SIZES)
    out = step(sae, w.x, w.dead)
    ours = our_loss(cfg, ours_of(sae, by_norm=True), w.x, dead=w.dead)
    per_token = (w.x - out.sae_out).detach().square().sum() / len(w.x)
    few = min(n_dead / (D // 2), 1.0)
    assert_same_term(
        ours.terms["aux"] * per_token * few,
        out.losses["auxiliary_reconstruction_loss"],
        params(sae),
        what="aux",
    )


def test_aux_k_difference_negative_dead_pre_activations():
    """sae-lens decodes negative values of dead latents, which they can never take in use."""
    w = world(0, n_dead=5, dead_bias=-1.0)
    sae = build("TopK", w, k=K)
    theirs = step(sae, w.x, w.dead).losses["auxiliary_reconstruction_loss"]
    cfg = TopK(k=K, aux_coefficient=1.0, **SIZES)
    ours = our_loss(cfg, ours_of(sae, by_norm=True), w.x, dead=w.dead).terms["aux"]
    assert_close(ours, torch.ones(()), "ours: dead latents that stay off predict nothing")
    assert grads(ours, params(sae))["W_enc"].abs().max() == 0
    assert grads(theirs, params(sae))["W_enc"][:, w.dead].abs().max() > 0


def test_batch_topk_threshold_difference():
    """Theirs starts at 0 and after T steps is low by a share (1 - rate)^T; ours is not."""
    w, n_steps, rate = world(0), 30, 0.01
    sae = build("BatchTopK", w, k=K, topk_threshold_lr=rate)
    cfg = BatchTopK(k=K, aux_coefficient=0.0, threshold_decay=1 - rate, **SIZES)
    ours = our_sae(cfg, ours_of(sae, by_norm=True))
    smallest = []
    for i in range(n_steps):
        x = world(0, n=16 + i).x
        smallest.append(step(sae, x).feature_acts.detach())
        ours.after_step(ours.loss(x, x, Step(i, 0.5, torch.zeros(D_SAE, dtype=torch.bool))))
    share = 1 - (1 - rate) ** n_steps
    assert_close(ours.threshold * share, sae.topk_threshold.float(), "threshold")
    least = [float(a[a > 0].min()) for a in smallest]
    assert min(least) <= float(ours.threshold) <= max(least)
    assert float(sae.topk_threshold) < min(least)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("p", [1.0, 0.5])
def test_relu(seed, p):
    w, dtype = world(seed, unit=False), "float32"
    if p < 1:  # the slope at activations near 0 magnifies rounding
        w, dtype = w.double(), "float64"
    sae = build("Standard", w, l1_coefficient=3.0, lp_norm=p, dtype=dtype)
    out = step(sae, w.x, l1=3.0)
    cfg = ReLU(l1_coefficient=3.0, p=p, warm_up=0.0, **SIZES)
    ours = our_loss(cfg, ours_of(sae), w.x)
    assert_close(ours.acts.dense(), out.feature_acts, "codes")
    assert_close(ours.y_hat, out.sae_out, "reconstruction")
    assert_same_term(D * ours.terms["mse"], out.losses["mse_loss"], params(sae), what="mse")
    assert_same_term(D * ours.terms["l1"], out.losses["l1_loss"], params(sae), what="l1")


def jump(w, *, theta=0.7, **settings):
    sae = build("JumpReLU", w, jumprelu_bandwidth=0.4, **settings)
    g = torch.Generator().manual_seed(9)
    fill([(sae.threshold, theta + 0.2 * torch.rand(D_SAE, generator=g))])
    return sae, ours_of(sae) | {"threshold": sae.threshold}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("penalty", ["step", "tanh"])
def test_jumprelu(seed, penalty):
    w = world(seed, unit=False)
    sae, weights = jump(
        w, jumprelu_sparsity_loss_mode=penalty, pre_act_loss_coefficient=0.3, l0_coefficient=2.0
    )
    out = step(sae, w.x, w.dead, l0=2.0)
    cfg = JumpReLU(
        penalty=penalty,
        bandwidth=0.4,
        l0_coefficient=2.0,
        pre_act_coefficient=0.3,
        warm_up=0.0,
        **SIZES,
    )
    ours = our_loss(cfg, weights, w.x, dead=w.dead)
    assert_close(ours.acts.dense(), out.feature_acts, "codes")
    assert_close(ours.y_hat, out.sae_out, "reconstruction")
    for mine, name in (("mse", "mse_loss"), ("l0", "l0_loss"), ("pre_act", "pre_act_loss")):
        assert_same_term(D * ours.terms[mine], out.losses[name], params(sae), what=mine)


@pytest.mark.parametrize("seed", SEEDS)
def test_jumprelu_target(seed):
    """One token: equal but for the factor 2 L*. A batch: theirs also presses on the spread."""
    w, target = world(seed, unit=False), 9.0
    sae, weights = jump(w, jumprelu_sparsity_loss_mode="quadratic", target_l0=target)
    cfg = JumpReLU(
        penalty="target", target_l0=target, bandwidth=0.4, l0_coefficient=1.0, warm_up=0.0, **SIZES
    )
    for row in w.x[:8].split(1):
        theirs = step(sae, row, l0=1.0).losses["l0_loss"]
        ours = our_loss(cfg, weights, row).terms["l0"]
        if float(theirs.detach()) == 0:
            continue
        assert_same_term(2 * target * ours, theirs, params(sae), what="target, one token")
    out = step(sae, w.x, l0=1.0)
    ours = our_loss(cfg, weights, w.x).terms["l0"]
    spread = (out.feature_acts > 0).sum(-1).float().var(correction=0)
    assert spread > 1
    assert_close(2 * target * ours + 2 / target * spread, out.losses["l0_loss"], "target, a batch")


def test_jumprelu_difference_threshold_below_half_a_bandwidth():
    """Negative pre-activations: theirs move such a threshold, ours do not."""
    w = world(0)
    sae, weights = jump(w, theta=0.01, jumprelu_sparsity_loss_mode="step")
    cfg = JumpReLU(penalty="step", bandwidth=0.4, l0_coefficient=1.0, warm_up=0.0, **SIZES)
    theirs = grads(step(sae, w.x, l0=1.0).losses["l0_loss"], params(sae))["threshold"]
    ours = grads(D * our_loss(cfg, weights, w.x).terms["l0"], params(sae))["threshold"]
    pre = (w.x - sae.b_dec) @ sae.W_enc + sae.b_enc
    near = (pre - sae.threshold).abs() < 0.2
    assert_close(theirs, -near.float().mean(0) / 0.4, "theirs")
    assert_close(ours, -(near & (pre > 0)).float().mean(0) / 0.4, "ours")
    assert (near & (pre <= 0)).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_matryoshka(seed):
    """Theirs adds the widths up, ours takes their mean."""
    w, widths = world(seed, unit=False), [32, 96, D_SAE]
    sae = build("MatryoshkaBatchTopK", w, k=K, matryoshka_widths=widths)
    cfg = Matryoshka(k=K, widths=tuple(widths), aux_coefficient=0.0, **SIZES)
    out = step(sae, w.x)
    ours = our_loss(cfg, ours_of(sae, by_norm=True), w.x)
    assert_close(ours.acts.dense(), out.feature_acts, "codes")
    assert_close(ours.y_hat, out.sae_out, "reconstruction")
    factor = D * len(widths)
    assert_same_term(factor * ours.terms["mse"], out.losses["mse_loss"], params(sae), what="mse")
    nested = sum(v for k, v in out.losses.items() if k.startswith("inner"))
    assert_same_term(factor * ours.terms["nested"], nested, params(sae), what="nested")


def gated(w, **settings):
    sae = build("Gated", w, l1_coefficient=2.0, **settings)
    g = torch.Generator().manual_seed(5)
    fill((p, 0.2 * torch.randn(D_SAE, generator=g)) for p in (sae.b_gate, sae.b_mag, sae.r_mag))
    weights = affine(sae.W_enc, sae.b_gate, sae.W_dec, sae.b_dec, centred=True)
    shift = sae.b_dec @ sae.W_enc * sae.r_mag.exp()
    return sae, weights | {"r_mag": sae.r_mag, "b_mag": sae.b_mag - shift}


@pytest.mark.parametrize("seed", SEEDS)
def test_gated(seed):
    w = world(seed, unit=False)
    sae, weights = gated(w)
    out = step(sae, w.x, l1=2.0)
    ours = our_loss(Gated(l1_coefficient=2.0, warm_up=0.0, **SIZES), weights, w.x)
    assert_close(ours.acts.dense(), out.feature_acts, "codes")
    assert_close(ours.y_hat, out.sae_out, "reconstruction")
    for mine, name in (("mse", "mse_loss"), ("l1", "l1_loss")):
        assert_same_term(D * ours.terms[mine], out.losses[name], params(sae), what=mine)
    assert_same_term(
        D * ours.terms["gate"],
        out.losses["auxiliary_reconstruction_loss"],
        params(sae),
        but=("W_dec", "b_dec"),
        what="gate",
    )


def test_gated_difference_the_decoder_learns_from_the_gate():
    """The paper holds the decoder fixed in the gate's error, and so does saekit; theirs moves."""
    w = world(0)
    sae, weights = gated(w)
    theirs = step(sae, w.x, l1=2.0).losses["auxiliary_reconstruction_loss"]
    ours = our_loss(Gated(warm_up=0.0, **SIZES), weights, w.x).terms["gate"]
    assert grads(ours, params(sae))["W_dec"].abs().max() == 0
    assert grads(theirs, params(sae))["W_dec"].abs().max() > 0.1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("repeat", [True, False])
def test_matching_pursuit(repeat, seed):
    w, tolerance = world(seed), 1.5
    settings = {"residual_threshold": tolerance, "max_iterations": 8, "decoder_init_norm": 1.0}
    sae = build("MatchingPursuit", w, stop_on_duplicate_support=repeat, **settings)
    cfg = MatchingPursuit(k=8, tolerance=tolerance, stop_at_repeat=repeat, **SIZES)
    weights = {"W_dec": sae.W_dec, "b_in": sae.b_dec, "b_dec": sae.b_dec}
    out = step(sae, w.x)
    ours = our_loss(cfg, weights, w.x)
    counts = (out.feature_acts > 0).sum(-1)
    assert counts.min() < counts.max()  # some stopped early
    assert_close(ours.acts.dense(), out.feature_acts, "codes")
    assert_close(ours.y_hat, out.sae_out, "reconstruction")
    assert_same_term(D * ours.terms["mse"], out.losses["mse_loss"], params(sae), what="mse")


def test_matching_pursuit_difference_rows_stay_unit():
    """Theirs are unit rows at the start only; the values of longer rows are then too large."""
    saes = peer("sae_lens.saes")
    cfg = saes.MatchingPursuitTrainingSAEConfig(d_in=D, d_sae=D_SAE, decoder_init_norm=1.0)
    sae = saes.MatchingPursuitTrainingSAE(cfg)
    optimiser = torch.optim.Adam(sae.parameters(), 0.01)
    x = world(0).x
    step(sae, x).loss.backward()
    optimiser.step()
    assert (sae.W_dec.norm(dim=-1) - 1).abs().max() > 1e-3
    ours = MatchingPursuit(k=8, **SIZES).build(torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours.W_dec.copy_(sae.W_dec)
    ours.after_step(ours.loss(x, x, Step(0, 0.0, torch.zeros(D_SAE, dtype=torch.bool))))
    assert_close(ours.W_dec.norm(dim=-1), torch.ones(D_SAE), "rows")


@pytest.mark.parametrize("seed", SEEDS)
def test_standardised(seed):
    """Codes and reconstruction. Theirs multiplies by std and not by std + 1e-5, and its loss
    is of raw activations, where ours is of standardised ones: sizes of tokens weigh it."""
    w = world(seed, unit=False).double()
    sae = build("Standard", w, normalize_activations="layer_norm", dtype="float64")
    out = step(sae, w.x, l1=1.0)
    inner = ReLU(l1_coefficient=1.0, warm_up=0.0, **SIZES)
    weights = {f"inner.{k}": v for k, v in ours_of(sae).items()}
    ours = our_loss(Standardised(inner=inner, **SIZES), weights, w.x)
    deviation, mean = w.x.std(-1, keepdim=True), w.x.mean(-1, keepdim=True)
    wanted = (out.sae_out - mean) / deviation * (deviation + 1e-5) + mean
    assert_close(ours.acts.dense(), out.feature_acts, "codes")
    assert_close(ours.y_hat, wanted, "reconstruction")
    assert_same_term(D * ours.terms["l1"], out.losses["l1_loss"], params(sae), what="l1")
    missed = (ours.y_hat - w.x).square().sum(-1)
    assert_close(missed.mean(), out.losses["mse_loss"], "raw mse", 1e-4)
    assert_close(
        D * ours.terms["mse"], (missed / (deviation[:, 0] + 1e-5).square()).mean(), "our mse"
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("tied", [True, False])
def test_temporal(tied, seed):
    """sae-lens only runs temporal SAEs, so the loss on its side is the squared error.

    In float64: gradients of queries are a millionth of those of the dictionary.
    """
    module, rows, n_layers = peer("sae_lens.saes.temporal_sae"), 64, 2
    torch.manual_seed(seed)
    sae = module.TemporalSAE(
        module.TemporalSAEConfig(
            d_in=D,
            d_sae=rows,
            n_heads=2,
            n_attn_layers=n_layers,
            bottleneck_factor=8,
            kval_topk=5,
            tied_weights=tied,
            dtype="float64",
        )
    )
    x = world(seed).double().x.view(8, -1, D)
    fill([(sae.b_dec, world(seed).b_dec)])
    layers = sae.attn_layers
    weights = {"W_dec": sae.W_dec, "b_dec": sae.b_dec} | ({} if tied else {"W_enc": sae.W_enc})
    names = {"query": "q_target", "key": "k_ctx", "value": "v_ctx", "mix": "c_proj"}
    for mine, name in names.items():
        maps = [getattr(layer, name) for layer in layers]
        weights[f"W_{mine}"] = torch.stack([m.weight.t() for m in maps])
        weights[f"b_{mine}"] = torch.stack([m.bias for m in maps])
    cfg = Temporal(
        d_in=D, d_out=D, d_sae=2 * rows, k=5, n_heads=2, d_key=4, n_attn_layers=n_layers, tied=tied
    )
    ours = our_loss(cfg, weights, x)
    novel, predicted = sae.encode_with_predictions(x)
    found = ours.acts.dense().view(*x.shape[:-1], 2 * rows)
    assert_close(found[..., :rows], novel, "novel")
    assert_close(found[..., rows:], predicted, "predicted")
    y_hat = sae(x)
    assert_close(ours.y_hat, y_hat, "reconstruction")
    theirs = (y_hat - x).square().sum(-1).mean()
    zero = [f"attn_layers.{i}.k_ctx.bias" for i in range(n_layers)]  # softmax does not see it
    assert_same_term(D * ours.terms["mse"], theirs, params(sae), but=zero, what="mse")
