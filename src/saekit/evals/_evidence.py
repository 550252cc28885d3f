"""What makes a score believable: floors, reseed noise, the least difference told, validity."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from saekit.core.errors import FormatError
from saekit.core.files import read_object
from saekit.core.result import Result, Score
from saekit.core.stats.student import Z
from saekit.evals.base import picked

Z_POWER = 0.841621  # of the normal distribution at 80 %, one tail: the power of a difference told
CALIBRATION = Path(__file__).with_name("validity.json")
NOT_CALIBRATED = "not calibrated"
# Scores of evaluations, and what `saekit truth calibrate` calls a score of the same kind.
CALIBRATED = {
    ("core", "fvu"): "fvu",
    ("seed_stability", "shared_feature_ratio"): "stability",
    ("seed_stability", "one_way"): "stability",
    ("sensitivity", "sensitivity"): "hit_rate",
}


def headline_of(patterns: Sequence[str], result: Result) -> dict[str, Score]:
    """Return the scores of a result that a table of several evaluations shows.

    Args:
        patterns: as of `Eval.headline`; none: the scores of which one way is better, or all where
            there is no such score.
        result: of the evaluation.
    """
    scores = result.scores
    if patterns:
        return {n: scores[n] for n in picked(patterns, scores)}
    return {n: s for n, s in scores.items() if s.better != "neither"} or dict(scores)


def standard_error(score: Score) -> float | None:
    """Return the standard error that an interval of 95 % stands for; None where there is none."""
    if score.low is None or score.high is None:
        return None
    return (score.high - score.low) / (2 * Z)


def detectable(score: Score) -> float | None:
    r"""Return the smallest difference of two SAEs that an interval as wide as this can tell.

    .. math:: (z_{0.975} + z_{0.8}) \sqrt{2}\, s

    Two independent scores with this standard error s, whose true difference is so large, differ at
    5 %, two-sided, in 80 of 100 texts.

    Source:
        Cohen 1988, Statistical Power Analysis, section 2.4 (two means of one variance).
        Differs: the error is that of the interval, whatever made it.
    """
    error = standard_error(score)
    return None if error is None else (Z + Z_POWER) * math.sqrt(2) * error


def above(score: Score, floor: float | None) -> float | None:
    """Return how far a score is above a floor: below 0 where it is worse than it.

    Where neither way is better, it is the value less the floor.
    """
    if score.value is None or floor is None:
        return None
    gap = score.value - floor
    return -gap if score.better == "lower" else gap


def spread(values: Iterable[float | None]) -> tuple[float | None, int]:
    """Return the standard deviation over seeds, and how many there are; None of fewer than 2."""
    known = [v for v in values if v is not None]
    n = len(known)
    if n < 2:  # noqa: PLR2004 - one value has no spread
        return None, n
    mean = sum(known) / n
    return math.sqrt(sum((v - mean) ** 2 for v in known) / (n - 1)), n


class Validity(NamedTuple):
    """How alike a score and the truth rank SAEs of synthetic models whose features are known.

    Args:
        value: rank correlation with the MCC; above 0 where better scores go with more recovery.
        low: of its 95 % interval.
        high: likewise.
        said: what it was measured on, or that it is not calibrated.
    """

    value: float | None
    low: float | None
    high: float | None
    said: str


def validity(eval: str, score: str, better: str) -> Validity:
    """Return how well scores of this kind rank SAEs, from the calibration that is packaged."""
    kind = CALIBRATED.get((eval, score))
    if kind is None or better == "neither":
        return Validity(None, None, None, NOT_CALIBRATED)
    made = calibration()
    sign = -1 if better == "lower" else 1
    mcc, f1 = (made["ranks"][kind][target] for target in ("mcc", "f1"))
    value, *ends = (None if mcc[k] is None else sign * mcc[k] for k in ("value", "low", "high"))
    low, high = ends[::sign]
    other = "undefined" if f1["value"] is None else f"{sign * f1['value']:+.2f}"
    said = (
        f"rank correlation of {kind} with the MCC of {made['saes']} SAEs on {len(made['truths'])} "
        f"synthetic models; {other} with F1"
    )
    return Validity(value, low, high, said)


@functools.cache
def calibration() -> Mapping[str, Any]:
    """Return what `saekit truth calibrate` wrote, as it is packaged.

    Raises:
        FormatError: it is damaged.
    """
    made = read_object(CALIBRATION)
    if not {"ranks", "truths", "saes", "command", "time"} <= made.keys():
        raise FormatError(f"{CALIBRATION} is no calibration. Install saekit again.")
    return made


def best_of(rows: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the places of rows whose score no other SAE's may equal; of one score of one suite.

    None is best where the next one is nearer than the larger of both least differences told, or,
    where the spread of seeds is known, nearer than the difference that it stands for.
    """
    known = [i for i, row in enumerate(rows) if row["value"] is not None]
    if len(known) < 2 or not all(rows[i]["ranks"] for i in known):  # noqa: PLR2004 - of two
        return set()
    sign = {"higher": 1, "lower": -1}.get(rows[known[0]]["better"])
    if sign is None or len({rows[i]["unit"] for i in known}) > 1:
        return set()
    first, second = sorted(known, key=lambda i: -sign * rows[i]["value"])[:2]
    gap = abs(rows[first]["value"] - rows[second]["value"])
    needed = []
    for i in (first, second):
        if rows[i]["detectable"] is None:
            return set()  # nothing says how far apart they must be
        needed.append(rows[i]["detectable"])
        if rows[i]["reseed"] is not None:
            needed.append((Z + Z_POWER) * math.sqrt(2) * rows[i]["reseed"])
    return {first} if gap > max(needed) else set()
