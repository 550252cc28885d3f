"""A token of a transcoder counts where it does at the site read and at the site predicted."""

import dataclasses
import json

import pytest
import torch

from saekit.activations.cache import caching
from saekit.activations.cache.full_shuffle import FullShuffle
from saekit.activations.cache.recorded import RecordedModel
from saekit.activations.harvest import Harvest
from saekit.activations.pairs import Pair
from saekit.activations.rules import TokenRule
from saekit.analysis.indexing import make_index
from saekit.data.tokenise import Rows, TokenStream
from saekit.evals.core import Core
from saekit.evals.evaluate import measure
from saekit.hub.native import load, save
from saekit.hub.opening import complete
from saekit.models.sites import parse_site
from saekit.training.loop import train
from tests import world
from tests.activations.cached import spec

READ, WRITE = "L1.mlp_in", "L1.mlp_out"
MASSIVE = 7  # every token id that this divides


def sinking(**sinks):
    """Return a tiny model whose activations at some sites are massive on some tokens.

    Args:
        sinks: by site, with _ for the dot: the remainder of the ids there.
    """
    lm = world.model()
    real_read, real_logits = lm.read, lm.logits

    def scaled(tokens, site, acts):
        left = sinks.get(str(site).replace(".", "_"))
        if left is None:
            return acts
        big = (tokens.to(acts.device) % MASSIVE == left)[..., None]
        return torch.where(big, 300 * acts, acts)

    def read(tokens, sites, **more):
        found = real_read(tokens, sites, **more)
        return {s: scaled(tokens, s, a) for s, a in found.items()}

    def logits(tokens, replace=None, **more):
        def seen(site, change):
            return lambda acts: change(scaled(tokens, site, acts))

        return real_logits(tokens, {s: seen(s, r) for s, r in (replace or {}).items()}, **more)

    lm.read, lm.logits = read, logits
    return lm


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transcoder")
    run = world.run(folder, pair=Pair(read=(READ,), write=(WRITE,)), tokens=3000)
    lm = sinking(L1_mlp_out=3, L1_mlp_in=5)
    train(run, lm, folder / "run", shown=False)
    return run, lm, folder / "run"


def harvest_of(run, lm, rule=None):
    stream = TokenStream(run.corpus, "train", lm.tokenizer, n_ctx=run.n_ctx)
    return Harvest(lm, stream, run.pair, rule or TokenRule())


def test_no_target_that_counts_is_massive(trained):
    run, lm, _ = trained
    harvest = harvest_of(run, lm)
    found = list(harvest.batches(0, 32))
    for side, site in ((0, READ), (1, WRITE)):
        norms = torch.cat([b[side].float().norm(dim=-1) for b in found])
        assert float(norms.max()) <= 4 * harvest.rules[site].median_norm
    counts = harvest.counts
    assert counts.high_norm > 0 and counts.high_norm_predicted > 0  # the test can fail
    assert counts.seen == sum(counts) - counts.seen


def test_both_rules_and_both_counts_are_kept(trained):
    _, _, folder = trained
    assert set(load(folder).card.rules) == {READ, WRITE}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["rules"]) == {READ, WRITE}
    harvest = manifest["harvest"]
    assert harvest["high_norm"] > 0 and harvest["high_norm_predicted"] > 0


def test_evaluation_and_index_leave_out_the_same(trained, tmp_path):
    run, lm, folder = trained
    loaded = load(folder)
    core = Core(n_tokens=2048, ce_tokens=512, n_blocks=16)
    result = measure(loaded, lm, core, shown=False)
    tokens = result.details["tokens"]
    assert tokens["high_norm"] > 0 and tokens["high_norm_predicted"] > 0
    assert tokens["seen"] == sum(v for k, v in tokens.items() if k != "seen")
    assert set(result.provenance["rules"]) == {READ, WRITE}
    # The massive targets outweigh all others: with them FVU is another number.
    assert result.scores["fvu"].value != pytest.approx(
        result.details["fvu_with_high_norm"]["value"], rel=0.05
    )
    found = make_index(loaded, lm, tmp_path / "index", tokens=500, shown=False)
    harvest = json.loads((tmp_path / "index" / "index.json").read_text())["harvest"]
    assert harvest["high_norm_predicted"] > 0 and found["tokens"] == harvest["kept"]


def test_a_full_shuffle_of_a_cache_has_the_same_events(trained, tmp_path):
    run, lm, _ = trained
    made = spec(tmp_path, sites=(READ, WRITE), corpus=run.corpus)
    store = caching.write(made, lm, tmp_path / "cache", tokens=1500, shown=False)
    harvest = RecordedModel(store).harvest(run.pair, TokenRule(), {})
    n = sum(len(b.x) for b in harvest.batches())
    assert n == store.n_kept  # what the cache counts is what can be trained on
    stream = FullShuffle(
        harvest, window_tokens=512, block_tokens=64, tokens=n, epochs=1, batch_tokens=64, seed=0
    )
    median = harvest.rules[WRITE].median_norm
    largest = max(float(stream.batch()[1].norm(dim=-1).max()) for _ in range(n // 64))
    assert largest <= 4 * median


def test_a_card_with_the_rule_of_one_side_loads_and_says_so(trained, tmp_path):
    run, lm, folder = trained
    sae, card = load(folder)
    assert not card.provenance.get("notes")
    save(sae, dataclasses.replace(card, rules={READ: card.rules[READ]}), tmp_path / "old")
    old = load(tmp_path / "old")
    assert any(WRITE in note for note in old.card.provenance["notes"])
    done = complete(old, lm, run.corpus)
    assert set(done.card.rules) == {READ, WRITE}  # measured by both
    assert any(WRITE in note for note in done.card.provenance["notes"])


def test_folded_transcoders_have_a_mask_each():
    lm = sinking(L0_mlp_out=3)
    pair = Pair(read=("L0.mlp_in", "L1.mlp_in"), write=("L0.mlp_out", "L1.mlp_out"), fold=True)
    tokens = torch.arange(64).reshape(2, 32)
    rows = Rows(tokens, torch.zeros_like(tokens), 0)

    class Stream:
        def rows(self, batch_rows, first_row=0, n_rows=None):
            yield rows

        def provenance(self):
            return {}

    harvest = Harvest(lm, Stream(), pair, TokenRule())
    acts = lm.read(tokens, pair.sites)
    alone = [
        Harvest(lm, Stream(), Pair(read=(r,), write=(w,)), TokenRule(), fitted=harvest.rules)
        for r, w in zip(pair.read, pair.write, strict=True)
    ]
    sizes = [len(one.select(rows, acts).x) for one in alone]
    assert sizes[0] < sizes[1]  # what is massive at layer 0 counts at layer 1
    assert len(harvest.select(rows, acts).x) == sum(sizes)
    assert parse_site(WRITE) in pair.sites
