"""Which tokens each latent promotes, and how its effects on logits are spread."""

from typing import Any, ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from saekit.analysis.columns.base import Columns, Made, registry


@final
@registry.register
class Logits(Columns):
    """The logit lens in a few numbers: how strongly a latent moves tokens, and how evenly."""

    name: ClassVar[str] = "logits"
    columns: ClassVar[dict[str, tuple[str, str, str]]] = {
        "promotes": ("promotes", "", "The token whose logit it raises most."),
        "suppresses": ("suppresses", "", "The token whose logit it lowers most."),
        "logit_max": ("logit max", "logit per act unit", "How much it raises that logit."),
        "logit_std": (
            "logit std",
            "logit per act unit",
            "Standard deviation of its effects over the vocabulary.",
        ),
        "logit_skew": ("logit skew", "", "Skewness of its effects: above 0 it promotes a few."),
        "logit_kurtosis": (
            "logit kurtosis",
            "",
            "Excess kurtosis of its effects: large where few tokens stand out.",
        ),
        "token_set": ("token set", "", "Class of tokens it promotes most, beyond tokens at large."),
        "token_set_z": (
            "token set z",
            "",
            "By how many standard errors; a description, no test: effects are not independent.",
        ),
    }

    @override
    def run(self, made: Made) -> dict[str, Tensor | list[Any]]:
        found = made.logits
        if found is None:
            return {}
        top, sets = found.top, found.sets
        best = torch.where(sets.z.isnan(), -torch.inf, sets.z).max(1)
        some = best.values.isfinite()
        names = made.sets.names
        named = zip(best.indices.tolist(), some.tolist(), strict=True)
        return {
            "promotes": [top.pieces[i] for i in top.promoted[:, 0].tolist()],
            "suppresses": [top.pieces[i] for i in top.suppressed[:, 0].tolist()],
            "logit_max": top.promoted_values[:, 0],
            "logit_std": found.std,
            "logit_skew": found.skew,
            "logit_kurtosis": found.kurtosis,
            "token_set": [names[i] if there else None for i, there in named],
            "token_set_z": best.values.where(some, torch.nan),
        }
