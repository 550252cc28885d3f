"""The contract of a generator: requests go in, replies come out, failures say what they are."""

import abc
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import saekit.generators as package
from saekit.core.config import Config
from saekit.core.errors import ConfigError
from saekit.core.files import digest
from saekit.core.registry import Registry

Finish = Literal["stop", "length", "filter", "other"]
CHARACTERS_A_TOKEN = 3  # of an estimate before anything is sent: on the safe side for English
WORD_TOKENS = 8  # of an answer of one word


@dataclass(frozen=True, kw_only=True)
class Request:
    """One text that is asked for.

    Args:
        messages: role and content of each message of a chat; for generators that chat.
        text: what the answer goes on from; for generators that continue text.
        max_tokens: length of the answer at most.
        temperature: 0 takes the likeliest token.
        seed: decides the draws, where the generator honours one.
        stop: texts that end the answer and are not part of it.
        sample: which of several answers to the same words this is.
        top_logprobs: alternatives of each token of the answer to be told, 0 for none.
        options: answers to choose from, for generators that choose (`Generator.chooses`); the reply
            is the likeliest, with the log-probability of each. () leaves the answer free.

    Raises:
        ConfigError: not exactly one of `messages` and `text` is given, a number is out of range, or
            the options are not several distinct texts.
    """

    messages: tuple[tuple[str, str], ...] = ()
    text: str = ""
    max_tokens: int = 512
    temperature: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    sample: int = 0
    top_logprobs: int = 0
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.messages) == bool(self.text):
            raise ConfigError("A request has either `messages` or `text`.")
        if self.max_tokens < 1 or not 0 <= self.temperature < float("inf"):
            raise ConfigError(
                f"`max_tokens` must be at least 1 and `temperature` at least 0; got "
                f"{self.max_tokens} and {self.temperature}."
            )
        if self.options and (
            len({*self.options}) < max(len(self.options), 2) or "" in self.options
        ):
            raise ConfigError(
                f"`options` are at least two distinct texts to choose from; got {self.options}."
            )

    def key(self, generator: dict[str, Any]) -> str:
        """Return what tells this request from every other: SHA-256 of all that decides a reply.

        Args:
            generator: `Generator.identity` of who is asked.
        """
        record = asdict(self)
        if not self.options:  # requests without any keep the keys of journals that knew none
            del record["options"]
        return digest([json.dumps([generator, record], sort_keys=True)])

    @property
    def prompt_tokens(self) -> int:
        """An estimate of the tokens sent, from the number of characters."""
        n = len(self.text) + sum(len(role) + len(content) for role, content in self.messages)
        return n // CHARACTERS_A_TOKEN + 4 * len(self.messages) + 1


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back.

    Args:
        text: the answer; "" where there is none.
        finish: why it ended.
        model: who answered, in the words of the generator.
        prompt_tokens: tokens read, as reported; None where nothing credible was.
        completion_tokens: tokens written, likewise.
        logprobs: by token of the answer, its alternatives with their log-probabilities.
    """

    text: str
    finish: Finish = "stop"
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    logprobs: tuple[dict[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why no reply came.

    Args:
        reason: in one sentence.
        again: whether asking again can help.
        alone: whether it says nothing of other requests, so that they are asked all the same.
        status: HTTP status, where there was one.
        wait_seconds: how long the other side asks to wait.
    """

    reason: str
    again: bool
    alone: bool = False
    status: int | None = None
    wait_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Generator(Config, abc.ABC):
    """Who writes text on request."""

    batch: ClassVar[int] = 1  # requests answered together
    parallel: ClassVar[bool] = False  # several threads may ask at once

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the generator class called `name`."""
        return registry.get(name)

    @property
    def chats(self) -> bool:
        """Whether it takes `messages`; otherwise it takes `text`."""
        return True

    @property
    def is_small(self) -> bool:
        """Whether it is asked for one thing at a time, in few words."""
        return False

    @property
    def chooses(self) -> bool:
        """Whether it compares given answers by their probability (see `choose`)."""
        return False

    @property
    def tells_logprobs(self) -> bool:
        """Whether replies hold log-probabilities: those of options, or `top_logprobs`."""
        return self.chooses

    def choose(self, request: Request, options: Sequence[str]) -> dict[str, float]:
        """Return how likely each of some answers is, among them alone.

        A small language model that is asked for "yes" or "no" often says something else. What it
        makes of the question can still be read: the log-probability of each answer as the
        continuation of the request, summed over its tokens. They are normalised, so that the
        probabilities of all `options` sum to 1.

        Optional. A generator that can do this sets `chooses`; others answer in words, and what is
        no answer is counted as invalid by whoever asked. `replies` answers a request that has
        `options` through this, so that journals, caches and limits treat it as any other.

        Args:
            request: what is asked; its `options`, `max_tokens` and `temperature` decide nothing.
            options: the answers, at least two, all different, each as it would stand directly
                after the request (a model that continues text wants a space in front).

        Returns:
            The log-probability of each option, in their order.

        Raises:
            ConfigError: this generator answers in words only.
            ShapeError: the request is longer than the model reads.
        """
        raise ConfigError(
            f"`{self.name}` answers in words and compares no given answers; leave `options` out."
        )

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return all of it that decides a reply, JSON-ready; never a key."""

    @abc.abstractmethod
    def replies(self, requests: Sequence[Request]) -> Iterator[Reply | Failure]:
        """Yield what came of each request, in order; `batch` of them at most."""


def question(  # noqa: PLR0913 - what a request says
    by: Generator,
    words: str,
    *,
    system: str,
    options: Sequence[str] = (),
    max_tokens: int = WORD_TOKENS,
    seed: int = 0,
    sample: int = 0,
) -> Request:
    """Return a short question to a judge: a chat, or a text that its answer follows.

    A judge that chooses is given the options, and its reply has the probability of each. The same
    words make the same request, so that nothing is asked twice.

    Args:
        by: who is asked.
        words: the question.
        system: what it is told first, where it is not small.
        options: the answers; () leaves them free.
        max_tokens: length of the answer at most.
        seed: decides the draws, where the judge honours one.
        sample: which of several answers to the same words this is.
    """
    if by.chats:
        messages = (("user", words),) if by.is_small else (("system", system), ("user", words))
        return Request(
            messages=messages,
            max_tokens=max_tokens,
            temperature=0.0,
            seed=seed,
            sample=sample,
            options=tuple(options) if by.chooses else (),
        )
    return Request(
        text=f"{words}\nAnswer:",
        max_tokens=max_tokens,
        temperature=0.0,
        seed=seed,
        sample=sample,
        stop=("\n",),
        options=tuple(f" {option}" for option in options) if by.chooses else (),
    )


registry = Registry[Generator]("generator", package)
