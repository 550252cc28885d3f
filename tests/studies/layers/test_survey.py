"""One pass over text: figures of the tiny model, halves, batches, files, clear errors."""

import math
from dataclasses import replace

import pytest
import torch

from saekit.core.errors import ConfigError, FormatError, ShapeError, UnknownNameError
from saekit.models.tiny import tiny
from saekit.studies.layers.survey import Survey, SurveyConfig, survey
from tests.studies.layers.world import SITES, opened

CONFIG = SurveyConfig(tokens=20 * 32, examples=2, before=3, after=2)


def made(arch="standardised", **changes):
    shared, lm, stream = opened(arch)
    return survey(shared, lm, stream, replace(CONFIG, **changes), shown=False)


@pytest.fixture(scope="module")
def whole():
    return made()


def test_it_counts_what_the_sae_gives_at_every_layer(whole):
    shared, lm, stream = opened()
    rows = next(iter(stream.rows(20)))
    for index, site in enumerate(shared.sites):
        acts = lm.read(rows.tokens, [site])[site]
        x = acts[shared.rule(site).keep(rows.tokens, acts)]
        codes, strengths = shared.encode(site, x)
        count = torch.bincount(codes.latents, minlength=64)
        assert torch.equal(whole.sums.counts[index], count)
        total = torch.zeros(64, dtype=torch.float64).index_add_(
            0, codes.latents, strengths.double()
        )
        torch.testing.assert_close(whole.sums.totals[index], total)
        assert int(whole.sums.tokens[index]) == len(x) == whole.counts["kept"][index]
    assert whole.counts["seen"] == 640 and whole.counts["special"] >= 20
    assert float(whole.sums.counts.sum()) > 0.9 * 4 * sum(whole.counts["kept"])


def test_strengths_are_those_of_standardised_tokens():
    """The inner SAE reads each token at deviation 1; so do strengths, whatever the layer."""
    shared, lm, stream = opened()
    site = shared.sites[2]
    rows = next(iter(stream.rows(4)))
    acts = lm.read(rows.tokens, [site])[site][:, 5]
    codes, strengths = shared.encode(site, acts)
    scaled = shared.scaled(site, acts)
    z = (scaled - scaled.mean(1, keepdim=True)) / scaled.std(1, keepdim=True)
    inner = shared.sae.inner.encode(z).live()
    assert torch.equal(codes.latents, inner.latents)
    torch.testing.assert_close(strengths, inner.values, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(strengths, codes.values, rtol=1e-2)


@pytest.mark.parametrize("arch", ["standardised", "topk"])
def test_a_view_of_a_site_is_the_sae_loaded_for_it(arch):
    from saekit.hub.native import load
    from tests.studies.layers.world import trained

    shared, lm, stream = opened(arch)
    rows = next(iter(stream.rows(4)))
    for name, site in zip(SITES, shared.sites, strict=True):
        x = lm.read(rows.tokens, [site])[site][:, 3:7]
        own, view = load(trained(arch)[0], site=name).sae, shared.at(site)
        torch.testing.assert_close(view(x), own(x), rtol=1e-4, atol=1e-5)
        one, other = view.encode(x), own.encode(x)
        torch.testing.assert_close(one.dense(), other.dense(), rtol=1e-3, atol=1e-4)
        flat = x.reshape(-1, 32)
        predicted = shared.predict(site, shared.encode(site, flat).codes)
        torch.testing.assert_close(predicted, own(flat), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(view.directions(), own.directions(), rtol=1e-4, atol=1e-5)


def same(one, other):
    assert torch.equal(one.sums.counts, other.sums.counts)
    for name, value in one.sums.tensors().items():
        torch.testing.assert_close(other.sums.tensors()[name], value, rtol=1e-5, atol=1e-6)
    assert torch.equal(one.examples.row, other.examples.row)
    assert torch.equal(one.examples.ids, other.examples.ids)


@pytest.mark.parametrize("batch_rows", [1, 7])
def test_batches_change_nothing(whole, batch_rows):
    same(made(batch_rows=batch_rows), whole)


def test_two_halves_are_the_whole(whole, tmp_path):
    second = made(tokens=10 * 32, first_row=10)
    second.merge(made(tokens=10 * 32))
    same(second, whole)
    assert second.spans == [(0, 20)] and second.counts["kept"] == whole.counts["kept"]
    with pytest.raises(ConfigError, match="Rows 0..0 are in both"):
        whole.merge(made(tokens=32))
    with pytest.raises(ConfigError, match="differ in .*weights"):
        made(tokens=32).merge(made("topk", tokens=32, first_row=1))


def test_files(whole, tmp_path):
    again = Survey.load(whole.save(tmp_path / "layers"))
    assert again.sites == whole.sites and again.spans == whole.spans
    assert again.made_from == whole.made_from and again.numbers == [0, 1, 2]
    same(again, whole)
    assert again.examples.of(1, 5) == whole.examples.of(1, 5)
    file = tmp_path / "layers" / "sums.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(FormatError, match="damaged"):
        Survey.load(tmp_path / "layers")


def test_layers_are_named_by_the_model_where_they_can_be():
    shared, _, _ = opened(sites=["L1.resid_post", "L0.resid_post"])
    assert shared.numbers == [1, 0]
    assert opened()[0].numbers == [0, 1, 2]  # two sites of layer 0: places


def test_what_does_not_fit_is_refused():
    shared, _, stream = opened()
    with pytest.raises(ShapeError, match="width 32 at L0.resid_pre, where tiny-llama has 64"):
        survey(shared, tiny(d_model=64), stream, CONFIG, shown=False)
    with pytest.raises(UnknownNameError, match="no site `L1.resid_post`"):
        survey(shared, tiny(n_layers=1), stream, CONFIG, shown=False)
    with pytest.raises(ConfigError, match="reads L0.resid_pre.*got L1.mlp_out"):
        opened(sites=["L1.mlp_out"])
    with pytest.raises(ConfigError, match="at least one site, and none twice"):
        opened(sites=["L1.resid_post", "L1.resid_post"])
    with pytest.raises(ConfigError, match="`tokens` must be at least 1"):
        SurveyConfig(tokens=0)


def test_no_dense_array_is_ever_made(monkeypatch):
    from saekit.core.codes import Codes

    def refuse(self):
        raise AssertionError("dense")

    monkeypatch.setattr(Codes, "dense", refuse)
    assert math.isfinite(float(made(tokens=64).sums.totals.sum()))
