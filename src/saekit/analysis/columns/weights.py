"""How long the directions of each latent are, and how alike."""

from typing import Any, ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from saekit.analysis.columns.base import Columns, Made, registry


@final
@registry.register
class Weights(Columns):
    """Norms of encoder and decoder, and their cosine."""

    name: ClassVar[str] = "weights"
    columns: ClassVar[dict[str, tuple[str, str, str]]] = {
        "decoder_norm": ("decoder norm", "", "Length of what one act unit of it writes."),
        "encoder_norm": ("encoder norm", "", "Length of the direction that it reads."),
        "encoder_decoder": (
            "encoder·decoder",
            "cosine",
            "Cosine of what it reads and what it writes; low where others write the same.",
        ),
    }

    @override
    def run(self, made: Made) -> dict[str, Tensor | list[Any]]:
        write = made.directions.double().cpu()
        found: dict[str, Tensor | list[Any]] = {"decoder_norm": write.norm(dim=1)}
        read = _read(made)
        if read is not None:
            found["encoder_norm"] = read.norm(dim=1)
            if read.shape == write.shape:
                found["encoder_decoder"] = torch.cosine_similarity(read, write, dim=1)
        return found


def _read(made: Made) -> Tensor | None:
    """Return the direction that each latent reads; None where it has not one."""
    weights = getattr(made.loaded.sae, "W_enc", None)
    sizes = (made.loaded.cfg.d_in, made.loaded.cfg.d_sae)
    if not isinstance(weights, Tensor) or weights.shape != sizes:
        return None
    return weights.detach().T.double().cpu()
