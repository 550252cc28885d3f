"""L2 ratio: how long reconstructions are beside what they reconstruct."""

from typing import ClassVar, final

from typing_extensions import override

from saekit.metrics.base import Batch, Metric, Sums, registry, total


@final
@registry.register
class L2Ratio(Metric):
    r"""Length of reconstructions over length of activations, a ratio of sums.

    .. math:: \sum_i |\hat y_i| \;/\; \sum_i |y_i|

    1 is perfect. Predicting the mean gives :math:`|\bar y|` over the mean length, at most 1.
    Any reconstruction that leaves part of a token out is shorter than the token, so less
    than 1 is not yet a bias; see the metric of shrinkage.

    Source:
        Karvonen et al. 2025, arXiv:2503.09532 (SAEBench core).
        Differs: a ratio of sums where SAEBench takes the mean of ratios per token.
    """

    name: ClassVar[str] = "l2_ratio"
    label: ClassVar[str] = "norm of prediction over target"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "ratio"
    better: ClassVar[str] = "neither"
    scale: ClassVar[str] = "log"
    undefined: ClassVar[str] = "all activations are zero"

    @override
    def sums(self, batch: Batch) -> Sums:
        return {
            "y": total(batch.y.double().norm(dim=-1)),
            "y_hat": total(batch.y_hat.double().norm(dim=-1)),
        }

    @override
    def compute(self, sums: Sums) -> float | None:
        return float(sums["y_hat"] / sums["y"]) if sums["y"] > 0 else None
