"""Token sets: classes of tokens by their text, and which of them a latent promotes."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LEAST = 10  # tokens of a set; of fewer a mean says little
SETS: dict[str, str] = {
    "leading space": "begins with a space",
    "inside a word": "letters alone, without a space before them",
    "capital": "its first letter is a capital and the next is not",
    "all capitals": "two letters or more, all capitals",
    "one letter": "one letter, with or without a space before it",
    "digits": "digits alone",
    "punctuation": "marks of punctuation alone",
    "whitespace": "spaces, tabs and ends of lines alone",
    "line end": "has an end of a line in it",
    "code": "has one of the signs = { } < > ; _ # \\ | that code is full of",
    "non-ASCII letters": "has a letter that is not one of a to z",
    "part of a character": "bytes that are no whole character",
    "special": "a special token, as that between documents",
}
_CODE = re.compile(r"[={}<>;_#\\|]")


class Enrichment(NamedTuple):
    """How much more a latent promotes the tokens of each set than tokens in general."""

    z: Float[Tensor, "latents sets"]  # NaN where a set is too small
    mean: Float[Tensor, "latents sets"]  # logit per act unit


class TokenSets:
    """The sets of a vocabulary, for the effects of latents on its logits.

    Args:
        tokens: the bytes of every token, by id.
        special: ids of special tokens; they are in no other set.
    """

    def __init__(self, tokens: Sequence[bytes], special: Sequence[int] = ()):
        self.names = list(SETS)
        self.members = torch.zeros(len(self.names), len(tokens), dtype=torch.bool)
        marked = set(special)
        ids: dict[str, list[int]] = {name: [] for name in self.names}
        for token, raw in enumerate(tokens):
            for name in ["special"] if token in marked else sets_of(raw):
                ids[name].append(token)
        for i, name in enumerate(self.names):
            self.members[i, ids[name]] = True
        self.sizes = self.members.sum(1)
        self._numbers = self.members.float()

    def enrichment(
        self,
        effects: Float[Tensor, "latents vocab"],
        mean: Float[Tensor, "latents"],
        std: Float[Tensor, "latents"],
    ) -> Enrichment:
        """Return z = (mean of the set - mean of all) / (std of all / sqrt(tokens of the set)).

        It is a description: effects on related tokens are not independent, so it is no test, and
        large sets have large z.

        Args:
            effects: on every logit.
            mean: of each latent's effects over the vocabulary.
            std: likewise.
        """
        if (members := self._numbers).device != effects.device:
            members = self._numbers = members.to(effects.device)
        size = members.sum(1)
        means = effects @ members.T / size.clamp_min(1)
        z = (means - mean[:, None]) * size.sqrt() / std[:, None].clamp_min(1e-30)
        few = size < LEAST
        return Enrichment(z.masked_fill(few, torch.nan), means.masked_fill(few, torch.nan))


def sets_of(raw: bytes) -> list[str]:
    """Return the names of the sets that a token is in, by its bytes."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return ["part of a character"]
    return [name for name, holds in _TESTS.items() if text and holds(text, text.strip())]


_TESTS: dict[str, Callable[[str, str], bool]] = {  # of the text of a token, and without spaces
    "leading space": lambda text, bare: text[0] == " " and bool(bare),
    "inside a word": lambda text, bare: bare.isalpha() and not text[0].isspace(),
    "capital": lambda _, bare: bare.isalpha() and bare[0].isupper() and not bare[1:2].isupper(),
    "all capitals": lambda _, bare: bare.isalpha() and len(bare) > 1 and bare.isupper(),
    "one letter": lambda _, bare: bare.isalpha() and len(bare) == 1,
    "digits": lambda _, bare: bare.isdigit(),
    "punctuation": lambda _, bare: (
        bool(bare) and all(unicodedata.category(c)[0] in "PS" for c in bare)
    ),
    "whitespace": lambda text, _: text.isspace(),
    "line end": lambda text, _: "\n" in text or "\r" in text,
    "code": lambda _, bare: _CODE.search(bare) is not None,
    "non-ASCII letters": lambda _, bare: any(c.isalpha() and not c.isascii() for c in bare),
}
