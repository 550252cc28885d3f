"""Uniform tokens: every token of the vocabulary equally likely."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.studies.faithful.fakes.noises.base import Noise, Place, registry
from saekit.studies.faithful.sequences import Padded


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class UniformTokens(Noise):
    """Tokens drawn evenly from the vocabulary, special ones left out.

    Args:
        special: draw special tokens too, as the published code does.

    Source:
        seonglae/FaithfulSAE, scripts/feat_match.py@a98b263.
        Differs: special tokens left out unless asked for; seeded, so that SAEs share the noise.
    """

    name: ClassVar[str] = "uniform_tokens"
    special: bool = False

    @override
    def draw(self, n: int, place: Place, generator: torch.Generator) -> Padded:
        ids = place.ordinary
        if self.special:
            ids = torch.arange(min(place.tokenizer.vocab_size, place.vocab_size))
        drawn = torch.randint(len(ids), (n, place.width), generator=generator)
        return place.whole(ids[drawn])
