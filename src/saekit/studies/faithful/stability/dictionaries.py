"""What is compared of an SAE: what its latents write, what they read, and which are alive."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.saes.base import SAE


class Dictionary(NamedTuple):
    """Directions of an SAE's latents, on the CPU in float32."""

    name: str
    decoder: Float[Tensor, "n d"]
    encoder: Float[Tensor, "n d_in"] | None  # None: the architecture has no such rows
    alive: Bool[Tensor, "n"]  # on for a token that was read

    @property
    def living(self) -> Int[Tensor, "alive"]:
        """Numbers of the living latents."""
        return self.alive.nonzero()[:, 0]


def dictionary(name: str, sae: SAE, alive: Bool[Tensor, "n"]) -> Dictionary:
    """Return what is compared of an SAE of single activations.

    Args:
        name: what it is called.
        sae: the SAE.
        alive: which latents are alive.
    """
    encoder = getattr(sae, "W_enc", None)
    read = encoder.detach().float().cpu().T if isinstance(encoder, Tensor) else None
    return Dictionary(name, sae.directions().detach().float().cpu(), read, alive.cpu())


def rotated(directions: Float[Tensor, "n d"], generator: torch.Generator) -> Float[Tensor, "n d"]:
    """Return a dictionary turned as a whole: its own geometry is kept, its place in space is lost.

    Args:
        directions: of the dictionary.
        generator: draws the rotation, evenly among all.

    Source:
        Mezzadri 2007, How to generate random matrices from the classical compact groups.
    """
    d = directions.shape[1]
    q, r = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return directions @ (q * r.diagonal().sign()).float()
