"""Accuracy and macro F1 of probes, and of one probe against another, over the same test examples.

Test examples are drawn anew, the same ones for every probe of a task; the probes themselves are
not fitted anew. So an interval says how far a number would move with other test examples, not
with another train part.
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.border import details_of
from saekit.core.errors import ConfigError, FormatError
from saekit.core.result import Result
from saekit.core.seeds import generator
from saekit.core.stats.resamples import PairedDraws, scored
from saekit.studies.faithful import lists

Metric = Literal["accuracy", "f1"]
METRICS: tuple[Metric, ...] = get_args(Metric)
LABELS: dict[Metric, str] = {"accuracy": "accuracy", "f1": "macro F1"}
UNITS: dict[Metric, str] = {"accuracy": "share of texts", "f1": "ratio"}


class Draws(NamedTuple):
    """How often each test example comes, as it was and in each resample."""

    weights: Float[Tensor, "n_draws_and_one n"]


def drawn(n: int, n_draws: int, seed: int) -> Draws:
    """Return the resamples of `n` test examples, of which the first is the examples as they are."""
    chance = generator(seed, "probing", "test", n)
    which = torch.randint(n, (n_draws, n), generator=chance)
    again = torch.zeros(n_draws, n, dtype=torch.float64)
    again.scatter_add_(1, which, torch.ones_like(again))
    return Draws(torch.cat([torch.ones(1, n, dtype=torch.float64), again]))


def values(
    predicted: Int[Tensor, "n"], labels: Int[Tensor, "n"], metric: Metric, draws: Draws
) -> Float[Tensor, "n_draws_and_one"]:
    """Return a metric of the predictions, as they are and in each resample.

    Macro F1 is the unweighted mean over the classes that test examples have of 2 TP / (2 TP + FP
    + FN); of a resample over the same classes, one that is not in it and never predicted as 0.
    """
    weights = draws.weights
    if metric == "accuracy":
        return weights @ (predicted == labels).double() / weights.sum(1)
    scores = []
    for c in labels.unique().tolist():
        is_class, said = (labels == c).double(), (predicted == c).double()
        hits = weights @ (is_class * said)
        both = weights @ is_class + weights @ said
        scores.append(torch.where(both > 0, 2 * hits / both.clamp_min(1e-300), 0.0))
    return torch.stack(scores).mean(0)


class Compared(NamedTuple):
    """A metric of one SAE's probe less that of another's, on the same test examples."""

    value: float
    low: float | None
    high: float | None
    p: float | None  # two-sided: twice the smaller share of draws on one side of 0
    n: int  # test examples


def compare(
    one: Result, other: Result, task: str, feature: str = "sae", metric: Metric = "accuracy"
) -> Compared:
    """Return how much better the probe of the first of two SAEs is, over shared resamples.

    Args:
        one: what `probing` found of an SAE.
        other: and of another, on the same examples.
        task: which.
        feature: "sae", "recon", "baseline" or a sparse one, as "sae_5".
        metric: which.

    Raises:
        ConfigError: they were not measured on the same test examples.
    """
    first, second, apart_draws, n_test = paired_draws(one, other, task, feature, metric)
    apart = torch.cat([torch.tensor([first - second], dtype=torch.float64), apart_draws])
    whole = scored(apart, n_test, unit=UNITS[metric], label="", span=(-1.0, 1.0))
    value = float(apart[0])
    if whole.low is None:
        return Compared(value, None, None, None, n_test)
    return Compared(value, whole.low, whole.high, p_of(apart), n_test)


def p_of(apart: Float[Tensor, "n_draws_and_one"]) -> float:
    """Return a two-sided p of a difference: twice the smaller share of draws on one side of 0."""
    side = min(int((apart[1:] <= 0).sum()), int((apart[1:] >= 0).sum()))
    return min(2 * (1 + side) / len(apart), 1.0)


def paired_draws(
    one: Result, other: Result, task: str, feature: str = "sae", metric: Metric = "accuracy"
) -> PairedDraws:
    """Return a metric of two SAEs' probes with their paired resamples.

    Raises: as `compare`.
    """
    with details_of("probing"):
        a, b = (_of(result, task, feature) for result in (one, other))
    if a["sha256"] != b["sha256"]:
        raise ConfigError(
            f"The two results are of other examples of {task}: {a['sha256'][:12]} and "
            f"{b['sha256'][:12]}. Measure both with one source and as many texts."
        )
    labels = a["labels"]
    draws = drawn(len(labels), max(a["n_draws"], b["n_draws"]), a["seed"])
    found = [values(x["predicted"], labels, metric, draws) for x in (a, b)]
    first, second = (float(one[0]) for one in found)
    return PairedDraws(first, second, (found[0] - found[1])[1:].double(), len(labels))


def _of(result: Result, task: str, feature: str) -> dict[str, Any]:
    tasks = result.details.get("tasks", {})
    if result.name != "probing" or task not in tasks:
        there = ", ".join(tasks) or "no task"
        raise ConfigError(
            f"A result of `probing` with the task {task} is needed; got `{result.name}` with "
            f"{there}. Measure it: saekit eval RUN --eval probing"
        )
    mine = tasks[task]
    if feature not in mine["probes"]:
        raise ConfigError(
            f"{task} has the probes {', '.join(mine['probes'])}; got {feature!r}. Name one of them."
        )
    labels, predicted = (
        lists.read(text) for text in (mine["labels"], mine["probes"][feature]["predicted"])
    )
    if len(labels) != len(predicted) or not len(labels):
        raise FormatError(
            f"The result of `probing` has {len(predicted)} predictions of {len(labels)} test texts "
            f"of {task}. Measure it again."
        )
    return {
        "labels": labels,
        "predicted": predicted,
        "sha256": mine["sha256"],
        "n_draws": result.config["n_draws"],
        "seed": result.details["seed"],
    }
