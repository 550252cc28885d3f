"""Copula: correlated firing at the cost of one product and one pass over the features.

Given the common factors of a token, feature j fires with probability
Phi((F_j . e - threshold_j) / sqrt(d_j)), independently of the others. Most of these are tiny,
so tokens are taken R at a time: one uniform decides with the largest of R probabilities where
the first candidate is, and only blocks that hold one are looked at token by token.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.special import ndtr

from saekit.studies.truth.model.independent import Entries

BLOCK_ROWS = 8  # R
CHUNK_ENTRIES = 2**20  # scores in memory at a time, 4 MB: stays in a cache


class Copula:
    """Correlated firing of features.

    Args:
        factor: F, ``[blocks, size, rank]``, see `Loadings`.
        diag: d, ``[n_features]``.
        coins: probability of every feature, ``[n_features]`` float64, in [0, 1].
        free: features asked for on every token; others are asked for by `Draw.at`.
    """

    def __init__(
        self,
        factor: Float[Tensor, "blocks size rank"],
        diag: Float[Tensor, "n_features"],
        coins: Float[Tensor, "n_features"],
        free: Int[Tensor, "m"],
    ):
        self.n_blocks, self.size, _ = factor.shape
        n = len(diag)
        spread = diag.double().sqrt()
        own = torch.ones(self.n_blocks * self.size, dtype=torch.float64, device=diag.device)
        own[:n] = spread
        self.factor = (factor.double() / own.view(self.n_blocks, self.size, 1)).float()
        self.shift = (torch.special.ndtri(coins) / spread).float()  # -inf: never
        if self.n_blocks == 1:
            self.columns, self._wide = free, self.factor[0, :n][free].T.contiguous()
            self._shift = self.shift[free].contiguous()
        else:
            self.columns = torch.arange(n, device=diag.device)
            self._wide = self.factor.mT.contiguous()  # [blocks, rank, size]
            self._shift = torch.full_like(self.shift, -torch.inf)
            self._shift[free] = self.shift[free]

    def draw(self, n_rows: int, generator: torch.Generator) -> "Draw":
        """Return the common factors of n tokens."""
        shape = (n_rows, self.n_blocks, self.factor.shape[-1])
        common = torch.randn(shape, generator=generator, device=self.factor.device)
        return Draw(self, common, generator)

    def scores(self, common: Float[Tensor, "n blocks rank"]) -> Float[Tensor, "n m"]:
        """Return the score of every column, whose Phi is its probability."""
        if self.n_blocks == 1:
            return torch.addmm(self._shift, common[:, 0], self._wide)
        parts = torch.bmm(common.transpose(0, 1), self._wide)  # [blocks, n, size]
        whole = parts.transpose(0, 1).reshape(len(common), -1)[:, : len(self._shift)]
        return whole + self._shift


class Draw:
    """The common factors of some tokens, and what fires given them."""

    def __init__(
        self, copula: Copula, common: Float[Tensor, "n blocks rank"], generator: torch.Generator
    ):
        self._copula, self._common, self._chance = copula, common, generator

    def free(self) -> Entries:
        """Return where the free features fire: rows and features, in no order."""
        parts = [
            (r[:0], r[:0]) for r in [torch.empty(0, dtype=torch.int64, device=self._common.device)]
        ]
        width = max(len(self._copula.columns), 1)
        step = max(CHUNK_ENTRIES // width // BLOCK_ROWS, 1) * BLOCK_ROWS
        for first in range(0, len(self._common), step):
            rows, columns = self._fire(self._common[first : first + step])
            parts.append((rows + first, self._copula.columns[columns]))
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _fire(self, common: Float[Tensor, "n blocks rank"]) -> Entries:
        """Return rows and columns that fire, exactly as trial by trial."""
        n = len(common)
        if n % BLOCK_ROWS:
            lacking = BLOCK_ROWS - n % BLOCK_ROWS
            common = torch.cat([common, common[-1:].expand(lacking, -1, -1)])
        scores = self._copula.scores(common)
        scores = scores.view(len(common) // BLOCK_ROWS, BLOCK_ROWS, -1)
        most = ndtr(scores.amax(1))  # [blocks of rows, m]
        # the first candidate of R trials at probability `most`, by inversion
        u = torch.rand(most.shape, generator=self._chance, device=most.device)
        # 1 - (1 - p)^R <= R p: a few blocks too many, which `first` turns away
        block, column = (u < most * BLOCK_ROWS).nonzero(as_tuple=True)
        top = most[block, column]
        ahead = torch.log1p(-u[block, column]) / torch.log1p(-top)
        at = torch.arange(BLOCK_ROWS, device=top.device)
        first = ahead.floor()[:, None]  # at least R: no candidate
        chance = ndtr(scores[block, :, column])  # [hits, R]
        u = torch.rand(chance.shape, generator=self._chance, device=top.device)
        bar = torch.where(at == first, chance / top[:, None], chance)
        hit, row = ((u < bar) & (at >= first)).nonzero(as_tuple=True)
        rows, columns = block[hit] * BLOCK_ROWS + row, column[hit]
        real = rows < n
        return rows[real], columns[real]

    def at(self, rows: Int[Tensor, "m"], features: Int[Tensor, "m"]) -> Bool[Tensor, "m"]:
        """Return whether features fire at rows; a pair may be asked for once."""
        copula = self._copula
        block = torch.div(features, copula.size, rounding_mode="floor")
        loadings = copula.factor[block, features - block * copula.size]
        scores = (self._common[rows, block] * loadings).sum(-1) + copula.shift[features]
        u = torch.rand(len(rows), generator=self._chance, device=scores.device)
        return u < ndtr(scores)
