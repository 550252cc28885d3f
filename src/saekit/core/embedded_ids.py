"""Token ids that a model has no row for: one sentence, wherever they are met."""

import contextlib
from typing import Any

from saekit.core.errors import DataError


def beyond_embedding(tokenizer: Any, token_id: int, n_rows: int, where: str) -> DataError:
    """Return the error for a token whose id has no row in the embedding.

    Args:
        tokenizer: what made it, asked for the token's text.
        token_id: the id.
        n_rows: rows of the embedding.
        where: what it was met in, as "in document 3 of ...".
    """
    named = f"Token {token_id}"
    if token_id >= 0:
        # Not every tokenizer has text for it, and they raise what they like.
        with contextlib.suppress(Exception):
            named = f"Token {tokenizer.decode([token_id])!r} (id {token_id})"
    bos, eos = (getattr(tokenizer, name, None) for name in ("bos_id", "eos_id"))
    instead = "or take the token out of the text"
    if token_id == bos:
        instead = "or have rows begin without BOS: bos=False, on a command line --no-bos"
    elif token_id == eos:
        instead = "or give the tokenizer an EOS that the model has"
    return DataError(
        f"{named} {where} has no row in the embedding: ids go from 0 to {n_rows - 1}. Tokens were "
        f"added to the tokenizer and the model was not resized. Resize and save it "
        f"(model.resize_token_embeddings(len(tokenizer)) of transformers), {instead}."
    )
