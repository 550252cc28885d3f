"""saekit's own layout, as one format among the others."""

from pathlib import Path
from typing import ClassVar, final

from typing_extensions import override

from saekit.core.errors import FormatError
from saekit.hub import native
from saekit.hub.card import Card
from saekit.hub.formats.base import Format, FormatHints, Read, filled, registry, say_object
from saekit.saes.base import SAE


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
            return not (folder / "ae.pt").exists()

    @override
    def read(self, folder: Path, hints: FormatHints) -> Read:
        found = native.read(folder)
        return found._replace(card=filled(found.card, hints))

    @override
    def write(self, sae: SAE, card: Card, folder: Path) -> Path:
        return native.save(sae, card, folder)
