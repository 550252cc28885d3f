"""Verify names each way in which a right SAE can be used wrongly, and is quiet on right ones."""

import copy
import dataclasses
import json

import pytest
import torch

import saekit
from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError, DataError
from saekit.data.base import Corpus
from saekit.data.corpora.files import Files
from saekit.data.tokenise import TokenStream
from saekit.evals.verify.measures import recovered_of
from saekit.models.tiny import tiny
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.relu import ReLU
from saekit.saes.topk import TopK
from tests import world

K = 6


@pytest.fixture(scope="module")
def lm():
    return tiny("gpt2", n_layers=4)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return world.text_file(tmp_path_factory.mktemp("text"))


def trained(lm, text, folder, kind=None, **sites):
    return saekit.train(
        lm,
        sae=kind or saekit.TopK(k=K, expansion=4),
        corpus=Files(paths=(str(text),), validation_share=0.0),
        tokens=20_000,
        n_ctx=32,
        lr=5e-3,
        out=folder,
        shown=False,
        **sites,
    )


@pytest.fixture(scope="module")
def right(lm, text, tmp_path_factory):
    return trained(lm, text, tmp_path_factory.mktemp("ae") / "run", site="L1.resid_post")


@pytest.fixture(scope="module")
def transcoder(lm, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tc") / "run"
    return trained(lm, text, folder, site="L1.mlp_in", target="L1.mlp_out")


def verify(sae, lm, text, **how):
    return saekit.verify(sae, lm, corpus=text, tokens=640, ce_tokens=128, shown=False, **how)


def with_weights(sae, kind=None, **weights):
    """Return an SAE of another kind, or with other weights, and the same card."""
    made = (kind or sae.cfg).build(torch.Generator().manual_seed(0))
    own = {n: w for n, w in sae.sae.state_dict().items() if n in made.state_dict()}
    made.load_state_dict(made.state_dict() | own | weights)
    return dataclasses.replace(sae, sae=made.eval())


def at(sae, read, write=None):
    pair = Pair(read=(read,), write=(write,) if write else ())
    return dataclasses.replace(sae, card=dataclasses.replace(sae.card, pair=pair, rules={}))


def sized(sae, kind):
    cfg = sae.cfg
    return {"d_in": cfg.d_in, "d_out": cfg.d_out, "d_sae": cfg.d_sae} | kind


def scaled(sae):
    w = sae.sae.state_dict()
    return with_weights(sae, W_enc=w["W_enc"] / 20, W_dec=w["W_dec"] * 20, b_dec=w["b_dec"] * 20)


def turned(sae):
    encoder = sae.sae.W_enc.detach()
    return with_weights(sae, W_enc=encoder.T.contiguous().reshape(encoder.shape))


def bias_taken_off(sae):
    w = sae.sae.state_dict()
    return with_weights(sae, b_enc=w["b_enc"] + w["b_dec"] @ w["W_enc"])


def as_relu(sae):
    return with_weights(sae, ReLU(**sized(sae, {})))


def logarithms(sae):
    codes_need = torch.full((sae.d_sae,), -3.0)
    return with_weights(sae, JumpReLU(**sized(sae, {"target_l0": K})), threshold=codes_need)


def of_centred(sae):
    """One that is right on centred activations alone: its encoder hears the mean loudly."""
    w = sae.sae.state_dict()
    d = sae.d_in
    noise = torch.randn(sae.d_sae, generator=torch.Generator().manual_seed(1))
    encoder = w["W_enc"] - w["W_enc"].mean(0) + 3 * noise / d
    centred = {name: w[name] - w[name].mean(-1, keepdim=True) for name in ("W_dec", "b_dec")}
    return with_weights(sae, W_enc=encoder, **centred)


FAULTS = {
    "the layer before": (lambda s: at(s, "L0.resid_post"), {}, {"site"}, "L1.resid_post"),
    "another point": (lambda s: at(s, "L1.mlp_out"), {}, {"site"}, "L1.resid_post"),
    "input scale lost": (scaled, {}, {"input scale"}, "--input-scale"),
    "encoder turned": (turned, {}, {"encoder"}, "turn it"),
    "b_dec not taken off": (bias_taken_off, {}, {"decoder bias"}, "taken off"),
    "topk read as relu": (as_relu, {"l0": K}, {"architecture"}, f"topk --k {K}"),
    "k lost": (
        lambda s: with_weights(s, TopK(**sized(s, {"k": 40}))),
        {"l0": K},
        {"architecture"},
        f"topk --k {K}",
    ),
    "logarithms as thresholds": (
        logarithms,
        {"l0": K},
        {"thresholds", "architecture"},
        "exponentiate",
    ),
    "processed activations": (of_centred, {}, {"processing"}, "transformer_lens"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(right, lm, text, fault):
    make, how, wrong, fix = FAULTS[fault]
    verdict = verify(make(right), lm, text, **how)
    assert verdict.status == "wrong" and verdict.exit_code == 1, verdict
    marked = [line for line in verdict.lines if line.status == "wrong"]
    assert wrong <= {line.name for line in marked}, verdict
    assert any(fix in line.fix for line in marked), verdict


def test_a_lost_bias_is_doubted(right, lm, text):
    verdict = verify(with_weights(right, b_dec=right.sae.b_dec.detach() + 1.0), lm, text)
    assert verdict["bias"].status == "doubt" and not verdict.fits


def test_an_autoencoder_that_is_a_transcoder_is_named(transcoder, lm, text):
    for read in ("L1.mlp_in", "L1.mlp_out"):
        verdict = verify(at(transcoder, read), lm, text)
        line = verdict["site"]
        assert line.status == "wrong" and "--read L1.mlp_in --write L1.mlp_out" in line.fix, verdict


def test_a_transcoder_that_reads_the_wrong_place_is_named(transcoder, lm, text):
    verdict = verify(at(transcoder, "L1.resid_mid", "L1.mlp_out"), lm, text)
    assert "--read L1.mlp_in" in verdict["site"].fix, verdict


def test_right_ones_are_let_through(right, transcoder, lm, text):
    for sae, how in ((right, {"l0": K}), (transcoder, {})):
        verdict = verify(sae, lm, text, **how)
        assert verdict.fits and verdict.exit_code == 0, verdict
    assert verdict["L0"].status == "unknown"  # nothing was published


def half_threshold(sae):
    """A BatchTopK whose threshold is not its own: many more latents are on than it was made for."""
    made = BatchTopK(**sized(sae, {"k": K}))
    found = with_weights(sae, made)
    found.sae.threshold.fill_(0.0)
    return found


def test_a_batch_topk_is_held_against_its_own_k(right, lm, text):
    line = verify(half_threshold(right), lm, text)["L0"]
    assert line.status == "wrong" and line.numbers["published"] == K, line


def test_prediction_that_is_too_large_is_doubted(right, lm, text):
    w = right.sae.state_dict()
    for factor in (0.5, 1.5):
        verdict = verify(with_weights(right, W_dec=w["W_dec"] * factor), lm, text)
        assert verdict["gain"].status == "doubt", verdict


def test_collapse_is_no_slip(right, lm, text):
    w = right.sae.state_dict()
    nothing = {name: torch.zeros_like(w[name]) for name in ("W_dec", "W_enc", "b_enc")}
    verdict = verify(with_weights(right, **nothing), lm, text)
    wrong = {x.name for x in verdict.lines if x.status == "wrong"}
    assert "error" in wrong and not wrong & {"site", "input scale", "encoder"}, verdict


def test_a_transcoder_the_wrong_way_round_is_named(transcoder, lm, text):
    verdict = verify(at(transcoder, "L1.mlp_out", "L1.mlp_in"), lm, text)
    assert "--read L1.mlp_in --write L1.mlp_out" in verdict["site"].fix, verdict


def test_a_head_of_another_number_is_named_and_one_too_many_is_a_line(lm, text, tmp_path):
    right = trained(lm, text, tmp_path / "z", kind=saekit.TopK(k=2, d_sae=32), site="L1.z.h2")
    verdict = verify(at(right, "L1.z.h0"), lm, text)
    assert "L1.z.h2" in verdict["site"].fix, verdict
    assert verify(at(right, "L1.z.h9"), lm, text)["site"].status == "wrong"


def test_far_layers_are_tried_where_nothing_near_is_right(text, tmp_path):
    deep = tiny("gpt2", n_layers=8)
    right = trained(deep, text, tmp_path / "deep", site="L6.resid_post")
    verdict = verify(at(right, "L1.resid_post"), deep, text)
    assert "L6.resid_post" in verdict["site"].fix, verdict


def test_what_a_site_is_worth_is_told_from_noise():
    chance = torch.Generator().manual_seed(0)
    clean = 3 + torch.rand(16, generator=chance, dtype=torch.float64)
    losses = {"clean": clean, "spliced": clean + 0.1, "zero": clean + 1.0}
    found = recovered_of(losses, 16)
    assert found.share == pytest.approx(0.9) and found.error < 1e-9 and found.worth == 1.0
    noise = torch.randn(16, generator=chance, dtype=torch.float64)
    assert recovered_of(losses | {"zero": clean + noise}, 16).share is None


def test_two_faults_are_both_named(right, lm, text):
    verdict = verify(at(scaled(right), "L2.resid_post"), lm, text)
    assert {"site", "input scale"} <= {x.name for x in verdict.lines if x.status == "wrong"}


def test_another_model_and_another_width_are_named(right, lm, text):
    verdict = verify(right, tiny("gpt2", seed=3, n_layers=4), text)
    assert verdict["model"].status == "doubt" and verdict["error"].status != "fits", verdict
    verdict = verify(right, tiny("gpt2", n_layers=4, d_model=64), text)
    assert verdict["width"].status == "wrong" and "32" in verdict["width"].says
    verdict = verify(right, tiny("gpt2", n_layers=1), text)
    assert verdict["site"].status == "wrong" and "layers 0..0" in verdict["site"].says


def test_numbers_are_those_of_an_evaluation(right, lm, text):
    verdict = verify(right, lm, text, l0=K)
    found = saekit.evaluate(right, lm, corpus=text, n_tokens=640, ce_tokens=128, shown=False)
    assert verdict["error"].numbers["fvu"] == pytest.approx(found.scores["fvu"].value, abs=0.02)
    assert verdict["L0"].numbers["l0"] == pytest.approx(found.scores["l0"].value, rel=0.05)


def test_it_is_written_and_read_as_json(right, lm, text, tmp_path):
    verdict = verify(right, lm, text, out=tmp_path / "verdict.json")
    raw = json.loads((tmp_path / "verdict.json").read_text())
    assert raw["status"] == verdict.status and len(raw["lines"]) == len(verdict.lines)
    with pytest.raises(KeyError, match="no line"):
        verdict["nothing"]


def test_what_cannot_be_verified_is_refused(right, lm, text, tmp_path):
    with pytest.raises(ConfigError, match="at least 256"):
        saekit.verify(right, lm, corpus=text, tokens=10)
    with pytest.raises(ConfigError, match="which site"):
        verify(at(right, "unknown"), lm, text)
    short = tmp_path / "short.txt"
    short.write_text("one.")
    with pytest.raises(DataError, match="rows"):
        verify(right, lm, short)
    weights = copy.deepcopy(right.sae.state_dict())
    verify(turned(right), lm, text)
    assert all(torch.equal(weights[n], w) for n, w in right.sae.state_dict().items())


def test_an_evaluation_puts_in_place_what_a_splice_does(right, lm, text):
    found = saekit.evaluate(right, lm, corpus=text, n_tokens=640, ce_tokens=640, shown=False)
    card = right.card
    stream = TokenStream(
        Corpus.from_dict(card.run["corpus"]),
        "test",
        lm.tokenizer,
        n_ctx=card.n_ctx,
        bos_each_row=bool(card.bos),
    )
    tokens = torch.cat([rows.tokens for rows in stream.rows(8)])[: 640 // card.n_ctx]
    with saekit.splice(lm, right, error=False):
        logits = lm.logits(tokens).float()
    goal = tokens[:, 1:]
    scored = ~torch.isin(goal, torch.tensor(sorted(lm.tokenizer.special_ids)))
    losses = torch.nn.functional.cross_entropy(logits[:, :-1][scored], goal[scored])
    assert found.details["losses"]["spliced"] == pytest.approx(float(losses), rel=1e-6)
