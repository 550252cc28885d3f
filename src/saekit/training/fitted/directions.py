"""Directions: rows of a file as a dictionary, wherever they come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, final

import torch
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from saekit.core.errors import ConfigError, DataError, ShapeError
from saekit.data.vectors import Vectors, open_vectors
from saekit.saes.base import SAEConfig
from saekit.saes.matching_pursuit import MatchingPursuit, MatchingPursuitSAE
from saekit.training.fitted.base import (
    DEFAULT_K,
    Acts,
    Fitted,
    Method,
    both_signs,
    projecting,
    registry,
    topk,
)


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Directions(Method):
    """The rows of a file, brought to length 1: probes, means of classes, another library's weights.

    Mean and size of activations are removed first, as training does it; rows are directions of the
    activation itself, whatever their length.

    Args:
        path: a file with n rows of the width of the activation: .safetensors, .npy, .npz, .parquet.
        key: the tensor, array or column, of a file with several.
        both_signs: each row and minus it are latents.
        coding: "topk": the k largest projections of a token; "matching_pursuit": k choices one
            after another, each for what the ones before it left over.

    Source:
        Ours.
    """

    name: ClassVar[str] = "directions"
    reads: ClassVar[bool] = False

    path: str
    key: str | None = None
    both_signs: bool = False
    coding: Literal["topk", "matching_pursuit"] = "topk"

    @classmethod
    @override
    def example(cls) -> "Directions":
        return cls(path="directions.npy")

    @override
    def sae(self, width: int, d_sae: int | None, k: int | None) -> SAEConfig:
        found = self._open()
        if found.width != width:
            raise ShapeError(
                f"{self.path} has rows of width {found.width}; the activations are {width} wide. "
                f"Choose the site that the directions are of."
            )
        n = found.n * (2 if self.both_signs else 1)
        if d_sae not in (None, n):
            raise ConfigError(
                f"{self.path} gives {n:,} latents; got d_sae={d_sae:,}. Leave it out, or give "
                f"another file."
            )
        k = min(DEFAULT_K, n) if k is None else k
        if self.coding == "topk":
            return topk(width, n, k)
        return MatchingPursuit(d_in=width, d_out=width, d_sae=n, k=k)

    @override
    def fit(self, cfg: SAEConfig, acts: Acts, seed: int) -> Fitted:
        found = self._open()
        rows = normalize(self._rows(found), dim=-1)
        rows = both_signs(rows) if self.both_signs else rows
        told = {"sha256": found.provenance()["sha256"], "rows": found.n}
        if self.coding == "topk":
            return Fitted(projecting(cfg, rows), told)
        assert isinstance(cfg, MatchingPursuit)
        sae: MatchingPursuitSAE = cfg.build(torch.Generator())
        with torch.no_grad():
            sae.W_dec.copy_(rows)
        return Fitted(sae, told)

    def _open(self) -> Vectors:
        return open_vectors(Path(self.path), self.key)

    def _rows(self, found: Vectors) -> Tensor:
        rows = found.take(torch.arange(found.n))
        lengths = rows.double().norm(dim=-1)
        # float32 holds numbers whose squares it does not hold.
        far = (lengths > 1e18) | (lengths < 1e-18)
        rows[far] = normalize(rows[far].double(), dim=-1, eps=0.0).float()
        if bool((empty := lengths == 0).any()):
            raise DataError(
                f"Row {int(empty.nonzero()[0])} of {self.path} is 0, which is no direction. Leave "
                f"it out."
            )
        return rows
