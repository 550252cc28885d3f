"""A language model as judge: what is a rating, what is counted, kept and paid for."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from saekit.core.errors import BudgetError, ConfigError, ResourceError, UnknownNameError
from saekit.core.result import Score
from saekit.generators.base import Generator, Reply
from saekit.generators.limits import Limits
from saekit.generators.scripted import Scripted
from saekit.studies.causal import lm_judge
from saekit.studies.causal.evals import steering
from saekit.studies.causal.evals.steering import Steering
from saekit.studies.causal.lm_judge import RATING, LMJudge, Rated
from tests.evals.world import SITE, tools
from tests.studies.causal.test_steering import SMALL, Planted, _Given, made


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        (" 1.", 1),
        ("Rating: [[0]]", 0),
        ("**2** - plainly so", 2),
        ("2/2", 2),
        ("score 1 out of 2", 1),
        ("1.5", None),
        ("0, 1 or 2", None),
        ("0 to 2", None),
        ("3", None),
        ("20", None),
        ("2/5", None),
        ("I would say 2", None),
        ("", None),
        ("1st", None),
    ],
)
def test_a_reply_is_a_rating_or_none(text, value):
    assert lm_judge.rating(Reply(text=text), graded=False) == value


def test_the_probabilities_of_the_answers_are_a_rating():
    told = {" 0": math.log(0.2), " 1": math.log(0.5), " 2": math.log(0.3)}
    assert lm_judge.rating(Reply(text=" 1", logprobs=(told,)), graded=True) == pytest.approx(1.1)
    assert lm_judge.rating(Reply(text="1"), graded=True) is None


def test_a_text_is_worth_the_harmonic_mean_of_both_ratings():
    assert Rated(2, 1).value == pytest.approx(4 / 3) and Rated(2, 2).value == 2
    assert Rated(2, 0).value == Rated(0, 0).value == 0
    assert Rated(2, None).value == 0 and not Rated(2, None).valid


def test_equal_questions_are_paid_for_once_also_by_another_run(tmp_path):
    script = Scripted(answers=(("Concept: dogs", "1"), ("", "2")))
    judge = LMJudge(script, Limits())
    first = judge.rate(["a dog", "a dog", "two\nlines"], "dogs")
    assert first == [Rated(1, 2)] * 3
    assert judge.asker.sent == 4  # of six questions four differ
    again = LMJudge(script, Limits())
    assert again.rate(["a dog", "two lines"], "dogs") == first[:2]
    assert again.asker.sent == 0 and again.record()["usable"] == 4


def test_a_limit_ends_it_and_the_same_again_goes_on():
    script = Scripted(answers=(("", "2"),))
    with pytest.raises(BudgetError, match="run the same again") as ended:
        LMJudge(script, Limits(requests=3)).rate(["a", "b", "c", "d"], "x")
    assert ended.value.exit_code == 4
    judge = LMJudge(script, Limits(requests=5))
    assert judge.rate(["a", "b", "c", "d"], "x") == [Rated(2, 2)] * 4
    assert judge.asker.sent == 5  # three of eight were kept


def test_a_judge_that_refuses_ends_it():
    with pytest.raises(ResourceError, match="no answer to this request"):
        LMJudge(Scripted(answers=(("nothing", "2"),)), Limits()).rate(["a"], "x")


def scores(value=1.0):
    own = Score(value=value, n=8, unit=RATING, better="higher", label="own")
    cost = Score(value=0.5, n=8, unit="nats/token", better="neither")
    return {"steering": own, "cost": cost}


def test_what_is_no_rating_is_counted_and_too_many_leave_nothing():
    good, bad = (Rated(2, 2), True), (Rated(None, 1), True)
    few = lm_judge.with_judge(scores(), [good] * 8 + [bad] * 2)
    assert few["unrated"].value == 0.2 and few["steering"].value == 1
    many = lm_judge.with_judge(scores(), [good] * 7 + [bad] * 3)
    assert many["steering"].value is None and "30% of 10 texts" in many["steering"].reason
    assert many["unrated"].value == 0.3 and many["cost"].value == 0.5


def test_agreement_with_the_classifier_is_kappa_and_no_rating_agrees_with_nothing():
    pairs = [(Rated(2, 2), True)] * 4 + [(Rated(0, 2), False)] * 4 + [(Rated(1, 0), False)] * 2
    found = lm_judge.with_judge({}, pairs)["judge_agreement"]
    # 8 of 10 agree; by chance 0.6 * 0.4 + 0.4 * 0.6 = 0.48 of them would
    assert found.value == pytest.approx((0.8 - 0.48) / 0.52) and found.n == 10
    assert found.low < found.value < found.high
    worse = lm_judge.with_judge({}, [*pairs, (Rated(None, 2), True)])["judge_agreement"]
    assert worse.value < found.value
    blind = lm_judge.with_judge({}, [(Rated(2, 2), None)])["judge_agreement"]
    assert blind.value is None and "no better than the commonest" in blind.reason


def test_a_judge_that_cannot_tell_labelled_texts_judges_nothing():
    assert lm_judge.why_none(torch.ones(24).double()) == ""
    assert "62% of 8" in lm_judge.why_none(torch.tensor([1.0, 1, 1, 1, 1, 0, 0, 0]).double())
    assert lm_judge.why_none(torch.ones(3).double())  # too few to know
    assert [lm_judge.nearer(*p) for p in ((2, 1), (1, 2), (1, 1), (None, 1))] == [1, 0, 0.5, 0.5]


def test_settings_of_a_judge_need_one_and_are_checked_at_once():
    with pytest.raises(ConfigError, match="judge=local"):
        Steering(judge_model="gpt-4.1-mini")
    with pytest.raises(UnknownNameError, match="generator"):
        Steering(judge="nobody")
    with pytest.raises(ConfigError, match="prices"):
        Steering(judge="endpoint", limits=("usd=2",))
    one = Steering(judge="endpoint", judge_url="http://localhost:1/v1", limits=("requests=9",))
    assert Steering.from_dict(one.to_dict()) == one


@dataclass(frozen=True, kw_only=True)
class Reader(Generator):
    """Not registered: rates by how the letters of each class are spread; now and then mumbles."""

    name: ClassVar[str] = "reader"
    mumbles: int = 0  # one reply in so many is no rating
    counts: ClassVar[dict[str, Counter]] = {}

    def identity(self):
        return {"name": self.name, "mumbles": self.mumbles}

    def replies(self, requests):
        for request in requests:
            asked = request.messages[-1][1]
            text = asked.partition("Text: ")[2].partition("\n")[0]
            if self.mumbles and sum(map(ord, text)) % self.mumbles == 0:
                yield Reply(text="Hm.")
                continue
            if "Concept: " not in asked:
                yield Reply(text="2")
                continue
            name = asked.partition("Concept: ")[2].partition(" ")[0]
            yield Reply(text="2" if self.likeliest(text) == name else "0")

    def likeliest(self, text):
        def score(counts):
            return sum(math.log(counts[c] + 1) for c in text) - len(text) * math.log(counts.total())

        return max(self.counts, key=lambda name: score(self.counts[name]))


@pytest.mark.slow  # writes some hundred texts, a token at a time
def test_a_judge_that_reads_finds_the_steered_texts_and_agrees_with_the_classifier(monkeypatch):
    lm, own, texts, vector = made()
    monkeypatch.setattr(steering, "open_task", lambda word, source: _Given(texts))
    for c, name in enumerate(texts.classes):
        every = " ".join(" ".join(e.text.split()) for e in texts.train if e.label == c)
        Reader.counts[name] = Counter(every)
    x = [
        torch.cat(
            [
                lm.read(torch.tensor([lm.tokenizer.encode(e.text)[0]]), SITE)[0]
                for e in texts.train
                if e.label == c
            ]
        )
        for c in (0, 1)
    ]
    gap, middle = x[1].mean(0) - x[0].mean(0), (x[0].mean(0) + x[1].mean(0)) / 2
    planted = own._replace(sae=Planted(gap, middle, vector))
    asked = LMJudge(Reader(), Limits())
    monkeypatch.setattr(Steering, "_lm_judge", lambda self: asked)
    found = SMALL.run(planted, tools())
    name = "code_or_prose/moved"
    assert found.scores["code_or_prose/judge_accuracy"].low > 0.5
    assert found.scores[f"{name}/success"].unit == RATING
    assert found.scores[f"{name}/success"].value > found.scores[f"{name}/unsteered"].value + 1
    assert found.scores["judge_agreement"].value > 0.4 and found.scores["unrated"].value == 0
    shown = found.details["tasks"]["code_or_prose"]["classes"]["moved"]["latent"]
    assert len(shown["texts"]) == SMALL.n_prompts == len(shown["about_and_fluent"])
    mean = sum(Rated(*r).value for r in shown["about_and_fluent"]) / SMALL.n_prompts
    assert found.scores[f"{name}/success"].value == pytest.approx(mean)
    monkeypatch.setattr(Steering, "_lm_judge", lambda self: LMJudge(Reader(mumbles=2), Limits()))
    mumbled = SMALL.run(planted, tools())
    assert mumbled.scores["steering"].value is None
    why = mumbled.scores["steering"].reason
    assert "usable rating" in why or "nearer to their own class" in why
