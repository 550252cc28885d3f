"""Unlearning: a latent of the texts to forget costs them what arithmetic says, and no other."""

import pytest
import torch

from saekit.core.errors import ConfigError, UnknownNameError
from saekit.data.base import Shares
from saekit.data.labelled.base import open_task
from saekit.data.open import open_corpus
from saekit.studies.causal import resampling
from saekit.studies.causal.evals.unlearning import Unlearning
from saekit.studies.causal.sources import texts_of
from tests.studies.causal.world import SITE, labelled, subject
from tests.studies.faithful.world import tools

MARK = ord("#")


def files(folder):
    (folder / "forget").mkdir()
    (folder / "retain").mkdir()
    return [
        labelled(folder / name, [mark], n=60) for name, mark in (("forget", "####"), ("retain", ""))
    ]


def run(forget, retain, **changes):
    settings = {
        "forget": (forget,),
        "retain": (retain,),
        "latents": (1,),
        "multipliers": (3.0,),
        "shares": (0.01,),
        "n_train": 20,
        "n_test": 3,
        "most_harm": 0.1,
    }
    return Unlearning(**(settings | changes)).run(subject(), tools())


def test_the_loss_is_that_with_the_latent_below_zero_and_other_texts_keep_theirs(tmp_path):
    forget, retain = files(tmp_path)
    result = run(forget, retain)
    assert result.details["chosen"]["latents"] == [MARK]
    assert result.scores["retain_rise"].value == 0
    lm, texts = subject().lm, texts_of([forget], "auto", (20, 3)).test
    rises = []
    for text in texts:
        row = torch.tensor([[256, *text.encode()]])[:, :32]
        losses = []
        for below in (1.0, -3.0):
            at = (row == MARK)[..., None]
            logits = lm.logits(row, {SITE: lambda x, a=at, b=below: torch.where(a, b * x, x)})
            losses.append(torch.nn.functional.cross_entropy(logits[0, :-1], row[0, 1:]))
        rises.append(float(losses[1] - losses[0]))
    assert result.scores["forget_rise"].value == pytest.approx(sum(rises) / len(rises), abs=1e-4)
    assert result.scores["reach"].value == pytest.approx(1, abs=1e-5)
    assert result.scores["unlearning"].low is None  # of 3 texts


def test_without_a_latent_of_their_own_it_is_undefined(tmp_path):
    forget, retain = files(tmp_path)
    again = tmp_path / "again.jsonl"
    again.write_text((tmp_path / "forget" / "planted.jsonl").read_text())
    result = run(forget, str(again))
    assert result.scores["unlearning"].value is None
    assert "no latent is on" in result.scores["unlearning"].reason
    result = run(forget, str(again), shares=(1.0,), most_harm=1e-6)
    score = result.scores["forget_rise"]
    best = result.details["validation"][0]
    if best["retain_rise"] > 1e-6:
        assert score.value is None and "every setting costs" in score.reason
    else:
        assert score.value == result.scores["retain_rise"].value


def test_words_for_texts():
    found = texts_of(["code_or_prose/code", "python_modules/typing"], "auto", (5, 2))
    assert [len(part) for part in found[:3]] == [10, 4, 4]
    assert not {*found.train} & {*found.validation, *found.test}
    with pytest.raises(UnknownNameError, match="no class `cod`.*code, prose"):
        texts_of(["code_or_prose/cod"], "auto", (5, 2))
    with pytest.raises(ConfigError, match="is both"):
        Unlearning(forget=("stdlib",), retain=("stdlib",))


def seen(corpus, split):
    return {document.text for document in corpus.documents(split)}


def test_settings_are_chosen_on_validation_text_and_scores_are_of_test_text(tmp_path):
    path, most = files(tmp_path)[0], (20, 3)
    corpus = open_corpus(path)
    found = texts_of([path], "auto", most)
    for part in ("train", "validation", "test"):
        assert {*getattr(found, part)} <= seen(corpus, part)
    assert not found.provenance[path]["notes"]
    chosen = texts_of([path], "auto", most, split="validation")
    assert {*chosen.validation, *chosen.test} <= seen(corpus, "validation")
    assert chosen.validation and chosen.test and not {*chosen.validation} & {*chosen.test}
    old = corpus.with_shares(Shares(0.0, 0.2))  # as of a run that kept no validation text
    halves = texts_of([path], "auto", most, [("old", old.to_dict())])
    assert {*halves.validation, *halves.test} <= seen(old, "test")
    assert not {*halves.validation} & {*halves.test}
    assert "half of the test text" in halves.provenance[path]["notes"][0]


def test_of_labelled_texts_the_test_part_is_for_the_score_alone():
    task = open_task("code_or_prose").read()
    found = texts_of(["code_or_prose/code"], "auto", (5, 2))
    assert {*found.train, *found.validation} <= {e.text for e in task.train}
    assert {*found.test} <= {e.text for e in task.test}
    n = sum(e.label == 0 for e in task.train)
    all_of_it = texts_of(["code_or_prose/code"], "auto", (9 * n, 3 * n))
    assert len(all_of_it.train) + len(all_of_it.validation) == n
    assert len(all_of_it.validation) == n // 4


def test_the_difference_of_two_means_is_welch_s_and_follows_skew():
    from scipy import stats

    one, other = torch.arange(12.0).double(), 3 * torch.arange(9.0).double()
    found = resampling.difference(one, other, unit="", label="", better="neither")
    wanted = stats.ttest_ind(one.numpy(), other.numpy(), equal_var=False).confidence_interval()
    assert found.value == pytest.approx(float(one.mean() - other.mean()))
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=1e-3)
    # A mean of a few large values and many of 0 is more often too low than too high.
    skewed = resampling.difference(0.1 * (one == 11), other * 0, unit="", label="", better="higher")
    assert skewed.high - skewed.value > 1.5 * (skewed.value - skewed.low)
    alike = resampling.difference(0 * one, 0 * other, unit="", label="", better="neither")
    assert alike.low is None and "come out alike" in alike.reason


def test_units_that_are_all_alike_have_no_interval():
    found = resampling.of_units(torch.zeros(12).double(), unit="", label="")
    assert found.value == 0 and found.low is None and "all 12 come out alike" in found.reason
