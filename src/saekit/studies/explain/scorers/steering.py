"""Steering: with the latent turned up, does what the model writes give its explanation away?"""

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
from saekit.studies.explain.statistics import Answer, AnswerKind

UNSTEERED = "unsteered"


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Steering(Scorer):
    """The judge picks, among several explanations, the one that fits what the model wrote.

    The model continued neutral text with the latent turned up (`saekit.steer`). What it writes
    without is the control `unsteered`: the judge can only guess.

    Args:
        labels: explanations to choose from.

    Source:
        Ours; intervention scores: Gur-Arieh et al. 2025, arXiv:2501.08319.
    """

    name: ClassVar[str] = "steering"
    title: ClassVar[str] = "steering: which explanation fits what it makes the model write?"
    kind: ClassVar[AnswerKind] = "choice"
    controls: ClassVar[tuple[str, ...]] = (UNSTEERED,)
    labels: int = setting(4, least=2, most=9)

    @override
    def questions(self, case: Case, label: str, how: Judging) -> list[Question]:
        texts = case.unsteered if how.variant == UNSTEERED else case.steered
        others = sorted(
            {text for latent, text in how.labels.items() if latent != case.latent and text != label}
        )
        if len(others) < self.labels - 1:
            return []
        found = []
        for number, text in enumerate(texts):
            chance = generator(how.seed, "steering", case.latent, number)
            turn = generator(how.seed, "steering place", case.latent, number, int(how.again))
            drawn = torch.randperm(len(others), generator=chance)[: self.labels - 1].tolist()
            place = int(torch.randint(self.labels, (1,), generator=turn))
            offered = [others[i] for i in drawn]
            offered.insert(place, label)
            words = (
                f"A language model wrote this while one of its units was turned up:\n\n"
                f"Text: {_asking.one_line(text)}\n\nWhich of these does the unit stand for?\n\n"
                f"{_asking.numbered(offered)}\n\nAnswer with the number alone."
            )
            options = [str(i + 1) for i in range(self.labels)]
            asked = _asking.request(words, how, options=options)
            found.append(Question(asked, [float(place)], self.labels, (text,), tuple(offered)))
        return found

    @override
    def read(self, question: Question, reply: Reply) -> list[Answer]:
        return _asking.read_choice(question, reply)
