"""Recovery: the scores of a ground truth, as formulas over sums by latent and by pair."""

from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saekit.metrics.base import Batch, Metric, Sums
from saekit.metrics.fvu import FVU


class _OfTruth(Metric):
    """A formula over sums that the evaluation makes itself, for they need the truth too."""

    version: ClassVar[int] = 1
    unit: ClassVar[str] = "ratio"
    better: ClassVar[str] = "higher"

    @override
    def sums(self, batch: Batch) -> Sums:
        raise NotImplementedError  # see `ground_truth`, which adds them by block


@final
class R2(_OfTruth):
    """1 - FVU: the share of the samples' variance that is explained.

    Source:
        SAELens, explained_variance of synthetic evals. Differs: nothing known.
    """

    name: ClassVar[str] = "r2"
    scale: ClassVar[str] = "rest"
    undefined: ClassVar[str] = FVU.undefined

    @override
    def compute(self, sums: Sums) -> float | None:
        fvu = FVU().compute(sums)
        return None if fvu is None else 1 - fvu


@final
class TrueL0(_OfTruth):
    """Mean number of features that are on in a sample."""

    name: ClassVar[str] = "l0_true"
    scale: ClassVar[str] = "log"
    unit: ClassVar[str] = "features/token"
    better: ClassVar[str] = "neither"

    @override
    def compute(self, sums: Sums) -> float | None:
        return float(sums["on"].sum() / sums["n"]) if sums["n"] else None


@final
class L0Error(_OfTruth):
    """Latents on a token less features on it: above 0, more latents than there are causes."""

    name: ClassVar[str] = "l0_error"
    unit: ClassVar[str] = "latents/token"
    better: ClassVar[str] = "neither"

    @override
    def compute(self, sums: Sums) -> float | None:
        return float((sums["fired"].sum() - sums["on"].sum()) / sums["n"]) if sums["n"] else None


def of_latents(kind: str, sums: Sums) -> Float[Tensor, "d_sae"]:
    r"""Return precision, recall or F1 of every latent for its best feature; NaN if undefined.

    With t tokens on which both are on, s on which the latent is, f on which the feature is:
    precision t / s, undefined for a dead latent; recall t / f, undefined for a feature that
    was never on; F1 = 2 t / (s + f), their harmonic mean, undefined where both are 0.
    """
    part = {"precision": sums["fired"], "recall": sums["best_on"]}.get(kind)
    hit = sums["hit"]
    return 2 * hit / (sums["fired"] + sums["best_on"]) if part is None else hit / part


@final
class Classification(_OfTruth):
    """Mean over latents of precision, recall or F1.

    Over living latents, those that fired at all: where a value is undefined it is left out,
    and counted in the details. Over all latents, a dead one counts as 0 in each of the three.

    Args:
        kind: "precision", "recall" or "f1".
        total: sums over all samples. They say which latents live, and stand in for a latent
            that is without a value once a block is left out: rare latents are unlike others,
            so leaving them out would shift the interval.
        over: "living" or "all" latents.
    """

    name: ClassVar[str] = "classified"
    undefined: ClassVar[str] = "no latent for which it is defined"

    def __init__(self, kind: str, total: Sums, over: Literal["living", "all"]):
        self.kind, self.over = kind, over
        self.alive = total["fired"] > 0  # [d_sae]
        self.known = of_latents(kind, total)

    @override
    def compute(self, sums: Sums) -> float | None:
        values = of_latents(self.kind, sums)
        values = values.where(~values.isnan(), self.known)
        values = values[self.alive] if self.over == "living" else values.where(self.alive, 0.0)
        values = values[~values.isnan()]
        return float(values.mean()) if len(values) else None


@final
class Absorption(_OfTruth):
    """Share of the tokens with parent and child on where the parent is absorbed.

    Absorbed: the parent's latent is silent and the child's fires and carries the parent's
    direction. Over all tokens of all pairs that have both latents.

    Source:
        Chanin et al. 2024, arXiv:2409.14507 (absorption). Differs: the truth says which
        features are on and above which, so neither probes nor attributions are needed.
    """

    name: ClassVar[str] = "absorption"
    scale: ClassVar[str] = "log"
    unit: ClassVar[str] = "share of tokens"
    better: ClassVar[str] = "lower"
    undefined: ClassVar[str] = "no pair of features, both with a latent, was on together"

    @override
    def compute(self, sums: Sums) -> float | None:
        both = sums["both_on"].sum()
        return float(sums["absorbed"].sum() / both) if both > 0 else None


def finite(values: Float[Tensor, "n"]) -> list[float | None]:
    """Return values as a JSON-ready list, None where undefined."""
    return [None if v != v else v for v in torch.round(values.double(), decimals=5).tolist()]
