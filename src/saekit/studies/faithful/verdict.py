"""Verdicts: on which scores dictionaries of one text are better than those of another."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.result import Result, Score, Table
from saekit.core.stats.multiple import holm
from saekit.core.stats.student import Error, Z
from saekit.studies.faithful.evals.fake_features import AGAIN
from saekit.studies.faithful.fakes import statistics as fakes
from saekit.studies.faithful.probing import statistics as probing

LEVEL = 0.05
COLUMNS = (
    "score",
    "text",
    "other",
    "value",
    "value_other",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
    "better",
    "verdict",
    "note",
)

UNDECIDED = (  # verdicts for neither text, and how one and several are said
    ("not told apart", "is not told apart", "are not told apart"),
    ("no interval", "has no interval", "have no interval"),
    ("undefined", "is undefined", "are undefined"),
)


class Evidence(NamedTuple):
    """A difference of two groups of SAEs in one score, and how sure it is."""

    score: str
    value: float | None
    other: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    better: str  # which end of the score is good
    note: str = ""


def over_seeds(
    score: str,
    values: tuple[Sequence[float], Sequence[float]],
    draws: Float[Tensor, "seeds n_draws"],
    n_units: int,
    better: str,
) -> Evidence:
    """Return the mean difference over seeds with an interval over seeds and over what was drawn.

    Seeds are paired: each pair shares its initialisation and was measured on the same resamples.
    The variance over resamples of the mean difference and the variance of a mean over seeds add,
    each with its own degrees of freedom (`saekit.core.stats.student.Error`). Nothing in the numbers
    says how SAEs of other text of the same kind would differ: seeds of a group share its text.

    Args:
        score: its name.
        values: of each seed, of both groups.
        draws: the difference of each seed in each resample, which all seeds share.
        n_units: sequences or examples that were resampled.
        better: "lower" or "higher".

    Source:
        Efron and Tibshirani 1993, section 11.4; Banerjee 1960.
    """
    gaps = [a - b for a, b in zip(*values, strict=True)]
    n = len(gaps)
    mean = sum(gaps) / n
    parts = []
    if draws.shape[1] > 1:
        parts.append((float(draws.double().mean(0).var()), max(n_units - 1, 1)))
    note = "the interval is over text: one seed says nothing about others"
    if n > 1:
        parts.append((sum((g - mean) ** 2 for g in gaps) / (n - 1) / n, n - 1))
        note = ""
    low, high, p = _ends(mean, parts)
    first, second = (sum(one) / n for one in values)
    return Evidence(score, first, second, mean, low, high, p, better, note)


def apart(score: str, one: Score, other: Score) -> Evidence:
    """Return the difference of two scores that were estimated apart, from their intervals.

    Source:
        Zou and Donner 2008, Statistics in Medicine 27 (MOVER): the ends of the difference from
        those of both.
    """
    if one.value is None or other.value is None:
        reason = one.reason or other.reason
        return Evidence(score, one.value, other.value, None, None, None, None, one.better, reason)
    gap = one.value - other.value
    if None in (one.low, one.high, other.low, other.high):
        reason = one.reason or other.reason or "no interval"
        return Evidence(score, one.value, other.value, gap, None, None, None, one.better, reason)
    assert one.low is not None and one.high is not None
    assert other.low is not None and other.high is not None
    low = gap - math.hypot(one.value - one.low, other.high - other.value)
    high = gap + math.hypot(one.high - one.value, other.value - other.low)
    error = (gap - low if gap > 0 else high - gap) / Z  # the side of 0: p and interval agree
    p = math.erfc(abs(gap) / error / math.sqrt(2)) if error else float(not gap)
    return Evidence(score, one.value, other.value, gap, low, high, p, one.better)


def of_fakes(ones: Sequence[Result], others: Sequence[Result]) -> list[Evidence]:
    """Return how fake features differ, a line a noise; results in the order of seeds.

    Text in the place of noise is no noise, so that nothing is good or bad there.

    Raises:
        ConfigError: they were not measured on the same noise.
    """
    found = []
    for noise in (n for n in ones[0].details["noises"] if n != AGAIN):
        each = [
            fakes.paired_draws(a, b, noise, "excess") for a, b in zip(ones, others, strict=True)
        ]
        values = ([one.first for one in each], [one.second for one in each])
        draws = torch.stack([one.draws for one in each])
        score = f"fake features ({noise.replace('_', ' ')})"
        found.append(over_seeds(score, values, draws, each[0].n, "lower"))
    return found


def of_probes(ones: Sequence[Result], others: Sequence[Result]) -> list[Evidence]:
    """Return how accuracies of probes on codes differ, a line a task; in the order of seeds.

    Raises:
        ConfigError: they were not measured on the same examples.
    """
    found = []
    for task in ones[0].details["tasks"]:
        each = [
            probing.paired_draws(a, b, task, "sae", "accuracy")
            for a, b in zip(ones, others, strict=True)
        ]
        values = ([one.first for one in each], [one.second for one in each])
        draws = torch.stack([one.draws for one in each])
        found.append(over_seeds(f"probing {task}", values, draws, each[0].n, "higher"))
    return found


def of_comparison(pairs: Table, measured_on: str, names: Mapping[str, str]) -> list[Evidence]:
    """Return the rows of a comparison (`saekit.compare`) as evidence.

    Args:
        pairs: of two groups.
        measured_on: the text.
        names: metrics, and what they are called.
    """
    found = []
    for row in pairs.rows():
        lower = row["metric"] != "ce_recovered_zero"
        found.append(
            Evidence(
                f"{names.get(row['metric'], row['metric'])} on {measured_on}",
                row["value_a"],
                row["value_b"],
                row["difference"],
                row["low"],
                row["high"],
                row["p"],
                "lower" if lower else "higher",
                row["reason"],
            )
        )
    return found


def table(text: str, evidence: Mapping[str, Sequence[Evidence]]) -> Table:
    """Return the verdict of each score against each other text.

    A text is better on a score where p, by Holm's method over all rows, is below 5 %.

    Args:
        text: that of the first group.
        evidence: by the other text.
    """
    rows = [(other, one) for other, some in evidence.items() for one in some]
    known = [i for i, (_, one) in enumerate(rows) if one.p is not None]
    adjusted = dict(zip(known, holm([rows[i][1].p or 0.0 for i in known]), strict=True))
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for i, (other, one) in enumerate(rows):
        verdict = "not told apart"
        if one.p is None:
            verdict = "undefined" if one.difference is None else "no interval"
        elif adjusted[i] < LEVEL and one.difference:
            first = (one.difference < 0) == (one.better == "lower")
            verdict = f"{text if first else other} better"
        line = (
            one.score,
            text,
            other,
            one.value,
            one.other,
            one.difference,
            one.low,
            one.high,
            one.p,
            adjusted.get(i),
            one.better,
            verdict,
            one.note,
        )
        for name, value in zip(COLUMNS, line, strict=True):
            columns[name].append(value)
    return Table(columns=columns)


def sentences(verdicts: Table) -> list[str]:
    """Return the verdicts in words, a sentence for each other text."""
    rows = verdicts.rows()
    found = []
    for other in dict.fromkeys(row["other"] for row in rows):
        mine = [row for row in rows if row["other"] == other]
        text = mine[0]["text"]
        by = {
            name: [r["score"] for r in mine if r["verdict"] == f"{name} better"]
            for name in (text, other)
        }
        rest = [
            f"{n} {one if n == 1 else many}"
            for name, one, many in UNDECIDED
            if (n := sum(row["verdict"] == name for row in mine))
        ]
        said = [
            f"better on {len(scores)} of {len(mine)} scores ({', '.join(scores)})"
            if scores
            else "better on none"
            for scores in by.values()
        ]
        ends = "; ".join([f"{text} is {said[0]}", f"{other} is {said[1]}", *rest])
        found.append(f"SAEs of {text} against SAEs of {other}: {ends}.")
    return found


def notes(verdicts: Table) -> list[str]:
    """Return each note of the rows once, behind the scores that it is about."""
    found: dict[str, list[str]] = {}
    for row in verdicts.rows():
        if row["note"]:
            found.setdefault(row["note"], []).append(row["score"])
    return [f"{', '.join(dict.fromkeys(scores))}: {note}" for note, scores in found.items()]


def _ends(
    value: float, parts: Sequence[tuple[float, float]]
) -> tuple[float | None, float | None, float | None]:
    if not parts:
        return None, None, None
    error = Error(tuple(parts))
    return value - error.half, value + error.half, error.p(value)
