"""Toy: an evaluation of several SAEs together, in one file."""

from dataclasses import dataclass
from typing import ClassVar

from saekit.core.errors import DataError
from saekit.core.result import Score, Table
from saekit.evals.base import JointEval, registry


@registry.register
@dataclass(frozen=True, kw_only=True)
class ToyJoint(JointEval):
    """Cosine of the first directions of the first two SAEs.

    Cost:
        None.

    Reads:
        One held-out row.

    Source:
        Ours.
    """

    name: ClassVar[str] = "toy_joint"
    version: ClassVar[int] = 1

    @classmethod
    def example(cls):
        return cls()

    def run_together(self, subjects, tools):
        self.check_all(subjects)
        if not any(len(rows.tokens) for rows in tools.rows(1)):
            raise DataError("The held-out text fills no row. Give more text.")
        one, other = (s.sae.directions()[0].detach().double() for s in subjects[:2])
        value = float(one @ other / (one.norm() * other.norm()))
        for subject in subjects:
            latents = list(range(subject.sae.cfg.d_sae))
            tools.keep(subject, "toy_joint", Table(columns={"latent": latents, "toy": latents}))
        score = Score(value=value, n=1, unit="cosine", better="higher", reason="one pair")
        return self.result({"toy_agreement": score}, {"names": [s.name for s in subjects]}, {})
