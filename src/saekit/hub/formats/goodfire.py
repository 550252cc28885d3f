"""Goodfire: one torch file with encoder_linear and decoder_linear."""

from pathlib import Path
from typing import ClassVar, final

from typing_extensions import override

from saekit.hub.formats import _single
from saekit.hub.formats.base import Format, FormatHints, Read, registry

NAMES = (
    "encoder_linear.weight",
    "encoder_linear.bias",
    "decoder_linear.weight",
    "decoder_linear.bias",
)


@final
@registry.register
class Goodfire(Format):
    """Goodfire: autoencoders of relu of Llama 3.1 8B and Llama 3.3 70B.

    acts = relu(x @ W_enc.T + b_enc);  y_hat = acts @ W_dec.T + b_dec. Model and layer are those of
    the file's name, as Llama-3.1-8B-Instruct-SAE-l19.pth.

    Source:
        Goodfire/Llama-3.1-8B-Instruct-SAE-l19 (2025); sae-lens 6.54.12,
        `get_goodfire_huggingface_loader`.
    """

    name: ClassVar[str] = "goodfire"
    files: ClassVar[str] = "NAME-SAE-lN.pt or .pth with encoder_linear.weight"

    @override
    def detect(self, folder: Path) -> bool:
        return bool(self.members(folder))

    @override
    def members(self, folder: Path) -> dict[str, Path]:
        return _single.found(folder, NAMES)

    @override
    def read(self, place: Path, hints: FormatHints) -> Read:
        return _single.read(place, hints, NAMES, self.name)

    @override
    def example(self, folder: Path) -> Path:
        return _single.example(folder, "Llama-3.1-8B-Instruct-SAE-l19.pth", NAMES)
