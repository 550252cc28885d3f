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


def draw(corpus: Corpus, split: Split, *, chars: int, seed: int = 42, most_docs: int = 0) -> Prompt:
    """Return a text of at least so many characters, drawn from a whole corpus by its seed.

    It is one document where any is long enough, each equally likely. Otherwise documents that
    follow each other are joined by an empty line, from a drawn one on, until they are.

    Args:
        corpus: the text; it is read twice, and only the prompt is held.
        split: part of it.
        chars: least length, characters.
        seed: decides which.
        most_docs: look only at the first documents; 0: at all.

    Raises:
        ConfigError: a number is out of range.
        DataError: all documents together are too short.

    Source:
        lccqqqqq/sae-analysis draws a stretch of characters with its seed, from rows joined by
        nothing.
        Differs: whole documents, so that a text begins where somebody began it.
    """
    if chars < 1 or most_docs < 0:
        raise ConfigError(
            f"`chars` must be at least 1 and `docs` 0 (all) or more; got {chars} and {most_docs}."
        )
    sizes = [len(d.text) for d in islice(corpus.documents(split), most_docs or None)]
    after = list(accumulate(n + len(JOINER) for n in reversed(sizes)))[::-1]
    starts = [i for i, n in enumerate(sizes) if n >= chars]
    starts = starts or [i for i, n in enumerate(after) if n - len(JOINER) >= chars]
    if not starts:
        raise DataError(
            f"{len(sizes)} documents have {sum(sizes):,} characters together; got "
            f"chars={chars:,}. Ask for fewer, or give more text."
        )
    first = starts[int(torch.randint(len(starts), (1,), generator=generator(seed, "prompt")))]
    found, length = [], -len(JOINER)
    for document in islice(corpus.documents(split), first, len(sizes)):
        found.append(document)
        length += len(JOINER) + len(document.text)
        if length >= chars:
            break
    text = JOINER.join(d.text for d in found)
    told = {
        "dataset": corpus.provenance(),
        "split": split,
        "row": first,
        "rows": len(found),
        "source": found[0].source,
        "seed": seed,
        "documents": len(sizes),
        "n_chars": len(text),
        "sha256": digest([text]),
    }
    return Prompt(text, told)
