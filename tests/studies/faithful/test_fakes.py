"""Fake features: what was planted is found, and by the arithmetic that is stated."""

import dataclasses
import math

import pytest
import torch

from saekit.core.codes import Codes
from saekit.core.errors import ConfigError, DataError, ResourceError
from saekit.core.seeds import generator
from saekit.models.tiny import tiny
from saekit.studies.faithful.evals.fake_features import FakeFeatures
from saekit.studies.faithful.fakes import firing, statistics
from saekit.studies.faithful.fakes.definitions import PRESETS, sized
from saekit.studies.faithful.fakes.noises.base import Place, registry
from saekit.studies.faithful.fakes.statistics import Units
from saekit.studies.faithful.figures import fake_bars, fake_scatter
from saekit.studies.faithful.sequences import Shape, held_out, pad
from tests.evals.world import random_topk
from tests.evals.world import subject as ordinary
from tests.evals.world import tools as real_text
from tests.studies.faithful.world import OF_TEXT, SITE, subject, table, tools

RARE = 250
# fires on noise alone; on text and noise; on everything; never; on one token that text lacks
PLANTED = [range(200, 256), range(OF_TEXT), range(256), [], [RARE]]
SMALL = FakeFeatures(n_seqs=30, n_draws=40, noises=("uniform_tokens",))


def latents_of(settings, latents=PLANTED, **changes):
    kept = {}
    how = tools()._replace(keep=lambda _, name, found: kept.update({name: found}))
    result = dataclasses.replace(settings, **changes).run(subject(table(latents)), how)
    found = kept["fake_features"].columns["uniform_tokens_fake"]
    return result, [i for i, fake in enumerate(found) if fake]


def test_a_planted_fake_feature_is_found_in_sequences():
    result, fake = latents_of(SMALL)
    assert fake == [0, 1, 2, 4]
    assert result.scores["uniform_tokens/fake"].value == 4 / 5
    assert result.scores["uniform_tokens/excess"].value == 2 / 5  # the first and the last
    assert result.scores["text/dense"].value == 2 / 5
    assert result.scores["other_text/excess"].value == 0
    assert result.scores["uniform_tokens/above_text"].value == 2 / 5
    assert result.details["noises"]["uniform_tokens"]["silent_on_text"] == 2


def test_and_at_tokens_where_the_rare_one_is_too_rare():
    result, fake = latents_of(SMALL, mode="token")
    assert fake == [0, 1, 2]
    assert result.scores["uniform_tokens/excess"].value == 1 / 5
    mine = result.details["noises"]["uniform_tokens"]
    assert mine["most_possible"] == 5 and mine["l0"] == pytest.approx(
        (56 + 100 + 256) / 256, abs=0.1
    )


def test_with_enough_text_a_planted_one_is_sure():
    assert latents_of(SMALL)[0].scores["uniform_tokens/surely_fake"].value == 0  # 30 documents
    how = tools(n_rows=240)
    result = dataclasses.replace(SMALL, n_seqs=80).run(subject(table(PLANTED)), how)
    assert result.scores["uniform_tokens/surely_fake"].value == 2 / 5
    assert result.scores["other_text/surely_fake"].value == 0


def test_where_none_is_planted_none_is_found():
    result, fake = latents_of(SMALL, [[i] for i in range(OF_TEXT)], mode="token")
    assert fake == [] and result.scores["uniform_tokens/fake"].value == 0
    result, _ = latents_of(SMALL, [range(OF_TEXT)])
    assert result.scores["uniform_tokens/excess"].value == 0


@pytest.mark.parametrize("name", ["notes", "r2"])
def test_published_definitions_are_what_the_notes_say(name):
    subj, how = ordinary(random_topk()), real_text()
    settings = FakeFeatures(
        definition=name, n_seqs=20, n_draws=0, noises=("uniform_tokens",), tau=0.6
    )
    got = settings.run(subj, how).details["noises"]["uniform_tokens"]["latents"]["fake"]
    rows = held_out(how, 60)
    place = Place(subj.lm.tokenizer, subj.lm.vocab_size, Shape(32, 256), rows)
    drawn = registry.get("uniform_tokens")().draw(
        20, place, generator(0, "noise", "uniform_tokens")
    )
    acts = subj.lm.read(drawn.tokens, [subj.read])[subj.read]
    kept = subj.rule.keep(drawn.tokens, acts)
    dense = subj.sae.encode(acts).dense() * kept[..., None]
    if name == "notes":
        wanted = ((dense.sum(1) > 0.6).double().mean(0) > 0.05).sum()
    else:
        wanted = ((dense > 0.6).sum((0, 1)) / kept.sum() > 0.10).sum()
    assert got == int(wanted) and (name == "r2" or got > 0)


def test_definitions_are_those_that_were_published():
    assert PRESETS["notes"][:6] == ("sequence", 1.0, "absolute", 0.05, "sum", 1000)
    assert PRESETS["r1"][:6] == ("sequence", 0.0, "absolute", 0.05, "sum", 195)
    assert sized(PRESETS["r2"], 128)[:6] == ("token", 1.0, "absolute", 0.10, "max", 7812)
    changed = FakeFeatures(definition="notes", p=0.2, n_seqs=7).defined(64)
    assert (changed.tau, changed.p, changed.n_seqs, changed.seq_len) == (1.0, 0.2, 7, 64)


def test_more_fakes_than_tokens_allow_is_an_error_of_ours():
    token = PRESETS["r2"]
    firing.check_bound(320, 32.0, token)
    with pytest.raises(AssertionError, match="error in saekit"):
        firing.check_bound(321, 32.0, token)
    firing.check_bound(4000, 32.0, PRESETS["notes"])  # sequences have no such bound


def test_several_saes_give_what_each_alone_gives():
    subjects = [subject(table(PLANTED)), subject(table(PLANTED[::-1]), name="other")]
    for one, together in zip(subjects, SMALL.run_all(subjects, tools()), strict=True):
        alone = SMALL.run(one, tools())
        assert (alone.scores, alone.details) == (together.scores, together.details)


@pytest.mark.parametrize("name", registry.names())
def test_noises_are_seeded_and_have_no_special_token(name):
    lm, text = tiny(), held_out(tools(), 30)
    place = Place(lm.tokenizer, lm.vocab_size, Shape(32, 256), text)
    noise = registry.get(name)()
    one, two, other = (noise.draw(12, place, generator(s, "x")) for s in (0, 0, 1))
    assert one.tokens.equal(two.tokens) and not one.tokens.equal(other.tokens)
    assert one.tokens.shape[0] == 12 and one.tokens.shape[1] <= 32
    assert (one.tokens[:, 0] == 256).all()
    real = one.tokens[:, 1:][one.real[:, 1:]]
    assert not torch.isin(real, torch.tensor([256, 257])).any()
    assert "Source:" in (type(noise).__doc__ or "")


def test_shuffled_text_keeps_the_tokens_of_each_document():
    lm, text = tiny(), held_out(tools(), 30)
    place = Place(lm.tokenizer, lm.vocab_size, Shape(32, 256), text)
    kind = registry.get("shuffled_text")
    within = kind().draw(12, place, generator(0)).tokens
    across = kind(within="corpus").draw(12, place, generator(0)).tokens
    assert within.sort(1).values.equal(text.tokens[:12].sort(1).values)
    assert not across.sort(1).values.equal(text.tokens[:12].sort(1).values)
    assert across.flatten().sort().values.equal(text.tokens[:12].flatten().sort().values)
    with pytest.raises(DataError, match="31 of 32 tokens are asked for"):
        kind().draw(31, place, generator(0))


def test_counts_of_resamples_are_those_of_rows_drawn_again():
    chance = torch.Generator().manual_seed(0)
    noise, text = ((torch.rand(40, 9, generator=chance) < 0.3).float() for _ in range(2))
    counted = statistics.count(Units(noise, torch.ones(40)), Units(text, torch.ones(40)), 0.3, 5, 3)
    of_noise, of_text = (statistics.weights(40, 5, 3, what) for what in ("noise", "text"))
    for b in range(5):
        rows = [noise[torch.repeat_interleave(torch.arange(40), of_noise[b].long())]]
        rows += [text[torch.repeat_interleave(torch.arange(40), of_text[b].long())]]
        fake, dense = ((part.mean(0) > 0.3 + 1e-7) for part in rows)
        assert counted.draws["fake"][b] == fake.sum()
        assert counted.draws["excess"][b] == (fake & ~dense).sum()


def test_two_saes_are_compared_on_the_noise_that_both_saw():
    result, again = (latents_of(SMALL, latents)[0] for latents in (PLANTED, PLANTED))
    same = statistics.difference(result, again, "uniform_tokens")
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    clean, _ = latents_of(SMALL, [range(OF_TEXT)] * 5)
    apart = statistics.difference(result, clean, "uniform_tokens")
    assert apart.value == 2 / 5 and apart.p == pytest.approx(1 / 41)
    assert len(statistics.differences(result, clean)) == 4
    with pytest.raises(ConfigError, match="not of one noise"):
        statistics.difference(result, latents_of(SMALL, p=0.1)[0], "uniform_tokens")
    with pytest.raises(ConfigError, match="with uniform_tokens"):
        statistics.difference(result, clean, "unigram")
    assert statistics.over_models([0.1, 0.2, 0.3, 0.1, 0.2]).p == 2 / 2**5


def test_few_sequences_have_no_interval():
    result, _ = latents_of(SMALL, n_seqs=10)
    score = result.scores["uniform_tokens/fake"]
    assert score.low is None and "20 are needed" in score.reason


def test_settings_that_cannot_be_run():
    with pytest.raises(ConfigError, match="names each once"):
        FakeFeatures(noises=("unigram", "unigram"))
    with pytest.raises(ConfigError, match="reads 256 at most"):
        dataclasses.replace(SMALL, seq_len=300).run(subject(table(PLANTED)), tools())
    with pytest.raises(DataError, match="three are needed"):
        SMALL.run(subject(table(PLANTED)), tools(1))


def test_thresholds_are_in_what_the_scale_says():
    codes = Codes.from_dense(torch.tensor([[3.0, 0.0, -1.0], [4.0, 0.0, 0.0], [0.0, 0.0, 2.0]]))
    sizes = firing.Sizes(3)
    sizes.add(codes)
    assert sizes.thresholds(0.5, "max").tolist() == [2, 0, 1]
    assert sizes.thresholds(2, "absolute").tolist() == [2, 2, 2]
    assert sizes.thresholds(1, "rms").tolist() == pytest.approx([12.5**0.5, 0, 2.5**0.5])
    assert sizes.l0 == pytest.approx(4 / 3)


def test_padding_stands_on_the_right_and_is_known():
    padded = pad([[1, 2, 3], [4]], 9)
    assert padded.tokens.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert padded.rows(slice(1, 2)).tokens.tolist() == [[4]]
    assert SITE.point == "embed" and math.isclose(float(padded.real.sum()), 4)


def test_figures_have_the_numbers_next_to_them(tmp_path):
    kept = {}
    how = tools()._replace(keep=lambda _, name, found: kept.update({name: found}))
    result = SMALL.run(subject(table(PLANTED)), how)
    fake_bars.draw({"a": result, "b": result}, tmp_path / "bars.svg")
    fake_scatter.draw(kept["fake_features"], "uniform_tokens", 0.05, tmp_path / "scatter.svg")
    lines = (tmp_path / "bars.csv").read_text().splitlines()
    assert len(lines) == 9 and lines[1].startswith("a,uniform_tokens,fake,0.8")
    assert len((tmp_path / "scatter.csv").read_text().splitlines()) == 6


def test_damaged_weights_and_what_fits_nowhere_are_refused_and_no_batch_moves_the_floor():
    sae = table([range(OF_TEXT)] * 3)
    config = dataclasses.replace(SMALL, n_draws=4)
    batches = [dataclasses.replace(config, batch_rows=n) for n in (3, 8, 90)]
    made = [one.run(ordinary(random_topk(), tiny()), real_text()) for one in batches]
    rates = [[r.scores[f"uniform_tokens/{w}_untrained"] for w in ("fake", "excess")] for r in made]
    assert rates[0] == rates[1] == rates[2]
    for wrong, error in (
        ({"seq_len": 1}, ConfigError),
        ({"n_seqs": 10**12}, ResourceError),
        ({"n_draws": 10**13}, ResourceError),
    ):
        with pytest.raises(error):
            dataclasses.replace(config, **wrong).run(subject(sae), tools())
    with torch.no_grad():
        sae.acts[0, 0] = torch.nan
    with pytest.raises(DataError, match="`acts` of planted"):
        config.run(subject(sae), tools())
