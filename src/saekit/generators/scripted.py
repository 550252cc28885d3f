"""Scripted: answers that a file holds, for tests and for trying a pipeline without a model."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.generators.base import Failure, Generator, Reply, Request, registry


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Scripted(Generator):
    """Answers from a list: the first whose words are in the request, else one by its digest.

    Args:
        answers: pairs of words that a request holds, and the answer to it; "" fits all.
        text: whether requests are text, not messages.

    Source:
        Ours.
    """

    name: ClassVar[str] = "scripted"
    parallel: ClassVar[bool] = True
    answers: tuple[tuple[str, str], ...] = (("", "yes"),)
    text: bool = False

    @property
    @override
    def chats(self) -> bool:
        return not self.text

    @override
    def identity(self) -> dict[str, Any]:
        return self.to_dict()

    @override
    def replies(self, requests: Sequence[Request]) -> Iterator[Reply | Failure]:
        for request in requests:
            asked = request.text + "\n".join(content for _, content in request.messages)
            fitting = [answer for words, answer in self.answers if words and words in asked]
            fitting = fitting or [answer for words, answer in self.answers if not words]
            if not fitting:
                yield Failure(reason="The script has no answer to this request.", again=False)
                continue
            # Several that fit are taken in turn, by what else is asked.
            number = int(hashlib.sha256(f"{asked}{request.sample}".encode()).hexdigest(), 16)
            text = fitting[number % len(fitting)]
            yield Reply(text=text, prompt_tokens=len(asked) // 3, completion_tokens=len(text) // 3)
