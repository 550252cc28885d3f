"""SAEs of several sites and of windows, from text to a file: train, stop, go on, load."""

import dataclasses

import pytest
import torch

from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError
from saekit.core.files import read_json, read_json_lines
from saekit.hub.native import load
from saekit.saes.crosscoder import Crosscoder
from saekit.saes.temporal import Temporal
from saekit.training import loop
from saekit.training.loop import train
from saekit.training.trainer import Training
from tests import world

SITES = ("L0.resid_pre", "L0.resid_post", "L1.resid_post")
KINDS = ["crosscoder", "crosscoder-relu", "temporal"]


@pytest.fixture(scope="module")
def lm():
    return world.model()


def run(folder, kind, **changes):
    sae = Temporal(d_in=32, d_out=32, d_sae=64, k=4, d_key=4)
    pair = Pair(read=("L1.resid_post",), window=7)  # divides neither a batch nor the run
    if kind != "temporal":
        pair = Pair(read=SITES)
        sae = Crosscoder(
            d_in=32,
            d_out=32,
            d_sae=64,
            n_sites=3,
            k=4,
            activation="relu" if kind == "crosscoder-relu" else "batch_topk",
        )
    return world.run(folder, sae=sae, pair=pair, **changes)


def steps(out):
    return [r for r in read_json_lines(out / "log.jsonl") if r["kind"] == "step"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_the_finished_sae_takes_raw_activations(lm, tmp_path, kind):
    described = run(tmp_path, kind, epochs=3)
    train(described, lm, tmp_path / "out", shown=False)
    log = steps(tmp_path / "out")
    assert log[-1]["fvu"] < 0.7 * log[0]["fvu"]
    assert log[-1]["step"] == described.total_steps
    window = described.pair.event_tokens
    assert described.total_tokens <= log[-1]["tokens"] < described.total_tokens + window
    sae, card = load(tmp_path / "out")
    assert sae.cfg == described.sae and card.pair == described.pair
    assert set(card.rules) == set(described.pair.read)
    counts = read_json(tmp_path / "out" / "manifest.json")["harvest"]
    assert counts["seen"] == sum(counts[k] for k in ("special", "high_norm", "kept", "cut"))
    assert (counts["cut"] > 0) == (kind == "temporal")
    x = torch.cat([acts.x for acts in loop.open_harvest(described, lm).batches(0, 64)])
    with torch.no_grad():
        err, spread = (sae(x) - x).square(), (x - x.mean((0, 1) if kind == "temporal" else 0))
        axes = (0, 1, 2) if kind == "temporal" else (0, 2)
        fvu = (err.sum(axes) / spread.square().sum(axes)).mean()  # sites weigh the same
    assert float(fvu) == pytest.approx(log[-1]["fvu"], rel=0.3)


def test_l0_is_per_token_also_of_windows(lm, tmp_path):
    train(run(tmp_path, "temporal", tokens=1500), lm, tmp_path / "out", shown=False)
    assert 4 < steps(tmp_path / "out")[-1]["l0"] <= 4 + 32  # novel, and at most all predicted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("buffer_tokens", [512, 10_000])
def test_a_run_that_died_goes_on_bit_for_bit(lm, tmp_path, monkeypatch, kind, buffer_tokens):
    described = run(tmp_path, kind, tokens=3000, buffer_tokens=buffer_tokens, epochs=2)
    train(described, lm, tmp_path / "whole", shown=False)

    class Killed(BaseException):
        pass

    real = Training.step

    def step(self, x, y):
        if self.index == 40:
            raise Killed
        return real(self, x, y)

    monkeypatch.setattr(Training, "step", step)
    with pytest.raises(Killed):
        train(described, lm, tmp_path / "cut", shown=False)
    monkeypatch.undo()
    assert list((tmp_path / "cut" / "checkpoints").iterdir())
    train(described, lm, tmp_path / "cut", resume=True, shown=False)
    one, two = (load(tmp_path / name).sae.state_dict() for name in ("whole", "cut"))
    for name, weight in one.items():
        assert torch.equal(weight, two[name]), name
    counts = [read_json(tmp_path / d / "manifest.json")["harvest"] for d in ("whole", "cut")]
    assert counts[0] == counts[1]


def test_a_run_whose_pair_does_not_fit_its_sae_is_refused_at_once(lm, tmp_path):
    three, seq = run(tmp_path, "crosscoder"), run(tmp_path, "temporal")
    for described, pair, said in [
        (three, Pair(read=SITES, fold=True), "folded"),
        (three, Pair(read=SITES[:2]), "n_sites=3"),
        (seq, Pair(read=SITES[:1]), "window=0"),
        (seq, Pair(read=SITES[:1], window=33), "`n_ctx`"),
        (seq, Pair(read=("L1.mlp_in",), write=("L1.mlp_out",), window=4), "write"),
        (world.run(tmp_path), Pair(read=SITES), "one by one"),
    ]:
        with pytest.raises(ConfigError, match=said):
            train(dataclasses.replace(described, pair=pair), lm, tmp_path / "out", shown=False)
        assert not (tmp_path / "out").exists()


def described_by(lm, tmp_path, arch, sites, settings):
    from saekit.training.building import as_run

    raw = world.run(tmp_path).to_dict()
    pair = {"name": "pair", "read": list(sites), "write": [], "fold": False}
    return as_run(raw | {"pair": pair, "sae": {"name": arch, "k": 4}}, lm, settings)


def test_the_command_line_fills_in_sites_and_a_window(lm, tmp_path):
    three = described_by(lm, tmp_path, "crosscoder", SITES, ["sae.activation=relu"])
    assert isinstance(three.sae, Crosscoder)
    assert three.sae.n_sites == 3 and three.sae.d_in == 32 and three.pair.window == 0
    assert described_by(lm, tmp_path, "temporal", SITES[:1], []).pair.window == 15  # n_ctx 32
    wide = described_by(lm, tmp_path, "temporal", SITES[:1], ["n_ctx=64"])
    assert (wide.pair.window, wide.n_ctx) == (31, 64)
    given = described_by(lm, tmp_path, "temporal", SITES[:1], ["pair.window=9"])
    assert given.pair.window == 9
    again = described_by(lm, tmp_path, "topk", SITES[:1], [])
    assert again.pair.window == 0


def test_both_are_trained_and_measured_from_the_command_line(tmp_path):
    import json

    from typer.testing import CliRunner

    from saekit.cli.main import app
    from saekit.models.tiny import save_tiny

    save_tiny(tmp_path / "llama")
    text = world.text_file(tmp_path, n_docs=600)
    small = ["--d-sae", "64", "--k", "4", "--tokens", "3000", "--quiet", "--dtype", "float32"]
    for pair in ("n_ctx=32", "batch_tokens=128", "buffer_tokens=512"):
        small += ["--set", pair]
    for arch, sites in (("crosscoder", SITES), ("temporal", SITES[:1])):
        words = ["train", "--arch", arch, "--model", str(tmp_path / "llama"), *small]
        words += [w for site in sites for w in ("--site", site)]
        words += ["--corpus", str(text), "--out", str(tmp_path / arch)]
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        words = ["eval", str(tmp_path / arch), "--quiet", "--json"]
        for setting in ("n_tokens=2048", "ce_tokens=512", "n_blocks=8"):
            words += ["--set", setting]
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        scores = json.loads(done.stdout.strip().splitlines()[-1])
        assert 0 < scores["fvu"] < 1 and scores["ce_spliced"] > 0
    with pytest.raises(ConfigError, match="jointly"):
        call = ["eval", str(tmp_path / "crosscoder"), "--site", SITES[0], "--quiet"]
        CliRunner().invoke(app, call, catch_exceptions=False)
