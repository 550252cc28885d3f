"""Resampling: what dead latents become, and that nothing else moves."""

import pytest
import torch

from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError
from saekit.core.files import read_json_lines
from saekit.core.seeds import generator
from saekit.saes.base import registry
from saekit.saes.relu import ReLU
from saekit.saes.topk import TopK
from saekit.training.loop import train
from saekit.training.optim import Descent, Optimiser
from saekit.training.resample import AXES, Resample, check, resample
from saekit.training.run import Run
from saekit.training.trainer import Training
from tests import world
from tests.training.cut import assert_resumes


@pytest.fixture(scope="module")
def lm():
    return world.model()


def example(cfg=None):
    cfg = cfg or ReLU(d_in=8, d_out=6, d_sae=16)
    sae = cfg.build(torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in sae.parameters():
            p.add_(torch.rand(p.shape, generator=g))
    x, y = torch.randn(32, cfg.d_in, generator=g), torch.randn(32, cfg.d_out, generator=g)
    dead = torch.zeros(16, dtype=torch.bool)
    dead[[1, 7, 11]] = True
    return sae, x, y, y + torch.randn(32, cfg.d_out, generator=g), dead


def cos(a, b):
    return torch.nn.functional.cosine_similarity(a.detach(), b, dim=-1)


@pytest.mark.parametrize("arch", ["relu", "jumprelu", "gated"])
def test_dead_latents_take_the_direction_of_tokens(arch):
    raw = registry.get(arch).example().to_dict() | {"d_in": 8, "d_out": 6, "d_sae": 16}
    sae, x, y, y_hat, dead = example(registry.get(arch).from_dict(raw))
    before = {k: v.clone() for k, v in sae.state_dict().items()}
    latents = resample(Resample(encoder_scale=0.3), sae, x, y, y_hat, dead, generator(0, "a"))
    assert sorted(latents.tolist()) == [1, 7, 11]
    encoder = before["W_enc"].norm(dim=0)[~dead].mean() * 0.3
    torch.testing.assert_close(sae.W_enc.norm(dim=0)[dead], encoder.expand(3))
    decoder = before["W_dec"].norm(dim=-1)[~dead].mean()
    torch.testing.assert_close(sae.W_dec.norm(dim=-1)[dead], decoder.expand(3))
    drawn = []
    for i in latents.tolist():
        drawn.append(int(cos(sae.W_enc[:, i], x).argmax()))
        assert float(cos(sae.W_enc[:, i], x[drawn[-1]])) == pytest.approx(1)
        assert float(cos(sae.W_dec[i], y[drawn[-1]])) == pytest.approx(1)
    assert len(set(drawn)) == 3
    for name, p in sae.named_parameters():
        if name in ("b_enc", "b_mag", "r_mag"):
            assert (p[dead] == 0).all()
        elif name == "threshold":
            torch.testing.assert_close(p[dead], (0.3 * before[name][~dead].mean()).expand(3))
        if name in AXES:
            old = before[name].index_select(AXES[name], (~dead).nonzero().squeeze(-1))
            kept = p.index_select(AXES[name], (~dead).nonzero().squeeze(-1))
            assert torch.equal(kept, old), name
        else:
            assert torch.equal(p, before[name]), name


def test_tokens_are_drawn_by_their_squared_error():
    sae, x, y, _, dead = example()
    dead[:] = False
    dead[3] = True
    err = torch.zeros(32, 6)
    err[4, 0], err[9, 0] = 1.0, 2.0  # 1 : 4
    counts = torch.zeros(32)
    for i in range(500):
        resample(Resample(), sae, x, y, y + err, dead, generator(i, "draw"))
        counts[int(cos(sae.W_enc[:, 3], x).argmax())] += 1
    assert counts[4] + counts[9] == 500
    assert 360 < counts[9] < 440  # 400 +- 9


def test_no_token_is_drawn_twice_and_the_rest_wait():
    sae, x, y, _, dead = example()
    dead[:] = True
    err = torch.zeros(32, 6)
    err[:5] = 1.0
    latents = resample(Resample(), sae, x, y, y + err, dead, generator(0, "a"))
    assert len(latents) == 5 == len(set(latents.tolist()))
    drawn = [int(cos(sae.W_enc[:, i], x).argmax()) for i in latents.tolist()]
    assert sorted(drawn) == [0, 1, 2, 3, 4]
    assert not len(resample(Resample(), sae, x, y, y, dead, generator(0, "a")))


def test_windows_of_tokens_are_rows():
    sae, x, y, y_hat, dead = example()
    other = example()[0]
    resample(Resample(), sae, x, y, y_hat, dead, generator(0, "a"))
    parts = [t.view(8, 4, -1) for t in (x, y, y_hat)]
    resample(Resample(), other, *parts, dead, generator(0, "a"))
    assert torch.equal(sae.W_enc, other.W_enc)


def test_rounds_are_due_when_a_multiple_is_passed():
    cfg = Resample(every_tokens=100, until=0.5)
    due = [n for n in range(0, 1000, 30) if cfg.is_due(n - 30, n, 1000) and n]
    assert due == [120, 210, 300, 420]
    assert Resample(every_tokens=100, until=1.0).is_due(970, 1000, 1000)


def started(lm, tmp_path, **changes):
    again = Resample(every_tokens=1000, until=1.0)
    changes = {"dead_after_tokens": 500, "resample": again, "ema": 0.99} | changes
    return world.run(tmp_path, **changes)


def test_training_forgets_the_past_of_new_latents(lm, tmp_path, monkeypatch):
    """Moments, the running mean and the counter of silence, of those latents and no others."""
    run = started(lm, tmp_path, sae=TopK(d_in=32, d_out=32, d_sae=256, k=2, aux_coefficient=0.0))
    rounds, real = [], Training._revive

    def revive(self, x, y, loss):
        silent = self.silent_tokens.clone()
        moments = {k: v.clone() for k, v in self.descent.state()[0].items()}
        mean = self.mean.mean["W_enc"].clone()
        real(self, x, y, loss)
        new = (self.silent_tokens == 0) & (silent >= 500)
        assert torch.equal(self.silent_tokens[~new], silent[~new])
        if not new.any():
            assert torch.equal(silent, self.silent_tokens)
            return
        rounds.append(self.index)
        assert torch.equal(self.mean.mean["W_enc"][:, new], self.sae.W_enc[:, new])
        assert torch.equal(self.mean.mean["W_enc"][:, ~new], mean[:, ~new])
        for key, value in self.descent.state()[0].items():
            name, _, kind = key.partition(".")
            old = moments[key].movedim(AXES[name], 0) if kind != "step" and name in AXES else None
            if old is None:
                assert torch.equal(value, moments[key])
                continue
            found = value.movedim(AXES[name], 0)
            assert (found[new] == 0).all() and torch.equal(found[~new], old[~new])

    monkeypatch.setattr(Training, "_revive", revive)
    train(run, lm, tmp_path / "out", shown=False)
    assert rounds == [8, 16, 24, 32, 40] or len(rounds) >= 3


def test_latents_that_nothing_else_revives_fire_again(lm, tmp_path, monkeypatch):
    """A bias of -100 keeps them off for good, and the penalty's gradient never reaches them."""
    real = Training.__init__

    def start(self, *args, **kwargs):
        real(self, *args, **kwargs)
        self.sae.b_enc.data[:20] = -100

    monkeypatch.setattr(Training, "__init__", start)
    sae = ReLU(d_in=32, d_out=32, d_sae=64, l1_coefficient=1.0, warm_up=0.0)
    dead = {}
    for name, again in (("no", None), ("yes", Resample(every_tokens=1500, until=0.5))):
        run = world.run(tmp_path, sae=sae, dead_after_tokens=1000, resample=again)
        train(run, lm, tmp_path / name, shown=False)
        log = [r for r in read_json_lines(tmp_path / name / "log.jsonl") if r["kind"] == "step"]
        dead[name] = log[-1]["dead"]
    assert dead["no"] == 20 and dead["yes"] <= 2  # a revived latent may fall silent again


@pytest.mark.parametrize("kind", ["adam", "muon", "schedule_free"])
def test_a_run_with_rounds_resumes_bit_for_bit(lm, tmp_path, monkeypatch, kind):
    if kind == "schedule_free":
        pytest.importorskip("schedulefree")
        changes = {"schedule": "constant", "ema": None}
    else:
        changes = {}
    sae = TopK(d_in=32, d_out=32, d_sae=256, k=2, aux_coefficient=0.0)
    run = started(lm, tmp_path, sae=sae, optimiser=Optimiser(kind=kind), **changes)
    found = []
    real = Training._revive

    def revive(self, x, y, loss):
        before = self.sae.W_enc.detach().clone()
        real(self, x, y, loss)
        found.append(not torch.equal(before, self.sae.W_enc))

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_revive", revive)
        assert_resumes(run, lm, tmp_path, monkeypatch, at=31)
    assert any(found[:24]) and any(found[32:47])


def test_schedule_free_means_begin_anew():
    pytest.importorskip("schedulefree")
    sae, x, y, y_hat, dead = example()
    descent = Descent(Optimiser(kind="schedule_free"), sae, 0.01)
    for p in sae.parameters():
        p.grad = torch.ones_like(p)
    for _ in range(3):
        descent.step(0.01)
    latents = resample(Resample(), sae, x, y, y_hat, dead, generator(0, "a"))
    new = sae.W_enc[:, latents].detach().clone()
    descent.restart("W_enc", latents, 1)
    descent.finish()
    torch.testing.assert_close(sae.W_enc[:, latents].detach(), new)


@pytest.mark.parametrize("name", registry.names())
def test_an_architecture_without_these_weights_is_refused(name):
    cfg = registry.get(name).example()
    sae = cfg.build(torch.Generator().manual_seed(0))
    shapes = {k: tuple(p.shape) for k, p in sae.named_parameters()}
    if shapes.get("W_enc") == (cfg.d_in, cfg.d_sae) and "b_enc" in shapes:
        check(sae)
    else:
        with pytest.raises(ConfigError, match="Set `resample` to null"):
            check(sae)


def test_a_refusal_leaves_nothing_behind(lm, tmp_path):
    sae = registry.get("crosscoder").from_dict(
        registry.get("crosscoder").example().to_dict() | {"d_in": 32, "d_out": 32, "n_sites": 2}
    )
    pair = Pair(read=("L0.resid_post", "L1.resid_post"))
    run = started(lm, tmp_path, sae=sae, pair=pair)
    with pytest.raises(ConfigError, match="needs an architecture with `W_enc`"):
        train(run, lm, tmp_path / "out", shown=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"every_tokens": 0}, "`every_tokens` must be at least 1"),
        ({"until": 0.0}, "`until` must be above 0 and at most 1 of training"),
        ({"until": 1.5}, "`until` must be above 0 and at most 1 of training"),
        ({"encoder_scale": 0.0}, "`encoder_scale` must be above 0"),
        ({"every_tokens": 4000, "until": 0.5}, "would never happen"),
        ({"every_tokens": 100, "until": 0.05}, "would never happen"),
    ],
)
def test_values_out_of_range_are_named(tmp_path, change, said):
    with pytest.raises(ConfigError, match=said):
        Run.from_dict(world.run(tmp_path).to_dict() | {"resample": change})
