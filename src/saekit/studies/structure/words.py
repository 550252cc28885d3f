"""Words whose first letter is asked for, and the rows of tokens in which a model reads them."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from saekit.core.errors import ConfigError, DataError
from saekit.core.seeds import generator
from saekit.models.base import LanguageModel

WORD = "{word}"
_OF_VOCABULARY = re.compile(rb" [a-z]{2,}")
_WORD = re.compile(r"[A-Za-z]+")


class Words(NamedTuple):
    """Words in random order, some to train on and the rest to test on."""

    words: tuple[str, ...]
    letters: Int[Tensor, "n"]  # of each the first, 0 for a
    rows: Int[Tensor, "n n_ctx"]  # what the model reads, up to the last token of the word
    last: Int[Tensor, "n"]  # place of that token
    n_train: int
    examples: tuple[str, ...]  # words that stand in front of each, with their letters
    in_vocabulary: int  # words that there were to choose from


def vocabulary(lm: LanguageModel) -> dict[str, list[int]]:
    """Return the words of a model's vocabulary with their token: a space and small letters only.

    Words of one letter are not among them.

    Raises:
        DataError: the tokenizer does not tell the bytes of its tokens.
    """
    special = lm.tokenizer.special_ids
    ids = [i for i in range(min(lm.tokenizer.vocab_size, lm.vocab_size)) if i not in special]
    found: dict[str, list[int]] = {}
    for i, raw in zip(ids, lm.tokenizer.bytes_of(ids), strict=True):
        if _OF_VOCABULARY.fullmatch(raw):
            found.setdefault(raw.decode().strip(), [i])
    return found


def own_words(words: Sequence[str], lm: LanguageModel) -> dict[str, list[int]]:
    """Return words of the user's with their tokens, a space in front.

    Raises:
        ConfigError: one is no word of the letters a to z.
    """
    if wrong := [word for word in words if not _WORD.fullmatch(word)]:
        raise ConfigError(
            f"A word is made of the letters a to z; got {wrong[0]!r:.40}. Leave it out."
        )
    distinct = list(dict.fromkeys(words))
    ids = lm.tokenizer.encode([f" {word}" for word in distinct])
    return dict(zip(distinct, ids, strict=True))


def drawn(
    known: dict[str, list[int]], n_words: int | None, n_examples: int, test_share: float, seed: int
) -> tuple[list[str], list[str], int]:
    """Return words to measure, examples to put in front, and how many of the words train.

    Args:
        known: words to choose from.
        n_words: the most; None: all.
        n_examples: words set apart.
        test_share: of the words, at the end.
        seed: decides the draw, and the order.

    Raises:
        DataError: there are too few words.
    """
    every = sorted(known)
    chance = generator(seed, "words")
    order = [every[i] for i in torch.randperm(len(every), generator=chance).tolist()]
    examples, rest = order[:n_examples], order[n_examples:]
    rest = rest[:n_words] if n_words is not None else rest
    n_train = round(len(rest) * (1 - test_share))
    if n_train < 2 or len(rest) - n_train < 1:  # noqa: PLR2004 - nothing could be told apart
        raise DataError(
            f"There are {len(every):,} words to ask the first letter of, in a vocabulary whose "
            f"words are single tokens. Name words of your own: --set 'words=[\"apple\", ...]'."
        )
    return rest, examples, n_train


def asked(
    lm: LanguageModel,
    known: dict[str, list[int]],
    split: tuple[list[str], list[str], int],
    template: str,
    bos_id: int | None,
) -> Words:
    """Return words as rows: examples with their letters, then the word to be read.

    What follows the word in its own line is left out: a model that reads from left to right
    computes nothing at a word from what stands after it.

    Args:
        lm: the language model.
        known: tokens of each word.
        split: of `drawn`.
        template: a line of an example, up to the letter.
        bos_id: what a row begins with; None: with text.

    Raises:
        ConfigError: the template names no word, or rows are longer than the model reads.
    """
    if template.count(WORD) != 1:
        raise ConfigError(f"`template` has {WORD} once; got {template!r}.")
    before, _, after = template.partition(WORD)
    words, examples, n_train = split
    # The word comes with a space in front, as the vocabulary has it.
    lead = before.removesuffix(" ")
    lines = "".join(f"{lead} {word}{after} {word[0].upper()}\n" for word in examples)
    texts = [lines + lead] if lines + lead else []
    start = [] if bos_id is None else [bos_id]
    start = [*start, *(lm.tokenizer.encode(texts)[0] if texts else [])]
    rows = [[*start, *known[word]] for word in words]
    width = max(map(len, rows))
    if width > lm.n_ctx_max:
        raise ConfigError(
            f"Rows with their examples have {width} tokens; {lm.name} reads {lm.n_ctx_max} at "
            f"most. Set fewer `examples`."
        )
    filler = known[words[0]][0]
    tokens = torch.full((len(rows), width), filler, dtype=torch.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    return Words(
        words=tuple(words),
        letters=torch.tensor([ord(word[0].lower()) - ord("a") for word in words]),
        rows=tokens,
        last=torch.tensor([len(row) - 1 for row in rows]),
        n_train=n_train,
        examples=tuple(examples),
        in_vocabulary=len(known),
    )
