"""ActBatch: activations with the tokens they belong to."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor


class ActBatch(NamedTuple):
    """Activations of n events that a filter kept, in text order: tokens, or windows of them."""

    x: Float[Tensor, "n *event d_in"]  # read
    y: Float[Tensor, "n *event d_out"]  # to predict; the same tensor as x for an autoencoder
    row: Int[Tensor, "n"]  # row of the token stream
    pos: Int[Tensor, "n"]  # position in the row, from 0; of a window that of its first token
