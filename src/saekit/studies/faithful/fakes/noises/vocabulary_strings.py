"""Vocabulary strings: the strings of random tokens with spaces between, tokenised again."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.core.config import setting
from saekit.studies.faithful.fakes.noises.base import Noise, Place, registry
from saekit.studies.faithful.sequences import Padded, pad


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class VocabularyStrings(Noise):
    """Strings of random tokens, joined by spaces and tokenised again; sequences differ in length.

    Args:
        n_strings: of a sequence.

    Source:
        seonglae/FaithfulSAE, scripts/feat_match.py@154fcbe.
        Differs: special tokens left out; seeded.
    """

    name: ClassVar[str] = "vocabulary_strings"
    n_strings: int = setting(16, least=1)

    @override
    def draw(self, n: int, place: Place, generator: torch.Generator) -> Padded:
        ids, bos = place.ordinary, place.shape.bos_id
        drawn = ids[torch.randint(len(ids), (n, self.n_strings), generator=generator)]
        strings = [place.tokenizer.decode([i]) for i in drawn.flatten().tolist()]
        k = self.n_strings
        texts = [" ".join(strings[i * k : (i + 1) * k]) for i in range(n)]
        special = place.tokenizer.special_ids
        start = [] if bos is None else [bos]
        rows = [
            [*start, *(i for i in row if i not in special)][: place.shape.n_ctx]
            for row in place.tokenizer.encode(texts)
        ]
        return pad(rows, filler=int(ids[0]))
