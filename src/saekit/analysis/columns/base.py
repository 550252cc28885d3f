"""The contract of a group of columns: what an index was made from goes in, values come out."""

import abc
import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

import saekit.analysis.columns as package
from saekit.activations.latents import LatentStore
from saekit.analysis.examples import Examples, find_examples
from saekit.analysis.firing import Firing, FiringSums
from saekit.analysis.index_words import Column as Column
from saekit.analysis.logit_lens import Spread, spread
from saekit.analysis.token_sets import TokenSets
from saekit.core.registry import Registry
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel
from saekit.models.sites import Site

TOP_LOGITS = 10  # tokens of each side that are kept


@dataclass(frozen=True)
class Made:
    """What an index is made from, and what several columns want of it, found once.

    Args:
        store: the codes of the text.
        loaded: the SAE and its card.
        lm: the language model.
        written: the site that latents write at: of several the last.
    """

    store: LatentStore
    loaded: TrainedSAE
    lm: LanguageModel
    written: Site

    @functools.cached_property
    def fired(self) -> FiringSums:
        """On which tokens and in how many documents each latent is on."""
        return Firing().measure(self.store)

    @functools.cached_property
    def examples(self) -> Examples:
        """The examples of every latent, by band."""
        return find_examples(self.store, self.fired)

    @functools.cached_property
    def directions(self) -> Float[Tensor, "d_sae d_out"]:
        """What one unit of each latent adds where it writes."""
        every = self.loaded.sae.directions().detach()
        return every.flatten(0, -3)[-1] if every.ndim > 2 else every

    @functools.cached_property
    def vocab(self) -> list[bytes]:
        """The bytes of every token."""
        return self.lm.tokenizer.bytes_of(range(self.lm.tokenizer.vocab_size))

    @functools.cached_property
    def sets(self) -> TokenSets:
        """The classes of tokens, of the ids that have a logit."""
        n = self.lm.vocab_size
        vocab = [*self.vocab[:n], *[b""] * (n - len(self.vocab))]
        return TokenSets(vocab, sorted(self.lm.tokenizer.special_ids))

    @functools.cached_property
    def logits(self) -> Spread | None:
        """What each latent does to logits; None where it does not write to the residual stream."""
        if self.written.point == "mlp_in" or self.loaded.sae.cfg.d_out != self.lm.d_model:
            return None
        lm = self.lm.model_at(self.written)
        return spread(lm, self.directions, self.sets, min(TOP_LOGITS, lm.vocab_size))


class Columns(abc.ABC):
    """Values of every latent, which the table, the query language and the pages show."""

    name: ClassVar[str]
    columns: ClassVar[dict[str, tuple[str, str, str]]]  # by name: label, unit, about

    @abc.abstractmethod
    def run(self, made: Made) -> dict[str, Tensor | list[Any]]:
        """Return values by name, one a latent: numbers (NaN: none) or text (None: none).

        A column that cannot be had of this SAE is left out.
        """


registry = Registry[Columns]("group of columns", package, of_studies="columns")


def no_value(n: int) -> Float[Tensor, "n"]:
    """Return a column without a value."""
    return torch.full((n,), torch.nan, dtype=torch.float64)
