"""Folding: what other libraries do around an SAE's linear maps, written into its weights.

Everything is exact but for rounding: sums over dimensions are taken in float64.
"""

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 2048  # latents at once, so that no second copy of a wide SAE is held


class Affine:
    """Weights in saekit's orientation, float32; the matrices are changed where they are.

    Args:
        W_enc: ``[d_in, d_sae]``.
        W_dec: ``[d_sae, d_out]``; row i is latent i's direction.
        b_enc: bias of pre-activations, of the gate where there is one.
        b_dec: what is added to every prediction.
        more: ``threshold`` and the like, in units of pre-activations; ``r_mag`` and ``b_mag``
            of a gated SAE.
    """

    def __init__(self, W_enc: Tensor, W_dec: Tensor, b_enc: Tensor, b_dec: Tensor, **more: Tensor):
        self.W_enc, self.W_dec = W_enc.float(), W_dec.float()
        if _overlap(self.W_enc, self.W_dec):  # a torch file may keep tied weights once
            self.W_dec = self.W_dec.clone()
        self.b_enc, self.b_dec = b_enc.float(), b_dec.float()
        self.more = {name: t.float() for name, t in more.items()}

    def subtract(self, offset: Float[Tensor, "d_in"]) -> None:
        """Take `offset` off the input: (x - o) @ W + b is x @ W + (b - o @ W)."""
        moved = product(offset, self.W_enc)
        self.b_enc = (self.b_enc.double() - moved).float()
        if "b_mag" in self.more:
            steeper = self.more["r_mag"].double().exp()
            self.more["b_mag"] = (self.more["b_mag"].double() - moved * steeper).float()

    def by_norm(self) -> None:
        """Give latents the unit of their direction: rows of length 1, the length in codes.

        Rows of length 0 stay.
        """
        norm = lengths(self.W_dec)
        norm = torch.where(norm > 0, norm, torch.ones_like(norm)).float()
        self.W_dec.div_(norm[:, None])
        self.W_enc.mul_(norm)
        self.b_enc = self.b_enc * norm

    def scaled(self, scale: float, back: float | None = None) -> None:
        """Multiply the input by `scale` and divide the prediction by `back`, or `scale` too.

        Codes stay.
        """
        back = scale if back is None else back
        self.W_enc.mul_(scale)
        self.W_dec.div_(back)
        self.b_dec = self.b_dec / back

    def whitened(self, mean: Tensor, matrix: Tensor, inverse: Tensor) -> None:
        """Read (x - mean) @ matrix, and predict y @ inverse + mean; codes stay."""
        self.W_enc = (matrix.double() @ self.W_enc.double()).float()
        self.subtract(mean)
        self.W_dec = (self.W_dec.double() @ inverse.double()).float()
        self.b_dec = (self.b_dec.double() @ inverse.double() + mean.double()).float()

    def state(self) -> dict[str, Tensor]:
        """Return the weights by name."""
        return {
            "W_enc": self.W_enc,
            "W_dec": self.W_dec,
            "b_enc": self.b_enc,
            "b_dec": self.b_dec,
            **self.more,
        }


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Tell whether two dense matrices lie in the same memory."""
    return a.data_ptr() < b.data_ptr() + b.nbytes and b.data_ptr() < a.data_ptr() + a.nbytes


def lengths(rows: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "d_sae"]:
    """Return the length of each row in float64, some rows at a time."""
    return torch.cat([part.double().norm(dim=-1) for part in rows.split(CHUNK)])


def product(vector: Float[Tensor, "d_in"], W_enc: Float[Tensor, "d_in d_sae"]) -> Tensor:
    """Return ``vector @ W_enc`` in float64, some latents at a time."""
    parts = W_enc.split(CHUNK, dim=1)
    return torch.cat([vector.double() @ part.double() for part in parts])
