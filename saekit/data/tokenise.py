"""Documents to full rows of tokens."""

from typing import NamedTuple

from jaxtyping import Int
from torch import Tensor


class Rows(NamedTuple):
    """Full rows of tokens; consecutive rows continue each other's documents."""

    tokens: Int[Tensor, "batch n_ctx"]
    doc_ids: Int[Tensor, "batch n_ctx"]  # index of the document in its split, from 0
    first_row: int  # index of the first of these rows in the stream
