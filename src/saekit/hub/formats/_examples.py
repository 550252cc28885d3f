"""What formats lay out in their examples: the smallest tensors that leave nothing to chance."""

import torch
from torch import Tensor

D_IN, D_SAE, K = 6, 20, 3


def random_tensors(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Return tensors of some shapes; the same names and shapes give the same numbers."""
    g = torch.Generator().manual_seed(0)
    return {name: torch.randn(*shape, generator=g) for name, shape in shapes.items()}


def affine_tensors() -> dict[str, Tensor]:
    """Return an encoder, a decoder and their biases, latents in the rows of the decoder."""
    return random_tensors(W_enc=(D_IN, D_SAE), W_dec=(D_SAE, D_IN), b_enc=(D_SAE,), b_dec=(D_IN,))
