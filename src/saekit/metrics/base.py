"""The contract every metric keeps: sums that add, and one formula at the end."""

import abc
import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

import saekit.metrics as package
from saekit.core.codes import Codes
from saekit.core.registry import Registry


class Batch(NamedTuple):
    """What a metric may look at: n tokens of one pass. A field is None where not measured.

    `ce` and `kl` hold per-token values by the name of the intervention: "clean",
    "spliced", "zero", "mean".
    """

    y: Float[Tensor, "n d_out"]
    y_hat: Float[Tensor, "n d_out"]
    acts: Codes
    ce: Mapping[str, Float[Tensor, "m"]] | None = None  # nats; m tokens with a next token
    kl: Mapping[str, Float[Tensor, "m"]] | None = None  # nats; KL(clean || intervened)


Sums = dict[str, Tensor]


class Metric(abc.ABC):
    """Sums over tokens: `sums` of a batch add up, `compute` divides what was added.

    Stateless: the caller keeps the sums, by block of text, so that it can merge them in any
    order, across processes, and leave blocks out for an interval.
    """

    name: ClassVar[str]
    label: ClassVar[str] = ""  # what it is in words, for lists of scores; "": its name
    place: ClassVar[int] = 0  # among the headline scores, from 1; 0: after them, by name
    version: ClassVar[int]  # raised when the number for the same input changes
    unit: ClassVar[str]  # "ratio" promises that scaling y and y_hat changes nothing
    better: ClassVar[str]  # "lower", "higher" or "neither"
    needs: ClassVar[frozenset[str]] = frozenset()  # optional fields of Batch: "ce", "kl"
    undefined: ClassVar[str] = "no token was measured"  # why `compute` gives None
    resampled: ClassVar[bool] = True  # False: leaving tokens out shifts the value one way
    scale: ClassVar[str] = "plain"  # on which the value is nearly normal: see core.stats.jackknife

    @abc.abstractmethod
    def sums(self, batch: Batch) -> Sums:
        """Return float64 sums over the batch, on the CPU; keys and shapes never vary."""

    @abc.abstractmethod
    def compute(self, sums: Sums) -> float | None:
        """Return the value from sums added over any number of batches; None if undefined."""

    def interval(self, sums: Sums) -> tuple[float, float, int] | None:
        """Return a 95 % interval over latents, and their number, where text is not resampled.

        Only where `resampled` is False and the value is defined.
        """
        return None


def added(one: Sums, other: Sums) -> Sums:
    """Return the sums of two sets of tokens taken together."""
    return {key: one[key] + other[key] for key in one}


def total(values: Tensor) -> Tensor:
    """Return the float64 sum of a tensor, on the CPU."""
    return values.detach().sum(dtype=torch.float64).cpu()


registry = Registry[Metric]("metric", package)


def in_order() -> list[str]:
    """Return the names of all metrics as a reader wants them: headline scores first."""
    return sorted(registry.names(), key=lambda n: (registry.get(n).place or math.inf, n))
