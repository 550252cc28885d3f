"""saekit's own layout, as one format among the others."""

from pathlib import Path
from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.core.errors import FormatError
from saekit.hub import native
from saekit.hub.card import Card
from saekit.hub.formats.base import (
    Format,
    FormatHints,
    Read,
    filled,
    make_card,
    registry,
    say_object,
)
from saekit.saes.base import SAE
from saekit.saes.topk import TopK


@final
@registry.register
class Saekit(Format):
    """saekit's own: config.json, weights.safetensors, card.json; checksums, any architecture."""

    name: ClassVar[str] = "saekit"
    files: ClassVar[str] = "config.json, weights.safetensors and card.json"

    @override
    def detect(self, folder: Path) -> bool:
        if not (folder / "config.json").exists():
            return False
        try:
            return "format" in say_object(folder / "config.json")
        except FormatError:
            return (folder / "weights.safetensors").exists()

    @override
    def read(self, place: Path, hints: FormatHints) -> Read:
        found = native.read(place)
        return found._replace(card=filled(found.card, hints))

    @override
    def example(self, folder: Path) -> Path:
        sae = TopK(d_in=6, d_out=6, d_sae=20, k=3).build(torch.Generator().manual_seed(0))
        said = FormatHints(model="gpt2-small", read=("L8.resid_pre",))
        return native.save(sae, make_card(self.name, said), folder)

    @override
    def write(self, sae: SAE, card: Card, folder: Path) -> Path:
        return native.save(sae, card, folder)
