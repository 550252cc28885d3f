"""DeepSeek R1 SAEs of qresearch: one torch file with encoder and decoder."""

from pathlib import Path
from typing import ClassVar, final

from typing_extensions import override

from saekit.hub.formats import _single
from saekit.hub.formats.base import Format, FormatHints, Read, registry

NAMES = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")


@final
@registry.register
class DeepSeekR1(Format):
    """qresearch: an autoencoder of relu of DeepSeek-R1-Distill-Llama-8B.

    acts = relu(x @ W_enc.T + b_enc);  y_hat = acts @ W_dec.T + b_dec. Model and layer are those of
    the file's name, as DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt.

    Source:
        qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19 (2025); sae-lens 6.54.12,
        `deepseek_r1_sae_huggingface_loader`.
    """

    name: ClassVar[str] = "deepseek_r1"
    files: ClassVar[str] = "NAME-SAE-lN.pt with encoder.weight and decoder.bias"

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
        return _single.example(folder, "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt", NAMES)
