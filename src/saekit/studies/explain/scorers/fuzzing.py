"""Fuzzing: from the explanation, are the marked words those on which the latent fires?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.core.config import setting
from saekit.core.seeds import generator
from saekit.generators.base import Reply
from saekit.studies.explain.material import Case, Sample
from saekit.studies.explain.scorers import _asking
from saekit.studies.explain.scorers.base import Judging, Question, Scorer, registry
from saekit.studies.explain.statistics import Answer
from saekit.studies.sensitivity.prompts import marks_for
from saekit.studies.sensitivity.statistics import ON


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Fuzzing(Scorer):
    """The judge says of each text whether the right words of it are marked.

    Every text that fires is shown twice, never in one request: once with the tokens on which the
    latent is strong marked, once with as many others. A text without enough others is left out.

    Args:
        least: activation from which a token is marked, as a share of the text's largest.
        each: texts of one request; small judges are asked about one.

    Source:
        Paulo, Mallen, Juang, Belrose 2024, arXiv:2410.13928.
        Differs: right and wrong marks are on the same texts, so the text itself tells nothing.
    """

    name: ClassVar[str] = "fuzzing"
    title: ClassVar[str] = "fuzzing: are the right words marked?"
    least: float = setting(0.3, above=0, most=1)
    each: int = setting(5, least=1)

    @override
    def questions(self, case: Case, label: str, how: Judging) -> list[Question]:
        chance = generator(how.seed, "fuzzing", case.latent)
        on = case.on
        sides: tuple[list[tuple[str, float]], list[tuple[str, float]]] = ([], [])
        marks = marks_for([s.text for s in on])
        for sample in on:
            strong = [act > ON and act >= self.least * max(sample.acts) for act in sample.acts]
            others = [
                i
                for i, (act, piece) in enumerate(zip(sample.acts, sample.pieces, strict=True))
                if act <= ON and piece.strip()
            ]
            n = sum(strong)
            if len(others) < n:
                continue
            drawn = torch.randperm(len(others), generator=chance)[:n].tolist()
            wrong = {others[i] for i in drawn}
            first = int(torch.randint(2, (1,), generator=chance))
            sides[first].append((_marked(sample, strong, marks), 1.0))
            other = [i in wrong for i in range(len(strong))]
            sides[1 - first].append((_marked(sample, other, marks), 0.0))
        head = (
            f"A unit of a language model responds to: {label}\nIn each text some words are marked, "
            f"between {marks[0]} and {marks[1]}."
        )
        ask = "Are the marked words those that the unit responds to?"
        found = []
        turn = generator(how.seed, "fuzzing order", case.latent, int(how.again))
        for side in sides:
            order = torch.randperm(len(side), generator=turn).tolist()
            texts, truths = [side[i][0] for i in order], [side[i][1] for i in order]
            found += _asking.several(how, head, ask, texts, truths, self.each)
        return found

    @override
    def read(self, question: Question, reply: Reply) -> list[Answer]:
        return _asking.read_yes_no(question, reply)


def _marked(sample: Sample, which: Sequence[bool], marks: tuple[str, str]) -> str:
    out, inside = [], False
    for piece, on in zip(sample.pieces, which, strict=True):
        if on != inside:
            out.append(marks[0] if on else marks[1])
        out.append(piece)
        inside = on
    return "".join(out) + (marks[1] if inside else "")
