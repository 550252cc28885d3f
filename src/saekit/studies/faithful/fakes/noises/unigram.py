"""Unigram: tokens as often as in text, in no order."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.core.errors import DataError
from saekit.studies.faithful.fakes.noises.base import Noise, Place, registry
from saekit.studies.faithful.sequences import Padded


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Unigram(Noise):
    """Tokens drawn as often as they come in the held-out text, each without the others.

    What fires here and not on uniform tokens fires on common tokens, in whatever order.

    Source:
        Ours.
    """

    name: ClassVar[str] = "unigram"
    of_text: ClassVar[bool] = True

    @override
    def draw(self, n: int, place: Place, generator: torch.Generator) -> Padded:
        ids = place.ordinary
        counts = torch.bincount(place.text.tokens.flatten(), minlength=int(ids.max()) + 1)[ids]
        if not int(counts.sum()):
            raise DataError("The held-out text has special tokens only. Give real text.")
        drawn = torch.multinomial(
            counts.double(), n * place.width, replacement=True, generator=generator
        )
        return place.whole(ids[drawn].view(n, place.width))
