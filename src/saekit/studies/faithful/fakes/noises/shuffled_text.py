"""Shuffled text: the tokens of real text, in another order."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from typing_extensions import override

from saekit.core.errors import DataError
from saekit.studies.faithful.fakes.noises.base import Noise, Place, registry
from saekit.studies.faithful.sequences import Padded


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class ShuffledText(Noise):
    """The ordinary tokens of held-out text in another order; special tokens stay in their places.

    Args:
        within: "document": tokens stay in their document, so its topic stays and its order goes;
            "corpus": they go anywhere.

    Source:
        Ours.
    """

    name: ClassVar[str] = "shuffled_text"
    of_text: ClassVar[bool] = True
    within: Literal["document", "corpus"] = "document"

    @override
    def draw(self, n: int, place: Place, generator: torch.Generator) -> Padded:
        text = place.text
        if len(text.tokens) < n or text.tokens.shape[1] != place.shape.n_ctx:
            raise DataError(
                f"`{self.name}` permutes rows of the held-out text: {n} of {place.shape.n_ctx} "
                f"tokens are asked for, and there are {len(text.tokens)} of "
                f"{text.tokens.shape[1]}. Ask for fewer sequences, of the length that the SAE's "
                f"text has, or give more text."
            )
        tokens, docs = text.tokens[:n].flatten(), text.doc_ids[:n].flatten()
        places = torch.isin(tokens, place.ordinary).nonzero()[:, 0]
        # By chance, then stably by document: a random order inside of each.
        order = torch.randperm(len(places), generator=generator)
        if self.within == "document":
            order = order[docs[places[order]].sort(stable=True).indices]
            to = places[docs[places].sort(stable=True).indices]
        else:
            to = places
        found = tokens.clone()
        found[to] = tokens[places[order]]
        found = found.view(n, -1)
        return Padded(found, torch.ones_like(found, dtype=torch.bool))
