"""Judges whose answers are known: they know letters, and read the questions as any judge would."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from saekit.generators.base import Generator, Reply, Request

_LABEL = re.compile(r"responds to: (.*)")


def letters_of(label: str) -> set[str]:
    """The letters that an explanation names: "letters zq", or those in quotes in its first part."""
    if label.startswith("letters "):
        return set(label.removeprefix("letters "))
    return set(re.findall(r'"([a-z])"', label.partition(";")[0]))


@dataclass(frozen=True, kw_only=True)
class Oracle(Generator):
    """Explains by the letters it is told to, and judges by whether a text holds them.

    Args:
        small: one text a request.
        chooses_: it gives the probability of each answer.
        explains: what it says when it is asked for an explanation, by a piece of the prompt.
    """

    name: ClassVar[str] = "oracle"
    small: bool = True
    chooses_: bool = False
    noise: str = ""  # said in place of every verdict
    explains: tuple[tuple[str, str], ...] = ()

    @property
    def is_small(self) -> bool:
        return self.small

    @property
    def chooses(self) -> bool:
        return self.chooses_

    def identity(self) -> dict[str, Any]:
        return self.to_dict()

    def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
        for request in requests:
            yield self._reply(request, request.messages[-1][1])

    def _reply(self, request: Request, words: str) -> Reply:
        if self.noise:
            return Reply(text=self.noise)
        if "common" in words or "subject" in words:
            return Reply(text=next(v for k, v in self.explains if k in words))
        if "turned up" in words:
            return self._picked(request, *self._steering(words))
        letters = letters_of(_LABEL.search(words)[1])
        if "odd one out" in words:
            return self._picked(request, *self._intruder(words, letters))
        if "on a scale" in words:
            token = re.search(r"last token, '(.*)', on", words)[1]
            strong = 9 if letters & set(token) else 0
            return self._picked(request, strong, [str(i) for i in range(10)])
        verdict = self._fuzzed if "marked" in words else self._detected
        if single := re.search(r"\nText: (.*)\n", words):
            return self._yes(request, verdict(single[1], letters))
        lines = re.findall(r"^(\d+): (.*)$", words, re.M)
        said = [f"{n}: {'yes' if verdict(t, letters) else 'no'}" for n, t in lines]
        return Reply(text="\n".join(said))

    @staticmethod
    def _detected(text: str, letters: set[str]) -> bool:
        return bool(letters & set(text))

    @staticmethod
    def _fuzzed(text: str, letters: set[str]) -> bool:
        """All that is marked is one of the letters: the tests' tokens are single bytes."""
        return set("".join(re.findall(r"\{\{(.*?)\}\}", text))) <= letters

    @staticmethod
    def _intruder(words: str, letters: set[str]) -> tuple[int, list[str]]:
        lines = re.findall(r"^(\d+): (.*)$", words, re.M)
        without = [i for i, (_, text) in enumerate(lines) if not letters & set(text)]
        # Of several that seem not to belong, which it takes has nothing to do with which is right.
        at = without[len(words) % len(without)] if without else len(words) % len(lines)
        return at, [n for n, _ in lines]

    @staticmethod
    def _steering(words: str) -> tuple[int, list[str]]:
        text = re.search(r"\nText: (.*)\n", words)[1]
        lines = re.findall(r"^(\d+): (.*)$", words, re.M)
        named = [letters_of(label) for _, label in lines]
        held = [sum(c in letters for c in text) / max(len(letters), 1) for letters in named]
        best = [i for i, n in enumerate(held) if n == max(held)]
        return best[len(words) % len(best)], [n for n, _ in lines]

    def _yes(self, request: Request, verdict: bool) -> Reply:
        return self._picked(request, 0 if verdict else 1, ["Yes", "No"])

    def _picked(self, request: Request, at: int, options: list[str]) -> Reply:
        if not self.chooses:
            return Reply(text=options[at])
        assert {o.strip() for o in request.options} == set(options)
        rest = 0.1 / (len(options) - 1)
        told = {o: math.log(0.9 if i == at else rest) for i, o in enumerate(options)}
        return Reply(text=options[at], logprobs=(told,))
