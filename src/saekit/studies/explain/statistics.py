"""What answers say: accuracy, AUROC, correlation, agreement, each with an interval."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch

from saekit.core.result import Score
from saekit.core.seeds import generator
from saekit.core.stats.proportions import wilson
from saekit.core.stats.ranks import pearson
from saekit.core.stats.resamples import percentiles
from saekit.studies.sensitivity.statistics import auroc

DRAWS = 1000  # of latents, for an interval
SHUFFLES = 200  # of the truths of one latent
AnswerKind = Literal["yes_no", "choice", "amount"]


class Answer(NamedTuple):
    """What a judge said of one thing, next to what is true of it.

    Yes and no are 1 and 0. Of a choice, truth and said are numbers of options.
    """

    truth: float
    said: float | None  # None: it was no answer
    grade: float | None = None  # how sure of "yes", or how near; None: it was not graded
    options: int = 2  # of a choice

    @property
    def is_valid(self) -> bool:
        """Whether it was an answer, in words or by its grade."""
        return self.said is not None


class Measured(NamedTuple):
    """What the answers about one latent come to."""

    accuracy: float | None  # balanced for yes and no, share of right choices otherwise
    low: float | None
    high: float | None
    auroc: float | None
    correlation: float | None
    invalid: float | None  # share of answers that were none
    n: int
    reason: str = ""

    def main(self, kind: AnswerKind, graded: bool) -> float | None:
        """Return the number that stands for the rest."""
        if kind == "amount":
            return self.correlation
        return self.auroc if kind == "yes_no" and graded else self.accuracy


def measured(kind: AnswerKind, answers: Sequence[Answer]) -> Measured:
    """Return what the answers about one latent come to.

    What is no answer stays in every denominator as a guess: half right for yes and no, one option's
    share of a choice, no activation for an amount.
    """
    n = len(answers)
    if not n:
        return Measured(None, None, None, None, None, None, 0, "nothing was asked")
    invalid = sum(not a.is_valid for a in answers) / n
    if kind == "amount":
        found = pearson(
            torch.tensor([a.truth for a in answers], dtype=torch.float64),
            torch.tensor([a.said or 0.0 for a in answers], dtype=torch.float64),
        )
        value = None if math.isnan(found) else found
        if value is None and len({a.truth for a in answers}) > 1:
            value = 0.0  # it says the same everywhere, which predicts nothing
        reason = "" if value is not None else "the activations do not differ"
        return Measured(None, None, None, None, value, invalid, n, reason)
    if kind == "choice":
        share = sum(1 / a.options if a.said is None else a.said == a.truth for a in answers) / n
        low, high = wilson(share, n)
        return Measured(share, low, high, None, None, invalid, n)
    yes, no = ([a for a in answers if a.truth == truth] for truth in (1.0, 0.0))
    if not yes or not no:
        missing = "on which it is on" if not yes else "on which it is off"
        return Measured(None, None, None, None, None, invalid, n, f"no text {missing}")
    shares = [_right(some) for some in (yes, no)]
    value = sum(shares) / 2
    low, high = _mean_of_two(shares, (len(yes), len(no)))
    area = None
    if any(a.grade is not None for a in answers):
        grades = [torch.tensor([_grade(a) for a in some]).double() for some in (yes, no)]
        area = auroc(grades[0], grades[1])
    return Measured(value, low, high, area, None, invalid, n)


def _right(answers: Sequence[Answer]) -> float:
    return sum(0.5 if a.said is None else float(a.said == a.truth) for a in answers) / len(answers)


def _grade(answer: Answer) -> float:
    return 0.5 if answer.grade is None else answer.grade


def _mean_of_two(shares: Sequence[float], n: tuple[int, int]) -> tuple[float, float]:
    """Return the interval of the mean of two shares of independent texts.

    Source:
        Zou and Donner 2008, Construction of confidence limits about effect measures, Stat. Med. 27
        (MOVER), from the Wilson intervals of both.
    """
    ends = [wilson(share, m) for share, m in zip(shares, n, strict=True)]
    below = math.hypot(*(share - low for share, (low, _) in zip(shares, ends, strict=True)))
    above = math.hypot(*(high - share for share, (_, high) in zip(shares, ends, strict=True)))
    mean = sum(shares) / 2
    return max(mean - below / 2, 0.0), min(mean + above / 2, 1.0)


def shuffled(kind: AnswerKind, answers: Sequence[Answer], seed: int, *names: Any) -> float | None:
    """Return the main number with the truths dealt out at random, the mean of many deals.

    It shows what the way of counting gives for answers that know nothing: 0.5 of yes and no, one
    option's share of a choice, 0 of an amount.
    """
    graded = is_graded(answers)
    chance, values = generator(seed, "shuffled", *map(str, names)), []
    for _ in range(SHUFFLES):
        if kind == "choice":  # of few choices the right places are uneven, and dealt out stay so
            drawn = [int(torch.randint(a.options, (1,), generator=chance)) for a in answers]
            truths = [float(option) for option in drawn]
        else:
            order = torch.randperm(len(answers), generator=chance).tolist()
            truths = [answers[i].truth for i in order]
        dealt = [a._replace(truth=truth) for a, truth in zip(answers, truths, strict=True)]
        value = measured(kind, dealt).main(kind, graded)
        if value is None:
            return None
        values.append(value)
    return sum(values) / len(values)


def is_graded(answers: Sequence[Answer]) -> bool:
    """Tell whether answers have grades, so that they can be ranked."""
    return any(a.grade is not None for a in answers)


def mean_over_latents(
    label: str, values: Sequence[float | None], unit: str, seed: int, better: str = "higher"
) -> Score:
    """Return the mean over latents with a 95 % interval that draws latents with replacement."""
    have = [v for v in values if v is not None]
    sign: Any = better
    if not have:
        return Score(
            value=None, n=0, unit=unit, better=sign, label=label, reason="no latent has this number"
        )
    x = torch.tensor(have, dtype=torch.float64)
    drawn = torch.randint(len(x), (DRAWS, len(x)), generator=generator(seed, "explain", label))
    low, high = percentiles(x[drawn].mean(1))
    lacking = len(values) - len(have)
    return Score(
        value=float(x.mean()),
        low=low,
        high=high,
        n=len(x),
        unit=unit,
        better=sign,
        label=label,
        reason=f"{lacking} of {len(values)} latents have none" if lacking else "",
    )
