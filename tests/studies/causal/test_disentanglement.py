"""Disentanglement: latents that are the attributes swap one alone; prompts and slopes are right."""

import pytest
import torch

from saekit.core.errors import DataError, FormatError, UnknownNameError
from saekit.core.files import cache_folder
from saekit.core.progress import Progress
from saekit.core.wheels import GEONAMES
from saekit.models.tiny import tiny
from saekit.studies.causal.asking import NONE, Asked, Clean, Prompts, prompts_of
from saekit.studies.causal.evals.disentanglement import Disentanglement, _pairs, _World
from saekit.studies.causal.facts import Facts, facts_of
from saekit.studies.faithful.probing import statistics
from saekit.studies.faithful.sequences import Padded, Shape
from tests.evals.world import SITE, mirror, subject

N, D, K = 48, 32, 4
WHEEL = cache_folder() / "wheels" / f"{GEONAMES.package}-{GEONAMES.version}.whl"
silent = Progress("", None, shown=False)


class Straight(Asked):
    """A model whose answers are axes of the activation at the name: A the first 4, B the next."""

    def read(self, prompts, x):
        first = K * "AB".index(prompts.attribute)
        return x[:, first : first + K]

    def swapped(self, prompts, which, site, new):
        return self.read(prompts, new)

    def slopes(self, prompts, pairs, site):
        axes = torch.eye(D)[K * "AB".index(prompts.attribute) :]
        return axes[prompts.answer[pairs[:, 1]]] - axes[prompts.answer[pairs[:, 0]]]


def world():
    number = torch.arange(N)
    answers = {"A": number % K, "B": number // K % K}
    x = torch.zeros(N, D)
    x[number, answers["A"]] = x[number, K + answers["B"]] = 3.0
    rows = Padded(torch.zeros(N, 3, dtype=torch.int64), torch.ones(N, 3, dtype=torch.bool))
    at = torch.ones(N, dtype=torch.int64)
    prompts = {n: Prompts(n, rows, at, at + 1, a, torch.arange(K)) for n, a in answers.items()}
    asked = Straight(tiny(), 16, silent)
    clean = {n: Clean(asked.read(p, x), {SITE: x}, {}) for n, p in prompts.items()}
    parts = {"train": number[:20], "validation": number[20:32], "test": number[32:]}
    chance = torch.Generator().manual_seed(0)
    pairs = {
        part: {n: _pairs(things, p.answer, 16, chance) for n, p in prompts.items()}
        for part, things in parts.items()
    }
    every = _pairs(parts["test"], number, 16, chance)
    facts = Facts(list(map(str, range(N))), {}, {"A": "{}", "B": "{}"}, {})
    draws = statistics.drawn(16, 50, 0)
    return _World(facts, prompts, clean, parts, pairs, every, asked, draws, 0)


@pytest.mark.slow
def test_latents_that_are_the_attributes_swap_one_and_leave_the_other():
    made = world()
    slopes = {
        n: made.asked.slopes(p, made.pairs["train"][n], SITE) for n, p in made.prompts.items()
    }
    found, details, notes = Disentanglement(latents=(2, 4, 32))._measured(
        subject(mirror(), max_norm=None), made, slopes
    )
    assert set(details["attributes"]["A"]["latents"]) == set(range(K))
    assert set(details["attributes"]["B"]["latents"]) == set(range(K, 2 * K))
    for name in "AB":
        assert found[f"{name}/cause"].value == found[f"{name}/isolation"].value == 1
        assert found[f"{name}/whole_cause"].value == 1
        assert found[f"{name}/whole_isolation"].value == 0
        assert found[f"{name}/random_cause"].value == 0
        assert details["attributes"][name]["known"] == N
    assert found["disentanglement"].value == 1 and found["disentanglement"].better == "higher"
    assert found["disentanglement"].low < 1  # 16 of 16 is not certainty
    assert found["whole_disentanglement"].value == 0.5
    assert found["reach"].value == pytest.approx(1) and not notes


def test_prompts_end_where_answers_differ_and_leave_out_what_cannot_be_asked():
    facts = Facts(["ab", "cd", "ef"], {"x": ["red", "blue", ""]}, {"x": "The colour of {} is"}, {})
    asked = prompts_of(facts, tiny(), Shape(32, 256))["x"]
    row = asked.rows.tokens[0].tolist()
    assert bytes(row[1:]).decode() == "The colour of ab is " and row[0] == 256
    assert [row[i] for i in (int(asked.at[0]), int(asked.last[0]))] == [ord("b"), ord(" ")]
    assert asked.candidates.tolist() == [ord("b"), ord("r")]
    assert asked.answer.tolist() == [1, 0, NONE]


def test_a_swap_of_an_activation_for_itself_changes_nothing_and_slopes_are_slopes():
    facts, lm = facts_of("letters"), tiny()
    prompts = prompts_of(facts, lm, Shape(32, 256))["after"]
    asked = Asked(lm, 7, silent)
    clean = asked.clean(prompts, [SITE])
    pairs = torch.tensor([[0, 5], [9, 2], [3, 4]])
    same = asked.swapped(prompts, pairs[:, 0], SITE, clean.acts[SITE][pairs[:, 0]])
    assert torch.allclose(same, clean.logits[pairs[:, 0]], atol=1e-4)
    slopes = asked.slopes(prompts, pairs, SITE)
    step = 1e-2 * torch.randn(3, D, generator=torch.Generator().manual_seed(0))
    gaps = []
    for sign in (1, -1):
        new = clean.acts[SITE][pairs[:, 0]] + sign * step
        logits, rows = asked.swapped(prompts, pairs[:, 0], SITE, new), torch.arange(3)
        wanted, own = (prompts.answer[pairs[:, i]] for i in (1, 0))
        gaps.append(logits[rows, wanted] - logits[rows, own])
    assert torch.allclose((gaps[0] - gaps[1]) / 2, (slopes * step).sum(1), atol=2e-3)


def test_pairs_differ_in_their_answers_and_use_each_base_alike():
    answer = torch.tensor([0, 0, 1, 1, 2])
    found = _pairs(torch.arange(4), answer, 10, torch.Generator().manual_seed(0))
    assert len(found) == 10 and (answer[found[:, 0]] != answer[found[:, 1]]).all()
    counts = torch.bincount(found[:, 0], minlength=5)
    assert counts.max() - counts[:4].min() <= 1 and counts[4] == 0
    assert not len(_pairs(torch.tensor([0, 1]), answer, 10, torch.Generator()))


def test_facts_of_a_file_and_what_is_none(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("entity,The colour of {} is,The size of {} is\nsky,blue,large\n")
    found = facts_of(str(path))
    assert found.entities == ["sky"] and found.answers["The size of {} is"] == ["large"]
    path.write_text("entity,The colour of {} is\nsky,blue\n")
    with pytest.raises(DataError, match="at least 2"):
        facts_of(str(path))
    path.write_text("name,The colour of {} is\nsky,blue\n")
    with pytest.raises(FormatError, match="column entity"):
        facts_of(str(path))
    with pytest.raises(UnknownNameError, match="countries, letters"):
        facts_of("contries")


@pytest.mark.skipif(not WHEEL.exists(), reason="the wheel of countries is not in the cache")
def test_countries():
    found = facts_of("countries")
    france = {k: v[found.entities.index("France")] for k, v in found.answers.items()}
    assert france == {
        "capital": "Paris",
        "continent": "Europe",
        "language": "French",
        "currency": "euro",
    }
    assert len(found.entities) > 150 and all(found.answers["capital"])
