"""Simulation: from the explanation, how strong is the latent on each token?"""

import math
from dataclasses import dataclass
from typing import ClassVar, final

from typing_extensions import override

from saekit.core.config import setting
from saekit.generators.base import Reply
from saekit.studies.explain.material import Case
from saekit.studies.explain.scorers import _asking
from saekit.studies.explain.scorers.base import Judging, Question, Scorer, registry
from saekit.studies.explain.statistics import Answer, AnswerKind

SCALE = 9  # the largest activation in the corpus is called 9


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Simulation(Scorer):
    """The judge says how strong the latent is on a token, 0 to 9; its probabilities are averaged.

    The score is the correlation of that expectation with the activation over the tokens of some
    texts. It needs a judge that tells log-probabilities, and asks once for every token.

    Args:
        texts: half of them texts that fire.
        tokens: of each text that are asked about, around the strongest one.

    Source:
        Bills et al. 2023, Language models can explain neurons in language models (OpenAI).
        Differs: each token is asked about by itself, with the text before it, as a causal model
        sees it.
    """

    name: ClassVar[str] = "simulation"
    title: ClassVar[str] = "simulation: how strong is it on each token?"
    kind: ClassVar[AnswerKind] = "amount"
    needs_logprobs: ClassVar[bool] = True
    texts: int = setting(4, least=1)
    tokens: int = setting(12, least=2)

    @override
    def questions(self, case: Case, label: str, how: Judging) -> list[Question]:
        half = max(self.texts // 2, 1)
        found = []
        options = tuple(str(i) for i in range(SCALE + 1))
        ends = ["0 (not at all)", f"{SCALE} (as strongly as ever)"]
        low, high = reversed(ends) if how.again else ends
        for sample in [*case.on[:half], *case.off[: self.texts - half]]:
            peak = max(range(len(sample.acts)), key=lambda i: sample.acts[i])  # noqa: B023
            first = max(min(peak - self.tokens // 2, len(sample.acts) - self.tokens), 0)
            for at in range(first, min(first + self.tokens, len(sample.acts))):
                if not sample.pieces[at].strip():
                    continue
                before = _asking.one_line("".join(sample.pieces[: at + 1]))
                token = _asking.one_line(sample.pieces[at])
                words = (
                    f"A unit of a language model responds to: {label}\n\nText: {before}\n\nHow "
                    f"strongly does the unit respond to the last token, {token!r}, on a scale from "
                    f"{low} to {high}? Answer with one digit."
                )
                asked = _asking.request(words, how, options=options, max_tokens=1)
                if not asked.options:
                    asked = _asking.with_logprobs(asked)
                found.append(Question(asked, [sample.acts[at]], about=(before,)))
        return found

    @override
    def read(self, question: Question, reply: Reply) -> list[Answer]:
        (truth,) = question.truths
        told = reply.logprobs[0] if reply.logprobs else {}
        shares = {
            int(token.strip()): math.exp(value)
            for token, value in told.items()
            if token.strip().isdecimal() and len(token.strip()) == 1
        }
        total = sum(shares.values())
        if not total:
            return [Answer(truth, None)]
        return [Answer(truth, sum(digit * share for digit, share in shares.items()) / total)]
