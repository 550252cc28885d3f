"""Correlation matrices as factors, their repair, and what they mean for firing."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LEAST_EIGENVALUE = 1e-6  # of a repaired matrix, as SAELens has it


class Loadings(NamedTuple):
    """A correlation matrix as factors: C = F F^T + diag(d) in every block, 0 between blocks.

    Args:
        factor: F, ``[blocks, features of a block, rank]`` float32; the last block may be
            longer than the features left.
        diag: d, ``[n_features]`` float32, above 0.
        notes: what was changed to make it a correlation matrix, JSON-ready; empty if nothing.
    """

    factor: Float[Tensor, "blocks size rank"]
    diag: Float[Tensor, "n_features"]
    notes: dict[str, Any]

    def matrix(self) -> Float[Tensor, "n_features n_features"]:
        """Return C, float64: only for few features."""
        blocks = self.factor.double()
        whole = torch.block_diag(*(blocks @ blocks.mT))[: len(self.diag), : len(self.diag)]
        return whole.fill_diagonal_(0) + torch.eye(len(self.diag), dtype=torch.float64)


def factorised(blocks: Float[Tensor, "blocks size size"], n_features: int) -> Loadings:
    """Return correlation matrices as factors and a diagonal; mend those that are none.

    The diagonal is the smallest eigenvalue of the block. Where that is not above 0,
    eigenvalues are raised to 1e-6 and the matrix is scaled back to a unit diagonal.
    """
    values, vectors = torch.linalg.eigh(blocks.double())  # [blocks, size]
    notes: dict[str, Any] = {}
    if (values[:, 0] < LEAST_EIGENVALUE).any():
        raised = values.clamp_min(LEAST_EIGENVALUE)
        mended = (vectors * raised[:, None]) @ vectors.mT
        scale = mended.diagonal(dim1=1, dim2=2).rsqrt()
        mended = mended * scale[:, :, None] * scale[:, None]
        notes = {
            "repaired_blocks": int((values[:, 0] < LEAST_EIGENVALUE).sum()),
            "smallest_eigenvalue": float(values.min()),
            "largest_change": float((mended - blocks).abs().max()),
        }
        values, vectors = torch.linalg.eigh(mended)
    least = values[:, :1].clamp_min(LEAST_EIGENVALUE / 100)
    common = (values - least).clamp_min(0)
    used = (common > 1e-9).any(0)  # a factor that no block has costs time and changes nothing
    factor = vectors[:, :, used] * common[:, used].sqrt()[:, None]
    diag = 1 - factor.square().sum(-1)
    return Loadings(factor.float(), diag.flatten()[:n_features].float(), notes)
