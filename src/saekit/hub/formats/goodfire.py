"""Goodfire: one torch file with encoder_linear and decoder_linear."""

from typing import ClassVar, final

from saekit.hub.formats._single import SingleFile
from saekit.hub.formats.base import registry


@final
@registry.register
class Goodfire(SingleFile):
    """Goodfire: ReLU autoencoders of Llama 3.1 8B and Llama 3.3 70B.

    acts = relu(x @ W_enc.T + b_enc);  y_hat = acts @ W_dec.T + b_dec. Model and layer are those of
    the file's name, as Llama-3.1-8B-Instruct-SAE-l19.pth.

    Source:
        Goodfire/Llama-3.1-8B-Instruct-SAE-l19 (2025); sae-lens 6.54.12,
        `get_goodfire_huggingface_loader`.
    """

    name: ClassVar[str] = "goodfire"
    files: ClassVar[str] = "NAME-SAE-lN.pt or .pth with encoder_linear.weight"
    names: ClassVar[tuple[str, str, str, str]] = (
        "encoder_linear.weight",
        "encoder_linear.bias",
        "decoder_linear.weight",
        "decoder_linear.bias",
    )
    sample: ClassVar[str] = "Llama-3.1-8B-Instruct-SAE-l19.pth"
