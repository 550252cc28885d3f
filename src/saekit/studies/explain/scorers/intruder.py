"""Intruder: from the explanation, which of several texts does not belong?"""

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


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Intruder(Scorer):
    """The judge says which of some texts the latent does not fire on: on all others it does.

    Args:
        texts: shown at once.
        sets: of them, each with another intruder where there are enough.

    Source:
        Paulo and Belrose 2025, Evaluating SAE interpretability without explanations,
        arXiv:2507.08473.
        Differs: the judge is told the explanation, so that it is scored, not the latent.
    """

    name: ClassVar[str] = "intruder"
    title: ClassVar[str] = "intruder: which text does not belong?"
    kind: ClassVar[AnswerKind] = "choice"
    texts: int = setting(4, least=2, most=9)
    sets: int = setting(5, least=1)

    @override
    def questions(self, case: Case, label: str, how: Judging) -> list[Question]:
        on, off = case.on, case.off
        if len(on) < self.texts - 1 or not off:
            return []
        found = []
        chance = generator(how.seed, "intruder", case.latent)
        turn = generator(how.seed, "intruder place", case.latent, int(how.again))
        strangers = torch.randperm(len(off), generator=chance).tolist()
        for number in range(min(self.sets, len(off))):
            order = torch.randperm(len(on), generator=chance)[: self.texts - 1].tolist()
            shown = [on[i].text for i in order]
            place = int(torch.randint(self.texts, (1,), generator=turn))
            shown.insert(place, off[strangers[number]].text)
            words = (
                f"A unit of a language model responds to: {label}\nIt responds to all of these "
                f"texts but one:\n\n{_asking.numbered(shown)}\n\nWhich text is the odd one out? "
                f"Answer with its number alone."
            )
            options = [str(i + 1) for i in range(self.texts)]
            asked = _asking.request(words, how, options=options)
            found.append(
                Question(asked, [float(place)], self.texts, (f"set {number}",), tuple(shown))
            )
        return found

    @override
    def read(self, question: Question, reply: Reply) -> list[Answer]:
        return _asking.read_choice(question, reply)
