"""The contract of a scorer: what it asks about an explanation, and how it reads the replies."""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

import saekit.studies.explain.scorers as package
from saekit.core.config import Config
from saekit.core.registry import Registry
from saekit.generators.base import Generator, Reply, Request
from saekit.studies.explain.material import Case
from saekit.studies.explain.statistics import Answer, AnswerKind

Embed = Callable[[Sequence[str]], Tensor]  # texts to vectors [n, d] of length 1


class Question(NamedTuple):
    """A request to the judge, and what is true of the things it asks about."""

    request: Request
    truths: list[float]
    options: int = 2  # of a choice
    about: tuple[str, ...] = ()  # what each truth is of; the same when asked again
    offered: tuple[str, ...] = ()  # of a choice: what each option is


@dataclass(frozen=True)
class Judging:
    """Who judges, and how this time.

    Args:
        judge: the generator that is asked.
        seed: of every draw.
        again: a second time: other draws, another order, the answers offered the other way round.
        labels: explanations of all latents by the same maker, for choices among them.
        variant: "label", or the control that is asked about.
        embed: makes sentence embeddings.
    """

    judge: Generator
    seed: int = 0
    again: bool = False
    labels: Mapping[int, str] = field(default_factory=dict)
    variant: str = "label"
    embed: Embed | None = None


@dataclass(frozen=True, kw_only=True)
class Scorer(Config, abc.ABC):
    """A way to find out whether an explanation says when a latent is on.

    A scorer that asks a judge has `questions` and `read`; one that asks nobody has `directly`.
    """

    title: ClassVar[str]
    kind: ClassVar[AnswerKind] = "yes_no"
    asks: ClassVar[bool] = True  # a judge
    needs_logprobs: ClassVar[bool] = False
    controls: ClassVar[tuple[str, ...]] = ()  # more variants than those of every scorer
    version: ClassVar[int] = 1

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the scorer class called `name`."""
        return registry.get(name)

    def questions(self, case: Case, label: str, how: Judging) -> list[Question]:
        """Return what to ask the judge about one explanation of one latent."""
        del case, label, how
        return []

    def read(self, question: Question, reply: Reply) -> list[Answer]:
        """Return the answers in a reply: one for each truth of its question, valid or not."""
        raise NotImplementedError

    def directly(self, case: Case, label: str, how: Judging) -> list[Answer]:
        """Return answers that need no judge."""
        del case, label, how
        return []


registry: Registry[Any] = Registry[Scorer]("scorer", package)
