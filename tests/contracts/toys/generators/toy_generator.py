"""Toy: a generator in one file."""

from dataclasses import dataclass
from typing import ClassVar

from saekit.generators.base import Generator, Reply, registry


@registry.register
@dataclass(frozen=True, kw_only=True)
class ToyGenerator(Generator):
    """Says one word whatever it is asked.

    Args:
        word: that it says.
    """

    name: ClassVar[str] = "toy_generator"
    word: str = "yes"

    def identity(self):
        return self.to_dict()

    def replies(self, requests):
        for request in requests:
            yield Reply(text=self.word, model=self.name, prompt_tokens=request.prompt_tokens)
