"""Random bytes, tokenised."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.core.errors import DataError
from saekit.studies.faithful.fakes.noises.base import Noise, Place, registry
from saekit.studies.faithful.sequences import Padded

CHUNK = 4096  # bytes of a piece of text


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class RandomBytes(Noise):
    """Text of random bytes, each as the character of its number (Latin-1), as tokens.

    Token pairs are such as a tokenizer makes, which those of uniform tokens are not.

    Source:
        Ours.
    """

    name: ClassVar[str] = "random_bytes"

    @override
    def draw(self, n: int, place: Place, generator: torch.Generator) -> Padded:
        wanted, found = n * place.width, torch.empty(0, dtype=torch.int64)
        while len(found) < wanted:
            codes = torch.randint(256, (CHUNK,), generator=generator)
            text = bytes(codes.tolist()).decode("latin-1")
            ids = torch.tensor(place.tokenizer.encode([text])[0], dtype=torch.int64)
            ids = ids[torch.isin(ids, place.ordinary)]
            if not len(ids):
                raise DataError(
                    "The tokenizer makes special tokens only of random bytes. Use another noise "
                    "(saekit list noises)."
                )
            found = torch.cat([found, ids])
        return place.whole(found[:wanted].view(n, place.width))
