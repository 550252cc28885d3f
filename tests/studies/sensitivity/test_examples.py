"""Examples against a search that keeps everything."""

import pytest
import torch

from saekit.core.codes import Codes
from saekit.data.tokenise import Rows
from saekit.studies.sensitivity.examples import Collector, ExampleConfig, RandomTexts

CFG = ExampleConfig(around=3, top=4, weighted=3, spare=1, negatives=4, random=20, least_count=2)
N_CTX, D_SAE = 24, 6


def corpus(n_rows=60, seed=0, density=0.15):
    chance = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 90, (n_rows, N_CTX), generator=chance)
    cut = torch.randint(0, N_CTX, (n_rows, 1), generator=chance)
    docs = torch.arange(n_rows)[:, None] * 2 + (torch.arange(N_CTX) >= cut)
    acts = torch.rand(n_rows, N_CTX, D_SAE, generator=chance)
    on = torch.rand(n_rows, N_CTX, D_SAE, generator=chance) < density
    return tokens, docs, (acts * on).double().float()


def collected(tokens, docs, acts, step, cfg=CFG, latents=(4, 0, 5), seed=7):
    found = Collector(cfg, latents, D_SAE, seed)
    for first in range(0, len(tokens), step):
        part = slice(first, first + step)
        rows = Rows(tokens[part], docs[part], first)
        n = len(rows.tokens)
        row = torch.arange(n).repeat_interleave(N_CTX) + first
        pos = torch.arange(N_CTX).repeat(n)
        found.add(rows, row, pos, Codes.from_dense(acts[part].reshape(-1, D_SAE)))
    return found


def naive_peaks(docs, acts, latent, a):
    """Every peak of a latent: in each row the largest first, none near a larger one."""
    found = []
    for row in range(len(acts)):
        taken = []
        values = acts[row, :, latent]
        for pos in sorted(range(N_CTX), key=lambda p: (-values[p], p)):
            whole = a <= pos < N_CTX - a and docs[row, pos - a] == docs[row, pos + a]
            if values[pos] > 0 and whole and all(abs(pos - p) > a for p in taken):
                taken.append(pos)
                found.append((float(values[pos]), row, pos))
    return sorted(found, key=lambda f: (-f[0], f[1], f[2]))


@pytest.mark.parametrize("latent", [4, 0, 5])
def test_top_texts_are_those_of_a_search_that_keeps_everything(latent):
    tokens, docs, acts = corpus()
    found = collected(tokens, docs, acts, 7).of(latent)
    peaks = naive_peaks(docs, acts, latent, CFG.around)
    top = {(row, pos) for _, row, pos in peaks[: CFG.top + CFG.spare]}
    centres = [(s.row, s.pos + CFG.around) for s in [*found.shown, *found.held_out]]
    assert top <= set(centres) and len(set(centres)) == len(centres)
    others = set(centres) - top
    assert len(others) == CFG.weighted + CFG.spare
    assert others <= {(row, pos) for _, row, pos in peaks[CFG.top + CFG.spare :]}
    assert len(found.shown) == CFG.top + CFG.weighted and len(found.held_out) == 2 * CFG.spare
    for s in [*found.shown, *found.held_out]:
        window = slice(s.pos, s.pos + 2 * CFG.around + 1)
        assert s.tokens == tokens[s.row, window].tolist()
        assert s.acts == acts[s.row, window, latent].tolist()
        assert set(docs[s.row, window].tolist()) == {s.doc} and s.peak == CFG.around
    assert found.count == int((acts[..., latent] > 0).sum())
    assert found.largest == float(acts[..., latent].max())


def test_nothing_depends_on_how_rows_came():
    data = corpus()
    whole, parts = collected(*data, 60), collected(*data, 1)
    for latent in (4, 0, 5):
        assert whole.of(latent) == parts.of(latent)
    assert collected(*data, 60, seed=8).of(4) != whole.of(4)


def test_weighted_texts_are_drawn_with_the_squares_of_activations():
    # One row in two has activation 2, the other 1: squares give four draws to one.
    n, a = 400, 1
    cfg = ExampleConfig(around=a, top=1, weighted=1, spare=0, least_count=0, random=10)
    tokens = torch.zeros(n, 3, dtype=torch.int64)
    docs = torch.arange(n)[:, None].expand(n, 3)
    strong = 0
    for seed in range(300):
        found = Collector(cfg, [0], 1, seed)
        acts = torch.zeros(n, 3, 1)
        acts[:, 1, 0] = torch.where(torch.arange(n) % 2 == 0, 2.0, 1.0)
        acts[0, 1, 0] = 3.0  # the top one
        row, pos = torch.arange(n).repeat_interleave(3), torch.arange(3).repeat(n)
        found.add(Rows(tokens, docs, 0), row, pos, Codes.from_dense(acts.view(-1, 1)))
        drawn = [s for s in found.of(0).shown if s.largest < 3]
        strong += drawn[0].largest == 2.0
    # 199 of weight 4 and 200 of weight 1: the share is 0.799, its deviation 0.023.
    assert abs(strong / 300 - 199 * 4 / (199 * 4 + 200)) < 0.08


def test_negatives_are_of_the_same_documents_and_have_the_latent_off():
    tokens, docs, acts = corpus(density=0.05)
    found = collected(tokens, docs, acts, 9)
    for latent in (4, 0, 5):
        one = found.of(latent)
        mine = {s.doc for s in [*one.shown, *one.held_out]}
        assert one.negatives and len(one.negatives) <= CFG.negatives
        for s in one.negatives:
            assert s.doc in mine and s.peak == -1 and not any(s.acts)
            window = slice(s.pos, s.pos + 2 * CFG.around + 1)
            assert s.tokens == tokens[s.row, window].tolist()
            assert float(acts[s.row, window, latent].max()) == 0


def test_a_latent_that_is_hardly_on_is_not_measured():
    tokens, docs, acts = corpus()
    acts[..., 0] = 0.0
    acts[0, 5, 0], acts[1, 5, 0] = 1.0, 1.0
    cfg = ExampleConfig(around=3, least_count=2, random=10)
    assert collected(tokens, docs, acts, 9, cfg).measured() == [4, 5]  # 2 are not more than 2
    acts[2, 5, 0] = 1.0
    assert collected(tokens, docs, acts, 9, cfg).measured() == [4, 0, 5]


def test_few_examples_give_fewer_and_never_zeros():
    tokens, docs, acts = corpus()
    acts[..., 5] = 0.0
    docs = torch.arange(len(docs))[:, None].expand_as(docs)
    acts[3, 10, 5], acts[4, 12, 5] = 1.0, 0.5
    one = collected(tokens, docs, acts, 9).of(5)
    assert [s.largest for s in [*one.shown, *one.held_out]] == [1.0, 0.5]


def test_random_texts_are_the_same_however_rows_come():
    tokens, docs, _ = corpus(200)
    tokens[5] = 1  # special tokens are in no text
    found = []
    for step in (1, 64):
        texts = RandomTexts(CFG, 3)
        for first in range(0, 200, step):
            texts.add(
                Rows(tokens[first : first + step], docs[first : first + step], first),
                frozenset({1}),
            )
        found.append(texts.texts())
    assert found[0] == found[1] and len(found[0]) == CFG.random
    assert all(len(s.tokens) == 2 * CFG.around + 1 and 1 not in s.tokens for s in found[0])
