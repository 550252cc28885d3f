"""Toy: an evaluation in one file."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch

from saekit.core.errors import DataError
from saekit.core.result import Score
from saekit.evals.base import Eval, registry


@registry.register
@dataclass(frozen=True, kw_only=True)
class ToyEval(Eval):
    """Squared error over the squared activations of the first rows.

    Args:
        n_rows: rows read, at least 1.

    Cost:
        n_rows to the site.

    Reads:
        Held-out rows.

    Source:
        Ours.
    """

    name: ClassVar[str] = "toy_eval"
    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"lm"})
    n_rows: int = 4

    @classmethod
    def example(cls):
        return cls()

    @torch.no_grad()
    def run(self, subject, tools):
        self.check(subject)
        rows = next(iter(tools.rows(self.n_rows)), None)
        if rows is None or not len(rows.tokens):
            raise DataError("The held-out text fills no row. Give more text.")
        tokens = rows.tokens[: self.n_rows]
        read = subject.lm.read(tokens, [subject.read])[subject.read].float()
        x = read[subject.rule.keep(tokens, read)]
        sae = copy.deepcopy(subject.sae).float()  # the subject is left as it was
        value = float((sae(x) - x).square().sum() / x.square().sum())
        score = Score(
            value=value,
            n=len(tokens),
            unit="ratio",
            better="lower",
            reason="one batch of rows has no interval",
        )
        return self.result({"toy_error": score}, {"tokens": len(x)}, {})
