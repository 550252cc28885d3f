"""Detection: from the explanation, which texts does the latent fire on?"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.core.config import setting
from saekit.core.seeds import generator
from saekit.generators.base import Reply
from saekit.studies.explain.material import Case
from saekit.studies.explain.scorers import _asking
from saekit.studies.explain.scorers.base import Judging, Question, Scorer, registry
from saekit.studies.explain.statistics import Answer


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Detection(Scorer):
    """The judge says of each text whether the latent fires on it.

    Args:
        each: texts of one request; small judges are asked about one.

    Source:
        Paulo, Mallen, Juang, Belrose 2024, arXiv:2410.13928.
        Differs: what is true of a text is read from the model, never assumed of its kind; what is
        no answer counts as a guess.
    """

    name: ClassVar[str] = "detection"
    title: ClassVar[str] = "detection: does the latent fire on this text?"
    each: int = setting(5, least=1)

    @override
    def questions(self, case: Case, label: str, how: Judging) -> list[Question]:
        chance = generator(how.seed, "detection", case.latent, int(how.again))
        order = torch.randperm(len(case.tests), generator=chance).tolist()
        some = [case.tests[i] for i in order]
        return _asking.several(
            how,
            f"A unit of a language model responds to: {label}",
            "Does the unit respond to something in this text?",
            [s.text for s in some],
            [float(s.is_on) for s in some],
            self.each,
        )

    @override
    def read(self, question: Question, reply: Reply) -> list[Answer]:
        return _asking.read_yes_no(question, reply)
