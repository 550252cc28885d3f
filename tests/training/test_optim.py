"""Optimisers: steps by hand, what is kept of them, and weights that stay on their constraint."""

import builtins
import math
import sys

import pytest
import torch

from saekit.core.errors import ConfigError, MissingExtraError
from saekit.core.files import read_json_lines
from saekit.saes.base import Step
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.topk import TopK
from saekit.training.half_moments import HalfMomentsAdam
from saekit.training.loop import train
from saekit.training.optim import Descent, Optimiser, Signum
from saekit.training.run import Run
from saekit.training.trainer import Training
from tests import world
from tests.training.cut import assert_resumes

KINDS = {
    "adam": {},
    "adam_half": {"kind": "adam", "moments": "bfloat16"},
    "adamw": {"weight_decay": 0.01},
    "muon": {"weight_decay": 0.01},
    "signum": {},
    "schedule_free": {},
}


@pytest.fixture(scope="module")
def lm():
    return world.model()


@pytest.fixture(params=KINDS)
def optimiser(request):
    if request.param == "schedule_free":
        pytest.importorskip("schedulefree")
    return Optimiser(**{"kind": request.param} | KINDS[request.param])


def settings(optimiser):
    lr = 2e-3 if optimiser.kind == "signum" else 1e-2
    changes = {"optimiser": optimiser, "lr": lr, "batch_tokens": 128}
    return changes | ({"schedule": "constant"} if optimiser.averages else {})


def build(optimiser, cfg=None, lr=0.1):
    cfg = cfg or TopK(d_in=8, d_out=8, d_sae=16, k=3)
    sae = cfg.build(torch.Generator().manual_seed(0))
    return sae, Descent(optimiser, sae, lr)


def steps(sae, descent, n=5, lr=0.1, seed=0):
    g = torch.Generator().manual_seed(seed)
    for i in range(n):
        x = torch.randn(32, sae.cfg.d_in, generator=g)
        loss = sae.loss(x, x, Step(i, 0.5, torch.zeros(sae.cfg.d_sae, dtype=torch.bool)))
        descent.zero_grad()
        loss.total.backward()
        sae.before_step()
        descent.step(lr)
        with descent.followed():
            sae.after_step(loss)


def test_signum_by_hand():
    p = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    optimiser = Signum([p], lr=0.1, momentum=0.5, weight_decay=0.2)
    for grad in ([4.0, -1.0, 0.0], [-1.0, -1.0, 0.0], [-2.0, 3.0, 0.0]):
        p.grad = torch.tensor(grad)
        optimiser.step()
    # momentum: [2, -.5, 0], [.5, -.75, 0], [-.75, 1.125, 0]
    first = 1.0
    for sign in (1, 1, -1):
        first = first * (1 - 0.1 * 0.2) - 0.1 * sign
    second = 1.0
    for sign in (-1, -1, 1):
        second = second * (1 - 0.1 * 0.2) - 0.1 * sign
    torch.testing.assert_close(p.detach(), torch.tensor([first, second, 0.98**3]))


def test_without_momentum_signum_leaves_what_has_no_gradient():
    p = torch.nn.Parameter(torch.ones(2))
    for momentum, left in ((0.9, 0.8), (0.0, 0.9)):
        p.data.fill_(1)
        optimiser = Signum([p], lr=0.1, momentum=momentum)
        for grad in ([1.0, 1.0], [1.0, 0.0]):
            p.grad = torch.tensor(grad)
            optimiser.step()
        assert p.tolist() == pytest.approx([0.8, left])


def test_rates_are_scaled_by_parameter(optimiser):
    cfg = JumpReLU(d_in=16, d_out=16, d_sae=16, target_l0=4.0)
    sae, descent = build(optimiser, cfg)
    scales, names = sae.rate_scales(), {p.data_ptr(): name for name, p in sae.named_parameters()}
    assert scales["threshold"] > 1 and "W_enc" not in scales
    descent.step(0.5)
    for group in (g for part in descent.parts for g in part.param_groups):
        (parameter,) = group["params"]
        assert group["lr"] == 0.5 * scales.get(names[parameter.data_ptr()], 1.0)
        assert group["weight_decay"] == (optimiser.weight_decay if parameter.ndim == 2 else 0)


def test_adam_is_that_of_torch():
    """Whole steps with the decoder free: nothing but the optimiser moves weights."""
    cfg = TopK(d_in=8, d_out=8, d_sae=16, k=3, decoder="free")
    sae, descent = build(Optimiser(), cfg)
    other = cfg.build(torch.Generator().manual_seed(0))
    steps(sae, descent, lr=0.01)
    scales = other.rate_scales()
    groups = [
        {"params": [p], "lr": 0.01 * scales.get(name, 1.0)} for name, p in other.named_parameters()
    ]
    plain = torch.optim.Adam(groups, betas=(0.9, 0.999), eps=1e-8)
    g = torch.Generator().manual_seed(0)
    for i in range(5):
        x = torch.randn(32, 8, generator=g)
        plain.zero_grad()
        other.loss(x, x, Step(i, 0.5, torch.zeros(16, dtype=torch.bool))).total.backward()
        plain.step()
    for a, b in zip(sae.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_muon_turns_matrices_and_adam_the_rest():
    sae, descent = build(Optimiser(kind="muon"))
    muon, adam = descent.parts
    owned = [
        {p.data_ptr() for g in part.param_groups for p in g["params"]} for part in (muon, adam)
    ]
    assert owned[0] == {sae.W_enc.data_ptr(), sae.W_dec.data_ptr()}
    assert owned[1] == {sae.b_enc.data_ptr(), sae.b_dec.data_ptr()}
    before = sae.W_enc.detach().clone()
    steps(sae, descent, n=1, lr=0.1)
    sizes = torch.linalg.svdvals((before - sae.W_enc).detach()) / (0.1 * 0.2 * math.sqrt(16))
    assert float(sizes.min()) > 0.5 and float(sizes.max()) < 1.5


def test_a_state_goes_on_bit_for_bit_in_the_layout_of_weights(optimiser):
    """What was saved contiguous must come back strided as W_enc is, or sums round otherwise."""
    sae, descent = build(optimiser)
    steps(sae, descent)
    tensors, numbers = descent.state()
    again, other = build(optimiser)
    again.load_state_dict(sae.state_dict())
    other.load(
        {k: v.clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}, numbers
    )
    moments = [v for k, v in other.state()[0].items() if k.startswith("W_enc.") and v.ndim == 2]
    assert moments and all(m.stride() == sae.W_enc.stride() == (1, 8) for m in moments)
    for pair in ((sae, descent), (again, other)):
        steps(*pair, seed=1)
    for name, weight in sae.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    assert other.state()[1] == descent.state()[1]


def test_each_kind_resumes_bit_for_bit(lm, tmp_path, monkeypatch, optimiser):
    sae = JumpReLU(d_in=32, d_out=32, d_sae=64, target_l0=4.0)
    run = world.run(tmp_path, sae=sae, tokens=3600, **settings(optimiser))
    assert_resumes(run, lm, tmp_path, monkeypatch, at=20)


def test_each_kind_learns_and_ends_on_the_constraint(lm, tmp_path, optimiser):
    run = world.run(tmp_path, epochs=2, normalise="none", centre="none", **settings(optimiser))
    train(run, lm, tmp_path / "out", shown=False)
    log = [r for r in read_json_lines(tmp_path / "out" / "log.jsonl") if r["kind"] == "step"]
    assert log[-1]["fvu"] < 0.8 * log[0]["fvu"]
    from saekit.hub.native import load

    norms = load(tmp_path / "out").sae.W_dec.norm(dim=-1)  # pyright: ignore
    torch.testing.assert_close(norms, torch.ones(64))


def test_the_rows_of_latents_begin_anew(optimiser):
    sae, descent = build(optimiser)
    steps(sae, descent)
    before = {k: v.clone() for k, v in descent.state()[0].items()}
    latents = torch.tensor([2, 5])
    with torch.no_grad():
        sae.W_dec[latents] = 7.0
    descent.restart("W_dec", latents, 0)
    for key, value in descent.state()[0].items():
        old = before[key]
        if not key.startswith("W_dec.") or value.shape != sae.W_dec.shape:
            assert torch.equal(value, old)
            continue
        others = [i for i in range(16) if i not in (2, 5)]
        assert torch.equal(value[others], old[others])
        assert (value[latents] == (7.0 if key.endswith(".z") else 0.0)).all()


def test_schedule_free_finishes_with_the_mean_of_its_steps(lm, tmp_path):
    """Without warm-up x is the plain mean of z; constraints move y, z and x alike."""
    pytest.importorskip("schedulefree")
    cfg = TopK(d_in=8, d_out=8, d_sae=16, k=3, decoder="free")
    sae, descent = build(Optimiser(kind="schedule_free"), cfg)
    seen = []
    for i in range(6):
        steps(sae, descent, n=1, lr=0.01, seed=i)
        seen.append(descent.state()[0]["W_enc.z"].clone())
        x = torch.stack(seen).mean(0)
        torch.testing.assert_close(sae.W_enc.detach(), 0.1 * seen[-1] + 0.9 * x)
    moved = torch.randn(8, 16, generator=torch.Generator().manual_seed(3))
    with descent.followed(), torch.no_grad():
        sae.W_enc.add_(moved)
    descent.finish()
    torch.testing.assert_close(sae.W_enc.detach(), x + moved)


def test_a_missing_library_is_named_before_anything_is_left(lm, tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "schedulefree":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "schedulefree", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    run = world.run(tmp_path, optimiser=Optimiser(kind="schedule_free"), schedule="constant")
    with pytest.raises(MissingExtraError, match=r"saekit\[schedule-free\]"):
        train(run, lm, tmp_path / "out", shown=False)
    assert not (tmp_path / "out").exists()


def test_a_run_without_the_field_has_the_default(tmp_path):
    raw = world.run(tmp_path).to_dict()
    for name in ("optimiser", "schedule", "ema", "resample", "centre"):
        del raw[name]
    assert Run.from_dict(raw) == world.run(tmp_path)
    assert Run.from_dict(raw).optimiser.kind == "adam"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "sgd"}, "'signum'"),
        ({"beta1": 1.0}, "`beta1` must be at least 0 and below 1; got 1.0"),
        ({"beta2": -0.5}, "`beta2` must be at least 0"),
        ({"beta2": float("nan")}, "a finite number, at least 0 and below 1; got nan. 0.9"),
        ({"weight_decay": -1.0, "kind": "adamw"}, "`weight_decay` must be at least 0"),
        ({"weight_decay": 0.1}, "Use kind adamw"),
        ({"kind": "adamw"}, "must be above 0"),
        ({"kind": "schedule_free", "beta1": 0.0}, "above 0"),
    ],
)
def test_values_out_of_range_are_named(change, said):
    with pytest.raises(ConfigError, match=said):
        Optimiser.from_dict(change)


def test_schedule_free_has_no_schedule_and_no_second_mean(tmp_path):
    raw = world.run(tmp_path).to_dict() | {"optimiser": {"kind": "schedule_free"}}
    with pytest.raises(ConfigError, match="Set `schedule` to constant"):
        Run.from_dict(raw)
    with pytest.raises(ConfigError, match="averages weights itself"):
        Run.from_dict(raw | {"schedule": "constant", "ema": 0.9})


def test_every_step_has_its_own_seed(lm, tmp_path, monkeypatch):
    run = world.run(tmp_path, tokens=1000)
    seeds, real = [], Training._now

    def now(self):
        seeds.append(real(self).seed)
        return real(self)

    monkeypatch.setattr(Training, "_now", now)
    for name in ("one", "two"):
        train(run, lm, tmp_path / name, shown=False)
    assert seeds[:8] == seeds[8:] and len(set(seeds)) == 8
    for seed in seeds:
        torch.Generator().manual_seed(seed)


def test_half_moments_lose_nothing_in_the_mean():
    """An update of a thousandth would round to nothing; by chance it counts in the mean."""
    many = torch.nn.Parameter(torch.zeros(20_000))
    optimiser = HalfMomentsAdam([many], lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    plain = torch.nn.Parameter(torch.zeros(1))
    exact = torch.optim.Adam([plain], lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    for i in range(200):
        grad = 1.0 if i < 100 else 0.1
        many.grad, plain.grad = torch.full_like(many, grad), torch.full_like(plain, grad)
        optimiser.step()
        exact.step()
    half, full = optimiser.state[many], exact.state[plain]
    assert half["exp_avg_sq"].dtype == torch.bfloat16
    for key in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(half[key].float().mean(), full[key][0], rtol=2e-3, atol=0)
    torch.testing.assert_close(many.mean(), plain[0], rtol=1e-2, atol=0)


def test_half_moments_are_for_adam():
    with pytest.raises(ConfigError, match="kind adam or adamw; got signum"):
        Optimiser(kind="signum", moments="bfloat16")
