"""A shared SAE beside SAEs of one layer: equal where they are equal, and cosines of the plant."""

import dataclasses

import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.hub.native import load
from saekit.hub.trained import TrainedSAE
from saekit.models.sites import parse_site
from saekit.recipes import get
from saekit.recipes.mlsae import single_layer
from saekit.studies.layers.compare import compare
from saekit.studies.layers.lens import Lens
from saekit.studies.layers.stream import adjacent_cosines
from tests.studies.layers.world import SITES, opened, trained


def singles():
    """The shared SAE itself, loaded for each site: a comparison with equals."""
    found = {}
    for site in SITES:
        one = load(trained()[0], site=site)
        pair = dataclasses.replace(one.card.pair, read=(site,), fold=False)
        found[site] = TrainedSAE(one.sae, dataclasses.replace(one.card, pair=pair, scalings={}))
    return found


def test_equals_are_equal():
    shared, lm, stream = opened()
    columns = compare(shared, singles(), lm, stream, tokens=640).columns
    assert columns["site"] == list(SITES)
    assert columns["multi_fvu"] == pytest.approx(columns["single_fvu"], rel=1e-4)
    assert columns["multi_l0"] == pytest.approx(columns["single_l0"], rel=1e-4)
    assert columns["single_in_multi"] == pytest.approx([1, 1, 1], abs=1e-4)
    assert columns["same_run"] == [False] * 3  # it saw three times the tokens of one layer


def test_what_cannot_be_compared_is_refused():
    shared, lm, stream = opened()
    some = singles()
    some[SITES[1]] = some[SITES[0]]
    with pytest.raises(ConfigError, match="for L0.resid_post reads L0.resid_pre"):
        compare(shared, some, lm, stream, tokens=64)
    del some[SITES[1]]
    with pytest.raises(ConfigError, match="no SAE of one layer for L0.resid_post"):
        compare(shared, some, lm, stream, tokens=64)


def test_a_single_layer_run_sees_the_tokens_of_its_layer():
    run = trained()[2]
    one = single_layer(run, SITES[1])
    assert one.tokens == run.tokens // 3 and one.pair.read == (SITES[1],) and not one.pair.fold
    assert abs(one.total_steps - run.total_steps) <= 1 and one.peak_lr == run.peak_lr
    with pytest.raises(ConfigError, match="shares one SAE among L1.mlp_out"):
        single_layer(run, "L1.mlp_out")


def test_the_recipe_has_the_published_defaults():
    run = get("mlsae")
    assert run.sae.inner.k == 32 and run.sae.d_sae == 64 * 512 and run.sae.inner.aux_k == 256
    assert run.tokens == 6 * 10**9 and run.step_tokens == 6 * 131_072 and run.peak_lr == 1e-4
    assert run.total_steps == 7630 and run.seed == 42 and run.pair.shares


def test_neighbours_of_the_stream():
    shared, lm, stream = opened()
    rules = {str(s): shared.rule(s) for s in shared.sites}
    found = adjacent_cosines(lm, stream, rules, shared.sites, n_rows=6, shown=False)
    rows = next(iter(stream.rows(6)))
    acts = lm.read(rows.tokens, shared.sites)
    keep = torch.stack([rules[str(s)].keep(rows.tokens, acts[s]) for s in shared.sites]).all(0)
    x = [acts[s][keep].double() for s in shared.sites]
    x = [v - v.mean(0) for v in x]
    columns = found.pairs.columns
    for i in range(2):
        cosine = torch.nn.functional.cosine_similarity(x[i], x[i + 1])
        assert columns["cosine_mean"][i] == pytest.approx(float(cosine.mean()), abs=1e-5)
        assert columns["cosine_variance"][i] == pytest.approx(float(cosine.var()), abs=1e-5)
    assert found.n_tokens == int(keep.sum()) == found.norms.columns["tokens"][0]
    with pytest.raises(ConfigError, match="at least two layers; got 1"):
        adjacent_cosines(lm, stream, rules, shared.sites[:1], n_rows=1, shown=False)


def test_neighbours_in_the_basis_of_a_lens():
    shared, lm, stream = opened()
    rules = {str(s): shared.rule(s) for s in shared.sites}
    none = {i: torch.zeros(32, 32) for i in range(2)}
    same = Lens(none, {i: torch.zeros(32) for i in range(2)})
    turned = Lens({0: torch.zeros(32, 32), 1: -2 * torch.eye(32)}, same.biases)
    plain, like, other = (
        adjacent_cosines(lm, stream, rules, shared.sites, n_rows=3, lens=one, shown=False)
        for one in (None, same, turned)
    )
    assert like.pairs.columns == plain.pairs.columns
    first, last = other.pairs.columns["cosine_mean"]
    # Translator 1 is that of the output of block 0, the middle site: both cosines turn.
    assert first == pytest.approx(-plain.pairs.columns["cosine_mean"][0], abs=1e-5)
    assert last == pytest.approx(-plain.pairs.columns["cosine_mean"][1], abs=1e-5)
    assert parse_site(SITES[1]) == shared.sites[1]
