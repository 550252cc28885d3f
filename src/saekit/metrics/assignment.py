"""Assignment: the one-to-one matching of two dictionaries with the largest sum of cosines.

Formulas about two dictionaries, not metrics over tokens, so nothing here is registered.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.errors import DataError, MissingExtraError
from saekit.core.finite import all_finite
from saekit.metrics.nearest import CHUNK, Nearest, check_widths, nearest, unit

CANDIDATES = 32  # of a row at first; a row whose place is not proved gets more
MORE = 4  # times as many
MOST_ENTRIES = 2**25  # of all rows: 2 GB with scipy; beyond, the answer comes with a gap
SHIFT = 4.0  # scipy takes an entry of 0 for none; cosines are above -1
NEAR = 1e-7  # cosines in float32 are no closer than this


class Assignment(NamedTuple):
    """Pairs of a one-to-one matching, as many as the smaller dictionary has rows."""

    rows: Int[Tensor, "pairs"]  # ascending
    columns: Int[Tensor, "pairs"]
    cosines: Float[Tensor, "pairs"]
    gap: float = 0.0  # the best matching's sum is at most this much larger; 0: this is the best


def assign_dense(cosine: Float[Tensor, "n m"]) -> Assignment:
    """Return the matching of rows and columns with the largest sum, from the table of all pairs.

    Exact; memory 8 bytes a pair beside it, time of order min(n, m)^2 * max(n, m).

    Raises:
        DataError: an entry is not finite.
        MissingExtraError: scipy is not installed.

    Source:
        Kuhn 1955, Naval Research Logistics 2 ("Hungarian"); Crouse 2016, IEEE Transactions on
        Aerospace and Electronic Systems 52(4) (as scipy has it).
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise MissingExtraError("scipy", "truth") from error
    if not all_finite(cosine):
        raise DataError("A table of cosines has entries that are not finite. Mend the directions.")
    rows, columns = linear_sum_assignment(cosine.cpu().numpy(), maximize=True)
    rows, columns = torch.from_numpy(rows), torch.from_numpy(columns)
    return Assignment(rows, columns, cosine.cpu()[rows, columns])


def assign(
    directions: Float[Tensor, "n d"], others: Float[Tensor, "m width"], found: Nearest | None = None
) -> Assignment:
    r"""Return the one-to-one matching of two dictionaries with the largest sum of cosines.

    The same as `assign_dense` of all cosines, without the table of them: each row starts with its
    32 nearest, the best matching within these is found, and then it is proved that no other pair
    could improve it. The proof is that of linear programming: prices :math:`v_j \ge 0` of columns,
    0 where a column is left over, and :math:`u_i = c_{i \pi(i)} - v_{\pi(i)}` with
    :math:`u_i + v_j \ge c_{ij}` for all pairs. For a pair that is no candidate it suffices that
    :math:`u_i` is at least the smallest candidate of row i. Rows for which that fails are looked at
    whole; where a pair breaks the rule they get four times the candidates, and all begins again. So
    the answer is exact to 1e-7 a pair, whatever the dictionaries. Where rows would need more
    candidates than memory allows the best within them is returned, with the `gap` that is left.

    Cosines keep their sign. Two directions without a length have cosine 0 with everything, and
    pair up with what is left.

    Args:
        directions: of one dictionary.
        others: of another.
        found: the nearest of each row, from `nearest(directions, others, k)`, if it is known.

    Raises:
        ShapeError: widths differ.
        DataError: a direction is not of finite numbers.
        MissingExtraError: scipy is not installed.

    Source:
        Jonker and Volgenant 1987, Computing 38 (as scipy has it for sparse tables); bounds by
        complementary slackness, Kuhn 1955.
        Differs: candidates grow until the answer within them is proved to be that of all pairs.
    """
    check_widths(directions, others)
    if not len(directions) or not len(others):
        none = torch.zeros(0, dtype=torch.int64)
        return Assignment(none, none, torch.zeros(0))
    if len(directions) > len(others):
        turned = assign(others, directions)
        order = turned.columns.argsort()
        parts = (turned.columns[order], turned.rows[order], turned.cosines[order])
        return Assignment(*parts, turned.gap)
    found = found or nearest(directions, others, min(CANDIDATES, len(others)))
    candidates = _Candidates(directions, others, found)
    while True:
        columns, cosines = candidates.best()
        prices = candidates.prices(columns, cosines)
        paid = cosines - prices[columns]
        wrong, above = candidates.unproved(paid, prices)
        if not len(wrong):
            gap = 0.0
            break
        if not candidates.grow(wrong, prices):
            gap = float(above.sum())
            break
    rows = torch.arange(len(directions))
    return Assignment(rows, torch.from_numpy(columns), torch.from_numpy(cosines).float(), gap)


class _Candidates:
    """The pairs that a matching may use: of each row its nearest columns, in one list of pairs."""

    def __init__(self, directions: Tensor, others: Tensor, found: Nearest):
        self._one, self._other = unit(directions), unit(others)
        self.n, self.m = len(directions), len(others)
        k = found.columns.shape[1]
        columns = found.columns.clone()
        # Rows without a length are alike to all columns; they must not want the same few.
        blank = (self._one.norm(dim=1) == 0).nonzero()[:, 0]
        spread = blank[:, None] + torch.arange(k) * max(self.m // k, 1)
        columns[blank] = spread % self.m
        self._rows = np.repeat(np.arange(self.n, dtype=np.int32), k)
        self._columns = columns.int().numpy().ravel()
        self._values = found.cosines.double().numpy().ravel()
        self._wanted = np.full(self.n, k)  # how many of its nearest columns a row has
        # A pair that is no candidate has no larger cosine than this.
        self._rest = found.cosines[:, -1].double().numpy().copy()
        if k == self.m:
            self._rest[:] = -np.inf

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the column of each row in the best matching of candidates, and its cosine."""
        try:
            from scipy.sparse import coo_matrix
            from scipy.sparse.csgraph import (
                maximum_bipartite_matching,
                min_weight_full_bipartite_matching,
            )
        except ImportError as error:
            raise MissingExtraError("scipy", "truth") from error

        def table() -> Any:
            shape = (self.n, self.m)
            return coo_matrix((self._values + SHIFT, (self._rows, self._columns)), shape).tocsr()

        pairs = table()
        most = maximum_bipartite_matching(pairs, perm_type="column")
        if (most < 0).any():  # some columns are near to no row: pairs of what is left over
            used = np.zeros(self.m, dtype=bool)
            used[most[most >= 0]] = True
            self._join(np.flatnonzero(most < 0), np.flatnonzero(~used))
            pairs = table()
        _, chosen = min_weight_full_bipartite_matching(pairs, maximize=True)
        return chosen, np.asarray(pairs[np.arange(self.n), chosen]).ravel() - SHIFT

    def _join(self, rows: np.ndarray, columns: np.ndarray) -> None:
        """Make candidates of as many pairs of rows and columns as rows need to have one each."""
        columns = columns[: max(len(rows), 1)]
        of = self._other[torch.from_numpy(columns).to(self._other.device)]
        one = self._one[torch.from_numpy(rows).to(self._one.device)].to(of)
        cosine = (one @ of.T).clamp_(-1, 1).double().cpu().numpy()
        here = np.repeat(rows, len(columns)).astype(np.int32)
        there = np.tile(columns, len(rows)).astype(np.int32)
        self._add([(here, there, cosine.ravel())])

    def _add(self, more: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        parts = [(self._rows, self._columns, self._values), *more]
        joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
        key = joined[0].astype(np.int64) * self.m + joined[1]
        _, first = np.unique(key, return_index=True)
        self._rows, self._columns, self._values = (column[first] for column in joined)

    def prices(self, columns: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        """Return the lowest price of each column at which every row is content with its own.

        A row is content where no candidate is worth more than its own column, each less its price.
        Prices rise from 0 until that holds; an optimum has no cycle in which they rise for ever.
        """
        order = np.argsort(self._columns, kind="stable")
        rows, values = self._rows[order], self._values[order]
        named, starts = np.unique(self._columns[order], return_index=True)
        more = values - cosines[rows]  # what a row would gain by the change, at prices of 0
        price = np.zeros(self.m)
        while True:
            asked = np.maximum.reduceat(more + price[columns[rows]], starts)
            higher = asked > price[named] + NEAR / 100
            if not higher.any():
                return price
            price[named[higher]] = asked[higher]

    def unproved(self, paid: np.ndarray, prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rows that some pair which is no candidate might improve, and by how much."""
        doubtful = np.flatnonzero(self._rest > paid + NEAR)
        if not len(doubtful):
            return doubtful, np.zeros(0)
        most = np.empty(len(doubtful))
        price = torch.from_numpy(prices).to(self._other)
        for at, cosine in self._whole(doubtful):
            most[at] = (cosine - price).amax(1).double().cpu().numpy()
        above = most - paid[doubtful]
        # Prices are rounded to float32 here, the candidates' own are not.
        wrong = above > NEAR * 2
        return doubtful[wrong], above[wrong]

    def grow(self, rows: np.ndarray, prices: np.ndarray) -> bool:
        """Give rows more candidates: nearest ones, and those that they would change to.

        Returns:
            whether there is room for them.
        """
        wanted = np.minimum(self._wanted[rows] * MORE, self.m)
        if len(self._values) + 2 * wanted.sum() > MOST_ENTRIES:
            return False
        price = torch.from_numpy(prices).to(self._other)
        k = int(wanted.max())
        parts = []
        for at, cosine in self._whole(rows):
            near = cosine.topk(k, dim=1)
            better = (cosine - price).topk(k, dim=1).indices
            columns = torch.cat([near.indices, better], 1)
            values = cosine.gather(1, columns).double().cpu().numpy().ravel()
            mine = np.repeat(rows[at], 2 * k).astype(np.int32)
            parts.append((mine, columns.int().cpu().numpy().ravel(), values))
            last = near.values[:, -1].double().cpu().numpy()
            self._rest[rows[at]] = -np.inf if k == self.m else last
        self._wanted[rows] = k
        self._add(parts)
        return True

    def _whole(self, rows: np.ndarray) -> Any:
        """Yield parts of some rows, as places among them, with their cosines with all columns."""
        step = max(1, CHUNK // self.m)
        for begin in range(0, len(rows), step):
            part = torch.from_numpy(rows[begin : begin + step])
            cosine = self._one[part.to(self._one.device)].to(self._other) @ self._other.T
            yield slice(begin, begin + len(part)), cosine.clamp_(-1, 1)
