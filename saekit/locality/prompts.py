"""A fixed text for sweeps of several models: the same characters whatever the tokenizer."""

from itertools import accumulate, islice
from typing import Any, NamedTuple

import torch

from saekit.core.errors import ConfigError, DataError
from saekit.core.files import digest
from saekit.core.seeds import generator
from saekit.data.base import Corpus, Split

JOINER = "\n\n"


class Prompt(NamedTuple):
    """A text, and where it is from."""

    text: str
    told: dict[str, Any]  # JSON-ready


def draw(
    corpus: Corpus, split: Split, *, chars: int, seed: int = 42, most_docs: int = 10_000
) -> Prompt:
    """Return a text of at least so many characters, drawn from a corpus by its seed.

    It is one document where any is long enough, each equally likely. Otherwise documents that
    follow each other are joined by an empty line, from a drawn one on, until they are.

    Args:
        corpus: the text.
        split: part of it.
        chars: least length, characters.
        seed: decides which.
        most_docs: documents of the corpus that are looked at, the first.

    Raises:
        ConfigError: a number is below 1.
        DataError: all documents together are too short.

    Source:
        lccqqqqq/sae-analysis draws a stretch of characters with its seed, from rows joined by
        nothing.
        Differs: whole documents, so that a text begins where somebody began it.
    """
    if chars < 1 or most_docs < 1:
        raise ConfigError(f"`chars` and `most_docs` are 1 or more; got {chars} and {most_docs}.")
    docs = list(islice(corpus.documents(split), most_docs))
    after = list(accumulate(len(d.text) + len(JOINER) for d in reversed(docs)))[::-1]
    starts = [i for i, d in enumerate(docs) if len(d.text) >= chars]
    starts = starts or [i for i, n in enumerate(after) if n - len(JOINER) >= chars]
    if not starts:
        raise DataError(
            f"{len(docs)} documents have {sum(len(d.text) for d in docs):,} characters together; "
            f"got chars={chars:,}. Ask for fewer, or give more text."
        )
    first = starts[int(torch.randint(len(starts), (1,), generator=generator(seed, "prompt")))]
    last, text = first, docs[first].text
    while len(text) < chars:
        last += 1
        text += JOINER + docs[last].text
    told = {
        "dataset": corpus.provenance(), "split": split, "row": first, "rows": last - first + 1,
        "source": docs[first].source, "seed": seed, "n_chars": len(text), "sha256": digest([text]),
    }  # fmt: skip
    return Prompt(text, told)
