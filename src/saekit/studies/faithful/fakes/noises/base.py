"""The contract of a noise: rows of tokens that mean nothing, drawn from a seed."""

import abc
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

import saekit.studies.faithful.fakes.noises as package
from saekit.core.config import Config
from saekit.core.registry import Registry
from saekit.data.tokenise import Rows
from saekit.models.base import Tokenizer
from saekit.studies.faithful.sequences import Padded, Shape, ordinary_ids


class Place(NamedTuple):
    """What a noise is made for: the model's tokens, how rows look, and real text beside."""

    tokenizer: Tokenizer
    vocab_size: int  # rows of the model's embedding
    shape: Shape
    text: Rows  # held-out text, for noises that keep something of it

    @property
    def ordinary(self) -> Int[Tensor, "m"]:
        """Ids of the tokens that text is made of."""
        return ordinary_ids(self.tokenizer, self.vocab_size)

    def whole(self, tokens: Int[Tensor, "n m"]) -> Padded:
        """Return rows of ordinary tokens as rows of this place, BOS in front where it has one."""
        bos = self.shape.bos_id
        if bos is not None:
            tokens = torch.cat([torch.full((len(tokens), 1), bos), tokens], dim=1)
        return Padded(tokens, torch.ones_like(tokens, dtype=torch.bool))

    @property
    def width(self) -> int:
        """Tokens of a row beside BOS."""
        return self.shape.n_ctx - (self.shape.bos_id is not None)


class Noise(Config, abc.ABC):
    """A way to make sequences without meaning, as a value."""

    of_text: ClassVar[bool] = False  # it keeps something of the text beside it

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the noise class called `name`."""
        return registry.get(name)

    @abc.abstractmethod
    def draw(self, n: int, place: Place, generator: torch.Generator) -> Padded:
        """Return `n` sequences; the same generator state gives the same ones.

        Raises:
            DataError: there is too little text to make them from.
        """

    def said(self) -> dict[str, Any]:
        """Return what identifies it, JSON-ready."""
        return self.to_dict()


registry = Registry[Noise]("noise", package)
