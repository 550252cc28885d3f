"""Coactivation: how alike the activations of two SAEs' latents are over the same tokens.

Formulas about two dictionaries, not metrics over tokens, so nothing here is registered.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.codes import Codes
from saekit.core.errors import MissingExtraError, ShapeError

DENSE_PAIRS = 2**24  # of latents: a table of all of them, 64 MB; of more only those on together


class Coactivation:
    """Sums of products of two SAEs' activations, token after token.

    Args:
        n: latents of one.
        m: of the other.
    """

    def __init__(self, n: int, m: int):
        self.n_tokens = 0
        self._sums = (torch.zeros(n, dtype=torch.float64), torch.zeros(m, dtype=torch.float64))
        self._squares = (torch.zeros(n, dtype=torch.float64), torch.zeros(m, dtype=torch.float64))
        self._dense = torch.zeros(n, m) if n * m <= DENSE_PAIRS else None
        self._sparse: Any = None

    def add(self, one: Codes, other: Codes) -> None:
        """Add the codes of some tokens.

        Raises:
            ShapeError: they are of different numbers of tokens.
            MissingExtraError: scipy is not installed.
        """
        if one.n_rows != other.n_rows:
            raise ShapeError(
                f"Codes of the same tokens are compared; got {one.n_rows} and {other.n_rows}."
            )
        self.n_tokens += one.n_rows
        for i, codes in enumerate((one, other)):
            values = codes.values.double()
            self._sums[i].index_add_(0, codes.latents, values)
            self._squares[i].index_add_(0, codes.latents, values.square())
        if self._dense is not None:
            flat = [codes._replace(batch=(codes.n_rows,)).dense().float() for codes in (one, other)]
            self._dense += flat[0].T @ flat[1]
            return
        tables = [_table(codes) for codes in (one, other)]
        product = (tables[0].T @ tables[1]).tocsr()
        self._sparse = product if self._sparse is None else self._sparse + product

    def best(self) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
        r"""Return the largest correlation of each latent of one with any of the other, and whose.

        .. math:: r_{ij} = \frac{E[f_i g_j] - E f_i E g_j}{\sqrt{Var f_i Var g_j}}

        over all tokens, those where a latent is off among them; NaN of a latent that does not vary,
        0 where no other is on with it.

        Source:
            Li et al. 2015, arXiv:1511.07543 (one-to-one alignment of units by correlation).
            Differs: over sparse codes; the nearest alone.
        """
        mean, spread = self._moments()
        if self._dense is not None:
            outer = mean[0][:, None].float() * mean[1].float()
            r = self._dense / max(self.n_tokens, 1) - outer
            r /= (spread[0][:, None] * spread[1]).float().clamp_min(1e-30)
            r[:, spread[1] == 0] = -1
            best = r.clamp(-1, 1).max(1)
            values, at = best.values.double().clamp_min(0), best.indices
        else:
            values, at = self._best_sparse(mean, spread)
        values[spread[0] == 0] = torch.nan
        return values, at

    def of_pairs(self, one: Int[Tensor, "p"], other: Int[Tensor, "p"]) -> Float[Tensor, "p"]:
        """Return the correlation of some pairs; NaN where either does not vary."""
        mean, spread = self._moments()
        if self._dense is not None:
            both = self._dense[one, other].double()
        elif self._sparse is None:
            both = torch.zeros(len(one), dtype=torch.float64)
        else:
            found = self._sparse[np.array(one), np.array(other)]
            both = torch.from_numpy(np.asarray(found).ravel()).double()
        cov = both / max(self.n_tokens, 1) - mean[0][one] * mean[1][other]
        return (cov / (spread[0][one] * spread[1][other])).where(
            (spread[0][one] > 0) & (spread[1][other] > 0), torch.nan
        )

    def _moments(self) -> tuple[list[Tensor], list[Tensor]]:
        n = max(self.n_tokens, 1)
        mean = [s / n for s in self._sums]
        parts = zip(self._squares, mean, strict=True)
        return mean, [(q / n - m.square()).clamp_min(0).sqrt() for q, m in parts]

    def _best_sparse(self, mean: list[Tensor], spread: list[Tensor]) -> tuple[Tensor, Tensor]:
        n = len(self._sums[0])
        values, at = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)
        if self._sparse is None or not self._sparse.nnz:
            return values, at
        pairs = self._sparse.tocoo()
        row, column = (torch.from_numpy(np.asarray(x)).long() for x in (pairs.row, pairs.col))
        r = self.of_pairs_values(row, column, torch.from_numpy(pairs.data), mean, spread)
        order = r.argsort(stable=True)  # the last written is the largest
        values[row[order]], at[row[order]] = r[order].clamp_min(0), column[order]
        return values, at

    def of_pairs_values(
        self, row: Tensor, column: Tensor, both: Tensor, mean: list[Tensor], spread: list[Tensor]
    ) -> Tensor:
        """Return correlations from products that are known."""
        cov = both.double() / max(self.n_tokens, 1) - mean[0][row] * mean[1][column]
        r = cov / (spread[0][row] * spread[1][column])
        return r.nan_to_num(0.0, 0.0, 0.0).clamp(-1, 1)


def _table(codes: Codes) -> Any:
    try:
        from scipy.sparse import csr_matrix
    except ImportError as error:
        raise MissingExtraError("scipy", "truth") from error
    parts = (codes.values.float().numpy(), codes.latents.numpy(), codes.starts.numpy())
    return csr_matrix(parts, shape=(codes.n_rows, codes.d_sae))
