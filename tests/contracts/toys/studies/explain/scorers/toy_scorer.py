"""Toy: a scorer in one file."""

from dataclasses import dataclass
from typing import ClassVar

from saekit.generators.base import Request
from saekit.studies.explain.scorers.base import Question, Scorer, registry
from saekit.studies.explain.statistics import Answer


@registry.register
@dataclass(frozen=True, kw_only=True)
class ToyScorer(Scorer):
    """The judge says of the first texts whether they hold the explanation.

    Args:
        n: texts.
    """

    name: ClassVar[str] = "toy_scorer"
    title: ClassVar[str] = "toy: is it in the text?"
    n: int = 6

    def questions(self, case, label, how):
        sample = int(how.again)
        return [
            Question(
                Request(messages=(("user", f"{label} in {s.text}?"),), sample=sample),
                [float(s.is_on)],
                about=(s.text,),
            )
            for s in case.tests[: self.n]
        ]

    def read(self, question, reply):
        said = {"yes": 1.0, "no": 0.0}.get(reply.text)
        return [Answer(truth, said) for truth in question.truths]
