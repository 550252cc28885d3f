"""What the activations of generated, original and other texts say of a latent and of an SAE."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.result import Score, Table
from saekit.core.seeds import generator
from saekit.core.stats.proportions import wilson
from saekit.core.stats.ranks import ranks
from saekit.core.stats.resamples import percentiles

ON = 1e-6  # act units; an activation has to be larger, as published
FRACTIONS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # of the largest activation in the corpus
CHECK = 0.9  # original sensitivity from which a latent is in the mean, as published
DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class TextActs:
    """The largest activation of one latent on each text of each kind, act units.

    Args:
        generated: usable new texts.
        original: the examples that the generator was shown, alone.
        held_out: examples that it was not shown.
        matched: texts of the examples' documents on which it is off there.
        random: texts from anywhere.
    """

    generated: Float[Tensor, "a"]
    original: Float[Tensor, "b"]
    held_out: Float[Tensor, "c"]
    matched: Float[Tensor, "d"]
    random: Float[Tensor, "e"]


def share_on(acts: Float[Tensor, "n"], least: float = ON) -> float | None:
    """Return the share of texts with a larger activation than `least`; None of no text."""
    return float((acts > least).double().mean()) if len(acts) else None


def excess(generated: float, base: float) -> float | None:
    """Return how much of the room above a base rate is filled: (g - r) / (1 - r).

    1: it fires on every text; 0: no more often than on random text; None where the base rate is 1.
    """
    return None if base >= 1 else (generated - base) / (1 - base)


def excess_interval(generated: float, n: int, base: float, m: int) -> tuple[float, float] | None:
    """Return a 95 % interval of `excess`, from the Wilson intervals of both rates.

    1 - excess is a ratio of two shares of texts on which the latent is off.

    Args:
        generated: share of new texts on which it fires.
        n: new texts.
        base: share of base texts.
        m: base texts.

    Source:
        Donner and Zou 2012, Closed-form confidence intervals for functions of the normal mean
        and standard deviation, Stat. Methods Med. Res. 21 (MOVER-R, independent estimates).
    """
    p, q = 1 - generated, 1 - base
    l2, u2 = wilson(q, m)
    l1, u1 = wilson(p, n)
    if not q or not l2:
        return None
    low = _ratio_end(p, q, l1, u2, -1)
    high = _ratio_end(p, q, u1, l2, +1)
    return 1 - high, 1 - low


def _ratio_end(p: float, q: float, a: float, b: float, sign: int) -> float:
    below = b * (2 * q - b)
    inside = max((p * q) ** 2 - a * (2 * p - a) * below, 0.0)
    return (p * q + sign * math.sqrt(inside)) / below


def f1(sensitivity: float, specificity: float) -> float:
    """Return F1 of texts that are half new ones and half others: 2 TP / (2 TP + FP + FN).

    Source:
        van Rijsbergen 1979. Differs: both kinds weigh the same whatever their numbers.
    """
    return 2 * sensitivity / (1 + sensitivity + 1 - specificity)


def auroc(positive: Float[Tensor, "n"], negative: Float[Tensor, "m"]) -> float | None:
    """Return the chance that a text of one kind has a larger activation than one of the other.

    Ties count half; None where a kind has no text.

    Source:
        Mann and Whitney 1947; Hanley and McNeil 1982.
    """
    n, m = len(positive), len(negative)
    if not n or not m:
        return None
    order = ranks(torch.cat([positive, negative]).double())
    return float((order[:n].sum() - n * (n + 1) / 2) / (n * m))


def row(
    latent: int, acts: TextActs, *, count: int, largest: float, n_tokens: int
) -> dict[str, Any]:
    """Return one line of the table of latents.

    Args:
        latent: its number.
        acts: on every kind of text.
        count: tokens of the corpus it is on for.
        largest: its largest activation there.
        n_tokens: tokens of the corpus that the SAE's rule keeps.
    """
    found: dict[str, Any] = {"feature_index": latent}
    generated = share_on(acts.generated)
    found["generated_sensitivity"] = generated
    found["original_sensitivity"] = share_on(acts.original)
    found["heldout_sensitivity"] = share_on(acts.held_out)
    found["random_rate"] = base = share_on(acts.random)
    found["matched_rate"] = share_on(acts.matched)
    n = len(acts.generated)
    ends = (None, None) if generated is None else wilson(generated, n)
    found["generated_low"], found["generated_high"] = ends
    off = found["specificity"] = None if (hit := found["matched_rate"]) is None else 1 - hit
    both = None if generated is None or off is None else (generated, off)
    found["balanced"] = both and (both[0] + both[1]) / 2
    found["f1"] = both and f1(*both)
    over, spread = None, None
    if generated is not None and base is not None:
        over = excess(generated, base)
        spread = excess_interval(generated, n, base, len(acts.random))
    found["excess"] = over
    found["excess_low"], found["excess_high"] = spread or (None, None)
    found["auroc_random"] = auroc(acts.generated, acts.random)
    found["auroc_matched"] = auroc(acts.generated, acts.matched)
    for fraction in FRACTIONS[1:]:
        share = share_on(acts.generated, fraction * largest) if largest else None
        found[f"generated_over_{fraction:g}"] = share
    peaks = float(acts.original.double().mean()) if len(acts.original) else 0.0
    found["peak_ratio"] = float(acts.generated.double().mean()) / peaks if n and peaks else None
    found |= {
        "n_generated": n,
        "n_original": len(acts.original),
        "n_heldout": len(acts.held_out),
        "n_matched": len(acts.matched),
        "n_random": len(acts.random),
        "count": count,
        "density": count / n_tokens if n_tokens else None,
        "largest": largest,
    }
    return found


UNITS = {
    "generated_sensitivity": "share of texts",
    "original_sensitivity": "share of texts",
    "heldout_sensitivity": "share of texts",
    "random_rate": "share of texts",
    "matched_rate": "share of texts",
    "specificity": "share of texts",
    "balanced": "share of texts",
    "f1": "ratio",
    "generated_low": "share of texts",
    "generated_high": "share of texts",
    "excess": "ratio",
    "auroc_random": "probability",
    "auroc_matched": "probability",
    "peak_ratio": "ratio",
    "count": "tokens",
    "density": "share of tokens",
    "largest": "act units",
}


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the lines of latents as a table."""
    names = list(dict.fromkeys(name for one in rows for name in one))
    columns = {name: [one.get(name) for one in rows] for name in names}
    return Table(columns=columns, units={k: v for k, v in UNITS.items() if k in columns})


def summary(
    rows: Sequence[dict[str, Any]], acts: Sequence[TextActs], *, check: float = CHECK, seed: int = 0
) -> dict[str, Score]:
    """Return the scores of an SAE.

    The published score is the plain mean of the generated sensitivity over latents that fire again
    on at least `check` of their own examples. Intervals draw latents with their
    texts.

    Args:
        rows: a line a latent, as `row` made it; latents without a usable text are counted, and
            leave no number.
        acts: of the same latents, in the same order.
        check: original sensitivity from which a latent is in the mean.
        seed: of the draws.

    Source:
        Tian, Tian, Hu 2025, arXiv:2509.23717 (the filter and the mean). Differs: intervals, and
        the scores beside it.
    """
    with_text = [i for i, r in enumerate(rows) if r["n_generated"]]
    kept = [i for i in with_text if (rows[i]["original_sensitivity"] or 0.0) >= check]
    n, m = len(rows), len(kept)
    scores = {
        "sensitivity": _mean(
            "sensitivity, latents that fire on their own examples",
            [acts[i].generated > ON for i in kept],
            None,
            seed,
        ),
        "sensitivity_all": _mean(
            "sensitivity, all latents", [acts[i].generated > ON for i in with_text], None, seed
        ),
        "sensitivity_by_density": _mean(
            "sensitivity, latents weighted by how often they are on",
            [acts[i].generated > ON for i in with_text],
            [rows[i]["density"] or 0.0 for i in with_text],
            seed,
        ),
    }
    low, high = wilson(m / n, n) if n else (None, None)
    scores["kept"] = Score(
        value=m / n if n else None,
        low=low,
        high=high,
        n=n,
        unit="share of latents",
        better="higher",
        label="latents that fire on their own examples",
        reason="" if n else "no latent",
    )
    for name, label in (
        ("specificity", "stays off on texts of the same documents"),
        ("balanced", "mean of sensitivity and specificity"),
        ("f1", "F1 of new texts among those of the same documents"),
        ("excess", "sensitivity beyond chance"),
        ("auroc_random", "AUROC against random texts"),
        ("auroc_matched", "AUROC against texts of the same documents"),
    ):
        values = [v for i in kept if (v := rows[i][name]) is not None]
        unit = UNITS.get(name, "probability")
        scores[name] = drawn_mean(label, values, None, seed, unit)
    return scores


def _mean(label: str, on: Sequence[Tensor], weights: Sequence[float] | None, seed: int) -> Score:
    """Return a mean of shares over latents."""
    shares = [float(x.double().mean()) for x in on]
    return drawn_mean(label, shares, weights, seed, "share of texts")


def drawn_mean(
    label: str, values: Sequence[float], weights: Sequence[float] | None, seed: int, unit: str
) -> Score:
    """Return a weighted mean over latents with an interval that draws latents.

    A latent that is drawn brings its texts with it, so the chance in both is in the interval; to
    draw texts again within latents would count theirs twice.

    Args:
        label: of the score.
        values: of each latent.
        weights: of each; None: all the same.
        seed: of the draws.
        unit: of the values.
    """
    if not values:
        return _undefined(label, unit)
    x = torch.tensor(list(values), dtype=torch.float64)
    weight = torch.ones_like(x) if weights is None else torch.tensor(list(weights)).double()
    if not float(weight.sum()):
        return _undefined(label, unit)
    drawn = torch.randint(len(x), (DRAWS, len(x)), generator=generator(seed, "sensitivity", label))
    means = (weight[drawn] * x[drawn]).sum(1) / weight[drawn].sum(1).clamp(min=1e-300)
    low, high = percentiles(means)
    return Score(
        value=float((weight * x).sum() / weight.sum()),
        low=low,
        high=high,
        n=len(x),
        unit=unit,
        better="higher",
        label=label,
    )


def means_of_groups(
    groups: Sequence[Float[Tensor, "_ columns"]], seed: int, *names: str
) -> tuple[list[float], list[tuple[float, float]]]:
    """Return means in which groups weigh the same, with intervals that draw latents in each group.

    All columns have the same draws. How many latents a group has is no chance, so each is drawn
    from by itself; to draw from all together would count how groups differ as if it were.

    Args:
        groups: a row a latent in each, at least one.
        seed: of the draws.
        names: what else decides them.

    Returns:
        The mean of each column, and the ends of its 95 % interval.

    Source:
        Davison and Hinkley 1997, Bootstrap Methods and their Application, section 3.2 (several
        samples).
    """
    value, drawn = torch.zeros(groups[0].shape[1]).double(), torch.zeros(()).double()
    chance = generator(seed, "sensitivity", *names)
    for x in groups:
        at = torch.randint(len(x), (DRAWS, len(x)), generator=chance)
        value = value + x.double().mean(0) / len(groups)
        drawn = drawn + x.double()[at].mean(1) / len(groups)
    return value.tolist(), [percentiles(column) for column in drawn.T]


def _undefined(label: str, unit: str) -> Score:
    return Score(
        value=None,
        n=0,
        unit=unit,
        better="higher",
        label=label,
        reason="no latent has usable texts and fires on its own examples",
    )
