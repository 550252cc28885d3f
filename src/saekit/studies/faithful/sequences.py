"""Rows of tokens as an SAE's text has them: how long, how they begin, and which are padding."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saekit.core.errors import ConfigError, DataError
from saekit.data.tokenise import Rows
from saekit.evals.base import Tools
from saekit.evals.core import Core
from saekit.models.base import LanguageModel, Tokenizer


class Shape(NamedTuple):
    """How rows of text are made for an SAE."""

    n_ctx: int  # tokens of a row, BOS included
    bos_id: int | None  # what each begins with; None: with text


class Padded(NamedTuple):
    """Rows of several lengths, filled up on the right.

    A causal model computes nothing at a place from what stands after it, so the activations at
    real places are those of the row alone, and nothing at the others is looked at.
    """

    tokens: Int[Tensor, "n n_ctx"]
    real: Bool[Tensor, "n n_ctx"]

    def rows(self, part: slice) -> "Padded":
        """Return some of the rows, without columns that are padding in all of them."""
        tokens, real = self.tokens[part], self.real[part]
        width = int(real.sum(1).max()) if len(real) else 0
        return Padded(tokens[:, :width], real[:, :width])


def pad(rows: Sequence[Sequence[int]], filler: int) -> Padded:
    """Return rows of token ids filled up to one length.

    Args:
        rows: each of at least one token.
        filler: any token that ends no document.
    """
    width = max(map(len, rows), default=0)
    tokens = torch.full((len(rows), width), filler, dtype=torch.int64)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    real = torch.arange(width) < lengths[:, None]
    tokens[real] = torch.tensor([i for row in rows for i in row], dtype=torch.int64)
    return Padded(tokens, real)


def ordinary_ids(tokenizer: Tokenizer, vocab_size: int) -> Int[Tensor, "m"]:
    """Return the ids of all tokens that text is made of: no special one, none without a string."""
    every = torch.arange(min(tokenizer.vocab_size, vocab_size))
    special = torch.tensor(sorted(tokenizer.special_ids), dtype=torch.int64)
    return every[~torch.isin(every, special)]


def held_out(tools: Tools, n_rows: int, batch_rows: int = 8) -> Rows:
    """Return the first rows of the held-out text; fewer where it has no more.

    Raises:
        DataError: there is no row of text.
    """
    first = next(iter(tools.rows(1)), None)
    if first is None or not len(first.tokens):
        raise DataError(
            "The held-out text does not fill one row of tokens. Give the corpus more text, or use "
            "a shorter context."
        )
    n_ctx = first.tokens.shape[1]
    return Core(n_tokens=n_rows * n_ctx, ce_tokens=0, batch_rows=batch_rows).rows_of(tools)


def shape_of(text: Rows, lm: LanguageModel) -> Shape:
    """Return how the rows of a text are made: each begins with BOS, or none does."""
    bos = lm.tokenizer.bos_id
    begins = bos is not None and bool((text.tokens[:, 0] == bos).all())
    return Shape(text.tokens.shape[1], bos if begins else None)


def shape_for(lm: LanguageModel, tools: Tools, n_ctx: int) -> Shape:
    """Return how texts become rows: as the SAE's own text does, `n_ctx` tokens if it is not 0.

    Raises:
        ConfigError: the model reads no such rows.
        DataError: there is no row of held-out text.
    """
    shape = shape_of(held_out(tools, 8), lm)
    shape = shape._replace(n_ctx=n_ctx or shape.n_ctx)
    if shape.n_ctx > lm.n_ctx_max:
        raise ConfigError(
            f"Texts have up to {shape.n_ctx} tokens; {lm.name} reads {lm.n_ctx_max} at most. "
            f"Set n_ctx."
        )
    return shape
