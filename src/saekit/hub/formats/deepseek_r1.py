"""DeepSeek R1 SAEs of qresearch: one torch file with encoder and decoder."""

from typing import ClassVar, final

from saekit.hub.formats._single import SingleFile
from saekit.hub.formats.base import registry


@final
@registry.register
class DeepSeekR1(SingleFile):
    """qresearch: a ReLU autoencoder of DeepSeek-R1-Distill-Llama-8B.

    acts = relu(x @ W_enc.T + b_enc);  y_hat = acts @ W_dec.T + b_dec. Model and layer are those of
    the file's name, as DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt.

    Source:
        qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19 (2025); sae-lens 6.54.12,
        `deepseek_r1_sae_huggingface_loader`.
    """

    name: ClassVar[str] = "deepseek_r1"
    files: ClassVar[str] = "NAME-SAE-lN.pt with encoder.weight and decoder.bias"
    names: ClassVar[tuple[str, str, str, str]] = (
        "encoder.weight",
        "encoder.bias",
        "decoder.weight",
        "decoder.bias",
    )
    sample: ClassVar[str] = "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"
