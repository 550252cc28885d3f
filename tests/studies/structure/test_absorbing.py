"""Absorption that was planted is found at its share, and where there is none nothing is."""

import math

import pytest
import torch

from saekit.core.codes import Codes
from saekit.core.errors import ConfigError, DataError
from saekit.core.seeds import generator
from saekit.models.tiny import tiny
from saekit.saes.relu import ReLU
from saekit.studies.structure import probes
from saekit.studies.structure.absorbing import (
    Thresholds,
    _absorbed,
    bootstrap,
    of_letters,
    shuffled,
)
from saekit.studies.structure.evals.absorption import Absorption
from saekit.studies.structure.words import asked, drawn, own_words
from tests.evals.world import random_topk, subject

N_LETTERS, GROUPS, PER_LETTER = 4, 6, 250
D = N_LETTERS + N_LETTERS * GROUPS + 30


class Planted:
    """Words of four letters; in 6 of 50 words of a letter a group of words has a direction.

    The SAE has a latent for each letter and, where absorption is planted, one for each group, which
    writes the letter too and turns the letter's own latent off.
    """

    def __init__(self, absorbs: bool, share: float = 1.0):
        g = torch.Generator().manual_seed(0)
        n = N_LETTERS * PER_LETTER
        self.letters = torch.arange(n) % N_LETTERS
        which = torch.arange(n) // N_LETTERS % 50
        self.group = torch.where(which < GROUPS, which, -1)
        eye = torch.eye(D)
        has = self.group >= 0
        place = N_LETTERS + self.letters * GROUPS + self.group.clamp_min(0)
        self.x = eye[self.letters] + has[:, None] * eye[place]
        self.x[:, -30:] = 0.05 * torch.randn(n, 30, generator=g)
        order = torch.randperm(n, generator=g)
        self.x, self.letters, self.group = (self.x[order], self.letters[order], self.group[order])
        n_latents = N_LETTERS * (1 + GROUPS)
        self.sae = ReLU(d_in=D, d_out=D, d_sae=n_latents, decoder="free").build(g)
        enc, dec = torch.zeros(n_latents, D), torch.zeros(n_latents, D)
        for letter in range(N_LETTERS):
            enc[letter, letter] = dec[letter, letter] = 1.0
            for i in range(GROUPS):
                at = N_LETTERS + letter * GROUPS + i
                enc[at, at] = dec[at, at] = 1.0
                if absorbs:
                    enc[letter, at] = -share
                    dec[at, letter] = share
        with torch.no_grad():
            self.sae.W_enc.copy_(enc.t())
            self.sae.W_dec.copy_(dec)
            self.sae.b_enc.zero_()
        self.n_train = 700

    def measured(self, sae=None, how=None):
        n, letters = self.n_train, self.letters
        labels = letters[:, None] == torch.arange(N_LETTERS)
        probe = probes.linear(self.x[:n], labels[:n], generator(0, "penalty"))
        with torch.no_grad():
            codes = (sae or self.sae).encode(self.x)
        train, test = codes.take(slice(0, n)), codes.take(slice(n, codes.n_rows))
        both = letters[:n], letters[n:]
        return of_letters(
            sae or self.sae, train, test, both, self.x[n:], probe, how or Thresholds()
        )

    def share(self, letter):
        """The share of test words of a letter that a child has."""
        rest = self.group[self.n_train :][self.letters[self.n_train :] == letter]
        return float((rest >= 0).double().mean())


def test_words_that_a_child_took_over_are_found_at_their_share():
    world = Planted(absorbs=True)
    for letter, found in enumerate(world.measured()):
        assert found.main == [letter] and len(found.f1_by_latents) == 10
        assert 0.9 < found.f1 < 1
        assert len(found.words) == int((world.letters[700:] == letter).sum())
        assert float(found.full.mean()) == pytest.approx(world.share(letter), abs=1e-12)
        assert float(found.fraction.mean()) == pytest.approx(world.share(letter), abs=1e-12)
        took = found.absorbing[found.full > 0]
        assert ((took - N_LETTERS) // GROUPS == letter).all()
        assert 0.05 < world.share(letter) < 0.25


def test_a_dictionary_without_absorption_has_none():
    for found in Planted(absorbs=False).measured():
        assert float(found.fraction.sum()) == float(found.full.sum()) == 0
        assert (found.absorbing == -1).all() and float(found.kept.mean()) > 0.9


def test_a_child_that_takes_half_is_a_half_and_never_full():
    world = Planted(absorbs=True, share=0.5)
    for letter, found in enumerate(world.measured()):
        assert float(found.full.sum()) == 0
        # Above a half: what a group of words has of its own is on the side of the probe too.
        assert 0.5 <= float(found.fraction.mean()) / world.share(letter) < 0.75


def test_one_child_for_many_words_is_a_second_latent_of_the_letter():
    world = Planted(absorbs=True)
    with torch.no_grad():  # the first child fires for every group, so that F1 jumps with it
        for letter in range(N_LETTERS):
            first = N_LETTERS + letter * GROUPS
            world.sae.W_enc[first : first + GROUPS, first] = 1.0
            world.sae.W_enc[:, first + 1 : first + GROUPS] = 0.0
            world.sae.W_enc[first + 1 : first + GROUPS, letter] = -1.0
    for letter, found in enumerate(world.measured()):
        assert found.main[:2] == [letter, N_LETTERS + letter * GROUPS]
        assert float(found.full.sum()) == 0


def test_scores_do_not_depend_on_lengths_or_order_of_latents():
    world = Planted(absorbs=True)
    before = world.measured()
    order = torch.randperm(world.sae.cfg.d_sae, generator=generator(0))
    size = torch.rand(world.sae.cfg.d_sae, generator=generator(1)) + 0.5
    with torch.no_grad():
        world.sae.W_enc.copy_((world.sae.W_enc / size)[:, order])
        world.sae.W_dec.copy_((world.sae.W_dec * size[:, None])[order])
    for one, other in zip(before, world.measured(), strict=True):
        assert torch.allclose(one.fraction, other.fraction, atol=1e-5)
        assert torch.equal(one.full, other.full)
        assert [int(order[i]) for i in other.main] == one.main


def test_the_published_cases_of_a_fraction():
    acts = torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 2, 0], [1, 0.2, 0], [0, 0, 2]])
    adds = torch.tensor([1.0, 1.0, 0.05]).double()
    whole = torch.full((5,), 2.0).double()
    fraction, full, kept, absorbing = _absorbed(acts.double(), adds, adds, whole, [0], Thresholds())
    assert fraction.tolist() == [0, 0.5, 1, 0, 0]  # whole, shared, lost, too little, not aligned
    assert full.tolist() == [0, 0, 1, 0, 0]
    assert kept.tolist() == [1, 0.5, 0, 0.5, 0]
    assert absorbing.tolist() == [-1, 1, 1, -1, -1]
    below = _absorbed(acts.double(), adds, adds, -whole, [0], Thresholds())
    assert all(float(part.sum()) == 0 for part in below[:3])  # nothing of the letter is there


def by_words(acts, adds, cosines, whole, main, how):
    """The published measure, word by word as its papers say it."""
    found = []
    for word, projection in zip(acts.tolist(), whole.tolist(), strict=True):
        part = [a * gain for a, gain in zip(word, adds.tolist(), strict=True)]
        own = sum(part[i] for i in main)
        others = [
            p for i, p in enumerate(part) if i not in main and cosines[i] >= how.cosine and p > 0
        ]
        taken = sum(sorted(others)[-how.most_absorbing :])
        if own >= projection or taken / projection < how.share:
            fraction = 0.0
        elif own <= 0:
            fraction = 1.0
        else:
            least = min(taken, projection - own)
            fraction = min(max(least / (least + own), 0.0), 1.0)
        top = max(range(len(part)), key=part.__getitem__)
        off = all(abs(word[i]) < 1e-8 for i in main)
        full = off and cosines[top] >= how.full_cosine and part[top] / projection >= how.share
        found.append((fraction, float(full)))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("main", [[0], [3, 7], []])
def test_all_words_at_once_are_the_published_measure_word_by_word(main):
    g = torch.Generator().manual_seed(len(main))
    acts = (torch.rand(500, 12, generator=g) * (torch.rand(500, 12, generator=g) < 0.3)).double()
    cosines = torch.rand(12, generator=g).double() * 0.6 - 0.2
    adds = cosines * (torch.rand(12, generator=g).double() + 0.5)
    whole = torch.rand(500, generator=g).double() * 0.5 + 0.01
    fraction, full, _, _ = _absorbed(acts, adds, cosines, whole, main, Thresholds())
    theirs = by_words(acts, adds, cosines, whole, main, Thresholds())
    assert torch.allclose(fraction, theirs[:, 0], atol=1e-12)
    assert torch.equal(full, theirs[:, 1])
    assert 0 < float(fraction.mean()) < 1 and full.any()


def test_shuffled_codes_tell_nothing_of_a_word():
    world = Planted(absorbs=True)
    with torch.no_grad():
        codes = world.sae.encode(world.x)
    dealt = shuffled(codes, generator(0))
    assert sorted(dealt.values.tolist()) == sorted(codes.values.tolist())
    own = (dealt.columns(torch.arange(N_LETTERS)).argmax(1) == world.letters).float().mean()
    assert 0.15 < float(own) < 0.35


def test_sparse_probes_pass_over_a_copy_and_answer_as_scikit_learn_does():
    sklearn = pytest.importorskip("sklearn.linear_model")
    g = torch.Generator().manual_seed(4)
    y = torch.rand(400, 2, generator=g) < 0.3
    first = (y[:, 0] & (torch.rand(400, generator=g) < 0.7)).float()
    second = (y[:, 0] & (first == 0)).float()
    noise = torch.rand(400, 3, generator=g)
    x = torch.cat([first[:, None], first[:, None], second[:, None], noise], dim=1)
    found = probes.sparse(x, y, x, 3)
    assert found.latents[0, :2].tolist() in ([0, 2], [1, 2])  # not the copy
    columns = found.latents[0]
    scaled = x[:, columns] / x[:, columns].std(0, correction=0)
    fit = sklearn.LogisticRegression(class_weight="balanced", tol=1e-8, max_iter=1000)
    theirs = fit.fit(scaled.numpy(), y[:, 0].numpy()).predict(scaled.numpy())
    assert float((torch.from_numpy(theirs) == found.yes[2, :, 0]).float().mean()) > 0.995


def test_the_probe_finds_its_direction_whatever_the_scale_of_columns():
    g = torch.Generator().manual_seed(5)
    x = torch.randn(600, 6, generator=g)
    true = torch.tensor([2.0, -1, 0, 0, 0, 0])
    y = (x @ true + 0.1 * torch.randn(600, generator=g) > 0)[:, None]
    size = torch.tensor([1.0, 100, 1, 0.01, 1, 1])
    one = probes.linear(x, y, generator(0))
    other = probes.linear(x * size + 7, y, generator(0))
    assert torch.nn.functional.cosine_similarity(one.weights[0], true.double(), dim=0) > 0.98
    assert torch.allclose(one.scores(x), other.scores(x * size + 7), atol=0.05)
    assert probes.f1(one.scores(x)[:, 0] > 0, y[:, 0]) > 0.95


def test_f1_and_bootstrap_by_hand():
    said, right = torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1, 0, 1, 0]).bool()
    assert probes.f1(said, right) == 0.5 and probes.f1(said & ~said, right & ~right) == 0.0
    values = torch.tensor([0.0] * 50 + [1.0] * 50).double()
    found = bootstrap(values, 2000, generator(0))
    half = 1.96 * math.sqrt(0.25 / 100)
    assert found["low"] == pytest.approx(0.5 - half, abs=0.02)
    assert found["high"] == pytest.approx(0.5 + half, abs=0.02)
    assert bootstrap(values[:1], 10, generator(0)) == {"value": 0.0, "low": None, "high": None}


def test_words_are_read_up_to_their_last_token_after_the_same_examples():

    lm = tiny()
    known = own_words(["apple", "Bee", "cat", "dog", "eel", "fox"], lm)
    split = drawn(known, None, 2, 0.25, 0)
    words = asked(lm, known, split, "The word{word} begins with:", 256)
    lm_text = [
        lm.tokenizer.decode(row[: int(at) + 1].tolist())
        for row, at in zip(words.rows, words.last, strict=True)
    ]
    lines = "".join(f"The word {w} begins with: {w[0].upper()}\n" for w in words.examples)
    assert lm_text == [f"<bos>{lines}The word {w}" for w in words.words]
    assert sorted([*words.words, *words.examples]) == sorted(known) and words.n_train == 3
    assert [chr(97 + i) for i in words.letters.tolist()] == [w[0].lower() for w in words.words]
    with pytest.raises(ConfigError, match="letters a to z"):
        own_words(["naïve"], lm)
    with pytest.raises(ConfigError, match="{word} once"):
        asked(lm, known, split, "no word", None)
    with pytest.raises(DataError, match="words to ask"):
        drawn({"one": [1]}, None, 0, 0.5, 0)


def test_codes_of_no_row_are_read():
    empty = Codes.from_dense(torch.zeros(0, 3))
    assert shuffled(empty, generator(0)).n_rows == 0


def test_a_small_model_and_a_narrow_sae_are_said():
    said = Absorption().cautions(subject(random_topk(), tiny()))
    assert len(said) == 2
    assert "million parameters" in said[0] and "latents; below 16,384" in said[1]


def test_an_sae_whose_latents_are_all_off_has_no_latent_for_a_letter():
    found = probes.sparse(torch.zeros(6, 0), torch.eye(2).bool().repeat(3, 1), torch.zeros(4, 0), 2)
    assert (found.latents == -1).all() and not found.yes.any()
