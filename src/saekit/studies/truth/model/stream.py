"""Streams of batches made from nothing but a seed: any of them can be made at any time."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.codes import Codes
from saekit.core.errors import ConfigError, DataError
from saekit.core.seeds import generator
from saekit.studies.truth.model.checks import at_least

Made = tuple[Float[Tensor, "n *event d_model"], Codes]  # a `Sample`


class TruthStream:
    """Training batches of a truth; batch b is a function of the seed and b alone.

    Resuming, sharding and the order of asking therefore change no batch. A later epoch gives
    the same batches in another order.

    Args:
        sample: makes a sample of n tokens with a generator.
        device: of that generator.
        tokens: tokens of one epoch, over all parts.
        batch_tokens: tokens of a batch; the last of an epoch may be smaller.
        seed: decides every batch and the order.
        epochs: passes over them.
        part: this part and the number of parts, ``0 <= part[0] < part[1]``: part r of w serves
            places r, r + w, r + 2 w, ... of the whole stream.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self,
        sample: Callable[[int, torch.Generator], Made],
        device: torch.device,
        *,
        tokens: int,
        batch_tokens: int,
        seed: int,
        epochs: int = 1,
        part: tuple[int, int] = (0, 1),
    ):
        for name, value in (("tokens", tokens), ("batch_tokens", batch_tokens), ("epochs", epochs)):
            at_least(name, value, 1)
        if not 0 <= part[0] < part[1]:
            raise ConfigError(f"`part` must be (rank, world) with 0 <= rank < world; got {part}.")
        self._sample, self._device = sample, device
        self.tokens, self.batch_tokens, self.epochs = tokens, batch_tokens, epochs
        self.seed, self.part = seed, part
        self.epoch_batches = -(-tokens // batch_tokens)
        self.served_batches = 0
        self.served_tokens = 0
        self._order = (0, torch.arange(self.epoch_batches))  # epoch, and its order

    @property
    def total_tokens(self) -> int:
        """Tokens of all epochs over all parts, as asked."""
        return self.tokens * self.epochs

    def sample(self) -> Made:
        """Return the next batch with its true activations, a `Sample`.

        Raises:
            DataError: the stream is over.
        """
        rank, world = self.part
        epoch, place = divmod(rank + world * self.served_batches, self.epoch_batches)
        if epoch >= self.epochs:
            raise DataError(
                f"The stream is over: {self.epochs} epochs of {self.tokens:,} tokens were asked."
            )
        if self._order[0] != epoch:
            chance = generator(self.seed, "order", epoch)
            self._order = (epoch, torch.randperm(self.epoch_batches, generator=chance))
        made = self.made(int(self._order[1][place]))
        self.served_batches += 1
        self.served_tokens += made[1].n_rows
        return made

    def made(self, batch: int) -> Made:
        """Return batch number `batch` of an epoch, whatever was served."""
        n = min(self.batch_tokens, self.tokens - batch * self.batch_tokens)
        return self._sample(n, generator(self.seed, "truth", batch, device=str(self._device)))

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return the next batch as input and target, which are one.

        Raises:
            DataError: the stream is over.
        """
        x = self.sample()[0]
        return x, x

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what `load` needs to go on from here."""
        return {}, {"served_batches": self.served_batches, "served_tokens": self.served_tokens}

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from where `state` was taken: the same batches follow."""
        self.served_batches = values["served_batches"]
        self.served_tokens = values["served_tokens"]
