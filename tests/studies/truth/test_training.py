"""Training on a truth: it finds the features, resumes to the same bits, takes snapshots."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from saekit.analysis import similarity
from saekit.core.errors import ConfigError, FormatError, MissingExtraError
from saekit.core.files import read_json_lines
from saekit.hub.native import load
from saekit.saes.base import registry
from saekit.studies.truth import training as toy
from saekit.studies.truth.evals.ground_truth import GroundTruth
from saekit.studies.truth.model.base import TruthConfig
from saekit.studies.truth.training import Layout, Snapshots, fit_truth, truth_scaling
from saekit.training import checkpoint
from saekit.training.fit import Fit

D = 16


def make(**more):
    raw = {
        "n_features": D,
        "d_model": D,
        "dictionary": {"name": "orthogonal"},
        "firing": {"name": "constant", "rate": 0.1},
        "magnitudes": {"name": "folded_normal", "std": 0.2},
        "bias": 2.0,
        "seed": 3,
    }
    return TruthConfig.from_dict(raw | more).build()


def fit(name="batch_topk", **more):
    sae = {"name": name, "d_in": D, "d_out": D, "d_sae": D} | more.pop("sae", {"k": 2})
    raw = {"sae": sae, "tokens": 6000, "batch_tokens": 100, "log_steps": 10, "seed": 1}
    return Fit.from_dict(raw | more)


def weights(folder: Path):
    return (folder / "sae" / "weights.safetensors").read_bytes()


def test_it_finds_the_features_of_raw_samples(tmp_path):
    truth = make()
    sae = fit_truth(fit(tokens=25_000), truth, out=tmp_path / "run", shown=False)
    scores = GroundTruth(n_tokens=4096, n_blocks=4).run(sae, truth).scores
    assert scores["mcc"].value > 0.85 and scores["r2"].value > 0.8
    loaded = load(tmp_path / "run")
    x = truth.sample(10, torch.Generator().manual_seed(0)).x
    assert torch.equal(loaded.sae(x), sae(x))
    assert loaded.card.model["revision"] == toy.identity(truth)
    assert loaded.card.tokens == 25_000


def test_the_scaled_samples_have_mean_0_and_mean_square_1():
    truth = make(bias=5.0)
    found = truth_scaling(truth, fit().sae)
    x = found.x.apply(truth.sample(20_000, torch.Generator().manual_seed(9)).x)
    assert x.mean(0).abs().max() < 0.05
    assert float(x.square().mean()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("name", ["batch_topk", "jumprelu"])
def test_resuming_gives_the_same_bits(tmp_path, monkeypatch, name):
    truth = make()
    sae = {"k": 2} if name == "batch_topk" else {"target_l0": 2.0}
    cfg = fit(name, sae=sae, checkpoint_tokens=1000)
    fit_truth(cfg, truth, out=tmp_path / "whole", shown=False)
    write, done = checkpoint.write, []

    def stop_after_two(*args):
        done.append(write(*args))
        if len(done) == 2:
            raise KeyboardInterrupt
        return done[-1]

    monkeypatch.setattr(checkpoint, "write", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        fit_truth(cfg, truth, out=tmp_path / "cut", shown=False)
    monkeypatch.setattr(checkpoint, "write", write)
    fit_truth(cfg, truth, out=tmp_path / "cut", resume=True, shown=False)
    assert weights(tmp_path / "whole") == weights(tmp_path / "cut")
    steps = [
        [
            (r["step"], r["loss"])
            for r in read_json_lines(tmp_path / run / "log.jsonl")
            if r["kind"] == "step"
        ]
        for run in ("whole", "cut")
    ]
    assert [s for s, _ in steps[0]] == [10, 20, 30, 40, 50, 60] and steps[0] == steps[1]
    assert json.loads((tmp_path / "cut" / "manifest.json").read_text())["status"] == "done"


def test_snapshots_are_folded_and_change_nothing():
    truth, taken = make(), {}
    plain = fit_truth(fit(), truth, shown=False)
    shots = Snapshots((0.5, 1.0, 0.1), lambda share, sae: taken.update({share: sae}))
    sae = fit_truth(fit(), truth, snapshots=shots, shown=False)
    assert list(taken) == [0.1, 0.5, 1.0]
    x = truth.sample(50, torch.Generator().manual_seed(0)).x
    assert torch.equal(sae(x), plain(x)) and torch.equal(taken[1.0](x), sae(x))
    errors = [float((taken[s](x) - x).detach().square().mean()) for s in (0.1, 0.5, 1.0)]
    assert errors[0] > errors[2]
    with pytest.raises(ConfigError, match="share"):
        Snapshots((0.0,), lambda share, sae: None)


@pytest.mark.parametrize("name", registry.names())
def test_every_architecture_can_be_trained_and_measured(name):
    cls = registry.get(name)
    example = cls.example()
    truth = make(n_features=example.d_in, d_model=example.d_in)
    cfg = Fit(sae=example, tokens=800, batch_tokens=80)
    sae = fit_truth(cfg, truth, shown=False)
    layout = Layout.of(sae.cfg, truth)
    arrange = layout.arrange if sae.cfg.event else None
    result = GroundTruth(n_tokens=256, batch_tokens=64, n_blocks=2).run(sae, truth, arrange=arrange)
    assert 0 <= result.scores["mcc"].value <= 1
    assert result.details["tokens"] == 256


def test_sites_are_turns_of_one_sample():
    x = make().sample(12, torch.Generator().manual_seed(0)).x
    sites = Layout(n_sites=3).arrange(x)
    assert torch.equal(sites[:, 0], x)
    assert torch.allclose(sites.norm(dim=-1), x.norm(dim=-1)[:, None].expand(-1, 3), atol=1e-5)
    assert not torch.allclose(sites[:, 1], x, atol=0.1)
    assert torch.equal(Layout(window=4).arrange(x).reshape(12, D), x)


def test_what_is_wrong_is_said(tmp_path):
    truth = make()
    with pytest.raises(ConfigError, match="16 wide"):
        fit_truth(fit(sae={"k": 2, "d_in": 8, "d_out": 8}), truth, shown=False)
    with pytest.raises(ConfigError, match="multiple"):
        temporal = {"k": 2, "d_sae": 32, "n_heads": 2, "d_key": 4}
        fit_truth(fit("temporal", sae=temporal), truth, shown=False)
    with pytest.raises(ConfigError, match="no folder"):
        fit_truth(fit(), truth, resume=True, shown=False)
    with pytest.raises(FormatError, match="no run"):
        fit_truth(fit(), truth, out=tmp_path / "none", resume=True, shown=False)
    out = tmp_path / "run"
    fit_truth(fit(tokens=500), truth, out=out, shown=False)
    with pytest.raises(ConfigError, match="in use"):
        fit_truth(fit(tokens=500), truth, out=out, shown=False)
    with pytest.raises(ConfigError, match="other settings"):
        fit_truth(fit(tokens=600), truth, out=out, resume=True, shown=False)
    with pytest.raises(ConfigError, match="another truth"):
        fit_truth(fit(tokens=500), make(seed=4), out=out, resume=True, shown=False)


def test_similarity_puts_matches_on_the_diagonal_across_saes(tmp_path):
    features = torch.eye(4)
    g = torch.Generator().manual_seed(0)
    one, other = features[[2, 0, 3, 1]], -torch.cat([features[[3, 1]], torch.randn(1, 4)])
    one = torch.cat([torch.nn.functional.normalize(torch.randn(2, 4, generator=g)), one])
    found = similarity.compare({"one": one, "other": other[:2]}, features)
    assert torch.equal(found["one"].cosines.diagonal(), torch.ones(4))
    assert torch.equal(found["one"].features, found["other"].features)
    assert sorted(found["one"].latents.tolist()) == list(range(6))
    assert torch.equal(found["other"].cosines.diagonal(), -torch.ones(2))
    similarity.table(found, at_least=0.99).write_csv(tmp_path / "s.csv")
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines[0] == "sae,row,latent,feature,cosine" and len(lines) == 1 + 4 + 2
    with pytest.raises(ConfigError, match="directions"):
        similarity.compare({}, features)


def test_a_missing_library_names_its_extra(monkeypatch, tmp_path):
    import sys

    from saekit.metrics.matching import match

    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingExtraError, match=r"saekit\[truth\]"):
        match(torch.eye(2))


def test_epochs_repeat_the_samples():
    truth = make()
    two = dataclasses.replace(fit(tokens=500), epochs=2)
    stream = toy._Events(truth, two, Layout(), "cpu")
    rows = [stream.batch()[0] for _ in range(10)]
    assert stream.served_tokens == 1000
    first, second = (torch.cat(part).sort(0).values for part in (rows[:5], rows[5:]))
    assert torch.equal(first, second)
