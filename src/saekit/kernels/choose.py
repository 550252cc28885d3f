"""Which latents of a token count: the k largest pre-activations, or those above a threshold.

On a CPU that multiplies bfloat16 numbers in hardware, a product in bfloat16 screens all latents,
and the few that may count, given how far off that product can be, are computed in float32. The
bound on its error is proved from the weights and inputs at hand, so the latents chosen are those
of the float32 product. Elsewhere, and where it does not pay, that product itself decides.

Of latents with exactly equal pre-activations the lowest are kept, on every path and in batches of
any size. (Pre-activations that differ by less than a float32 product is exact to may fall either
way: a library rounds differently in batches of other sizes.)
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core import machine
from saekit.core.codes import Codes
from saekit.kernels import gpu, products, sparse, ties

GROUP_TOKENS = 8192  # candidates of this many tokens are held at once
CHUNK_TOKENS = 512  # scores of this many tokens stay in a CPU's cache
SCREENED_TOKENS = 1024  # below this, rounding the weights costs what it saves
SCREENED_LATENTS = 1024
CHUNK_LATENTS = 1024
WIDE = 3  # candidates for each one wanted, where rows have as many: few rows need more
TINY = 2.0**-126  # the smallest normal number of float32 and of bfloat16
SPARSE = 16  # with fewer latents for each one wanted, screening leaves too many


@torch.no_grad()
def top_latents(
    x: Float[Tensor, "n d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, "d_sae"],
    k: int,
    *,
    by_size: bool = False,
    in_order: bool = False,
) -> Codes:
    """Return the k largest pre-activations of each token, before any non-linearity.

    Of equal ones the lowest latents are kept.

    Args:
        x: act units.
        W_enc: latent-major.
        b_enc: act units.
        k: entries a token.
        by_size: largest in absolute value; the sign stays.
        in_order: from the largest down, equals by latent; else by latent (on a GPU in any order).

    Source:
        Gao et al. 2024, arXiv:2406.04093, section 2.3.
    """
    d_sae = len(b_enc)
    found = gpu.run("choose", "top_latents", x, W_enc.t(), b_enc, k, by_size=by_size)
    how = _Choice(k, by_size)
    if found is not None:
        values, latents = found.values, found.latents
    elif _screened(x, W_enc) and SPARSE * k <= d_sae:
        values, latents = _screened_top(x, W_enc, b_enc, how)
    else:
        values, latents = _dense_top(x, W_enc, b_enc, how)
    if in_order:
        if found is not None:  # kernels give latents in any order
            latents, order = latents.sort(-1)
            values = values.gather(-1, order)
        order = (values.abs() if by_size else values).argsort(dim=-1, descending=True, stable=True)
        values, latents = values.gather(-1, order), latents.gather(-1, order)
    return Codes.fixed(values, latents, d_sae)


class _Choice(NamedTuple):
    k: int
    by_size: bool


@torch.no_grad()
def above(
    x: Float[Tensor, "n d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, "d_sae"],
    threshold: Float[Tensor, "*d_sae"],
) -> Codes:
    """Return the pre-activations strictly above a threshold (one, or one a latent)."""
    limit = threshold if threshold.ndim == 0 else threshold.expand(len(b_enc))
    found = gpu.run("choose", "above", x, W_enc.t(), b_enc, limit)
    if found is not None:
        values, rows, latents = found
        return sparse.chosen_codes(values, rows, latents, len(x), len(b_enc))
    screen = Screen.of(x, W_enc, b_enc) if _screened(x, W_enc) else None
    parts = []
    for first in range(0, max(len(x), 1), CHUNK_TOKENS):
        part, found = slice(first, first + CHUNK_TOKENS), None
        if screen is not None:
            found = screen.above(part, threshold)
        if found is None:  # not sparse: a bfloat16 product does not pay, here or further on
            found, screen = _dense_above(x[part], W_enc, b_enc, threshold), None
        parts.append(found)
    return Codes.cat(parts)


def _screened(x: Tensor, W_enc: Tensor) -> bool:
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and len(x) >= SCREENED_TOKENS
        and W_enc.shape[1] >= SCREENED_LATENTS
        and machine.bfloat16_products()
    )


def _buffer(x: Tensor, d_sae: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(min(len(x), CHUNK_TOKENS), d_sae, dtype=dtype, device=x.device)


def _dense_top(x: Tensor, W_enc: Tensor, b_enc: Tensor, how: _Choice) -> tuple[Tensor, Tensor]:
    values = x.new_empty(len(x), how.k)
    latents = torch.empty(values.shape, dtype=torch.int64, device=x.device)
    buffer = _buffer(x, len(b_enc), x.dtype)
    for first in range(0, len(x), CHUNK_TOKENS):
        part = slice(first, min(first + CHUNK_TOKENS, len(x)))
        pre = products.linear(x[part], W_enc.t(), b_enc, out=buffer[: part.stop - part.start])
        top = ties.top_places(pre.abs() if how.by_size else pre, how.k)
        values[part], latents[part] = pre.gather(-1, top), top
    return values, latents


def _dense_above(x: Tensor, W_enc: Tensor, b_enc: Tensor, threshold: Tensor) -> Codes:
    pre = products.linear(x, W_enc.t(), b_enc)
    rows, latents = (pre > threshold).nonzero(as_tuple=True)
    return sparse.chosen_codes(pre[rows, latents], rows, latents, len(x), len(b_enc))


class Screen(NamedTuple):
    """A product in bfloat16 with a bound on its error.

    With x' and w' the rounded numbers, |x . w - x' . w'| is at most |x - x'| |w'| + |x| |w - w'|,
    of which both errors are measured, not assumed. Beside this a score is rounded itself, to
    within 1/256 of its size.
    """

    x: Float[Tensor, "n d_in"]
    W: Float[Tensor, "d_sae d_in"]
    b: Float[Tensor, "d_sae"]
    rounded_x: Tensor
    packed_W: Tensor  # rounded, in the order that the product reads
    rounded_b: Tensor
    error: Float[Tensor, "n"]  # of a score before it is rounded

    @classmethod
    def of(
        cls, x: Float[Tensor, "n d_in"], W_enc: Float[Tensor, "d_in d_sae"], b: Tensor
    ) -> "Screen":
        """Round inputs and weights, and measure what that changes."""
        W = W_enc.t()
        low_x, (size, _, off_x) = _rounded(x)
        low_W, (_, length, off) = _rounded(W)
        # Squares and products of tiny numbers vanish; lengths of at least this cover what they
        # would have added, a smallest normal number for each of them.
        least = torch.tensor(2 * x.shape[-1] * TINY).sqrt()
        size, off_x, length, off = (torch.hypot(r, least) for r in (size, off_x, length, off))
        low_b = b.bfloat16()
        error = off_x * length.max() + size * off.max()
        error += size * length.max() * (2 * x.shape[-1] * 2.0**-24)  # float32 sums, both products
        error += (b - low_b.float()).abs().max()
        packed = torch.ops.mkldnn._reorder_linear_weight(low_W, min(len(x), CHUNK_TOKENS))
        return cls(x, W, b, low_x, packed, low_b, error * (1 + 2.0**-6))

    def rows(self, part: slice | Int[Tensor, "m"]) -> "Screen":
        """Return the screen of some rows."""
        return self._replace(x=self.x[part], rounded_x=self.rounded_x[part], error=self.error[part])

    def scores(self, part: slice) -> Tensor:
        """Return the product of some rows."""
        op = torch.ops.mkldnn._linear_pointwise
        return op(self.rounded_x[part], self.packed_W, self.rounded_b, "none", [], "")

    def exact(self, latents: Int[Tensor, "nnz"], starts: Int[Tensor, "n_and_one"]) -> Tensor:
        """Return the float32 pre-activations at some places."""
        return sparse.dots(self.x, self.W, latents, starts).add_(self.b[latents])

    def above(self, part: slice, threshold: Tensor) -> Codes | None:
        """Return what is above a threshold; None where that is too much to be called sparse."""
        scores = self.scores(part)
        least = threshold - threshold.abs() * (1.01 / 256)
        least = least.expand(len(self.b)).contiguous()
        margin = self.error[part] * (1 + 1.01 / 256)
        room = int(sparse.DENSE_SHARE * scores.numel())
        found = _above_candidates(scores, margin, least, room)
        if found is None:
            return None
        latents, counts = found
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        values = self.rows(part).exact(latents, starts)
        codes = Codes(values, latents, starts, (len(scores),), len(self.b))
        limit = threshold if threshold.ndim == 0 else threshold[latents]
        return codes.only(values > limit)


def _rounded(rows: Float[Tensor, "n width"]) -> tuple[Tensor, Tensor]:
    """Return rows in bfloat16, and the lengths of the rows, the rounded rows and the errors."""
    if machine.native_kernels() and rows.is_contiguous():
        from saekit.kernels import native

        return native.rounded(rows)
    low, lengths = torch.empty(rows.shape, dtype=torch.bfloat16), torch.empty(3, len(rows))
    for first in range(0, len(rows), CHUNK_LATENTS):  # chunks stay in cache
        part = slice(first, first + CHUNK_LATENTS)
        low[part] = rows[part]
        back = low[part].float()
        lengths[0, part], lengths[1, part] = rows[part].norm(dim=-1), back.norm(dim=-1)
        lengths[2, part] = back.sub_(rows[part]).norm(dim=-1)
    return low, lengths


def _above_candidates(
    scores: Tensor, margin: Tensor, least: Tensor, room: int
) -> tuple[Tensor, Tensor] | None:
    """Return places with ``score + margin > least``; None where there are over `room`."""
    if machine.native_kernels():
        from saekit.kernels import native

        return native.above_candidates(scores, margin, least, room)
    on = ~(scores.float().add_(margin[:, None]) <= least)
    counts = on.sum(-1)
    if int(counts.sum()) > room:
        return None
    return on.nonzero(as_tuple=True)[1], counts


def _screened_top(x: Tensor, W_enc: Tensor, b_enc: Tensor, how: _Choice) -> tuple[Tensor, Tensor]:
    """Return values and latents of the k largest, by latent: none that is not proved."""
    screen = Screen.of(x, W_enc, b_enc)
    pick = _native_top if machine.native_kernels() else _torch_top
    values = x.new_empty(len(x), how.k)
    latents = torch.empty(values.shape, dtype=torch.int64)
    for first in range(0, len(x), GROUP_TOKENS):
        part = slice(first, min(first + GROUP_TOKENS, len(x)))
        values[part], latents[part], sure = pick(screen.rows(part), how)
        unsure = (~sure).nonzero().squeeze(-1) + part.start
        if len(unsure):
            places = _dense_top(x[unsure], W_enc, b_enc, how)[1]
            starts = torch.arange(len(unsure) + 1) * how.k
            exact = screen.rows(unsure).exact(places.view(-1), starts)
            values[unsure], latents[unsure] = exact.view(-1, how.k), places
    return values, latents


def _native_top(screen: Screen, how: _Choice) -> tuple[Tensor, Tensor, Tensor]:
    """Return values and latents of the k largest, by latent, and which rows are sure."""
    from saekit.kernels import native

    n, d_sae, k = len(screen.x), len(screen.b), how.k
    found = torch.empty(n, 8 * k + 64, dtype=torch.int32)
    counts = torch.empty(n, dtype=torch.int64)
    for first in range(0, n, CHUNK_TOKENS):
        part = slice(first, min(first + CHUNK_TOKENS, n))
        margin = 2 * screen.error[part]
        native.top_candidates(
            screen.scores(part), margin, k, how.by_size, found[part], counts[part]
        )
    sure = counts >= 0
    # A row that could not be screened takes any k places here and is done again.
    counts.masked_fill_(~sure, k)
    found[:, :k].clamp_(0, d_sae - 1)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    places = native.packed(found, starts)
    values = screen.exact(places, starts)
    top = native.top_of_rows(values, starts, k, by_size=how.by_size)
    return values[top], places[top], sure


def _torch_top(screen: Screen, how: _Choice) -> tuple[Tensor, Tensor, Tensor]:
    """Return values and latents of the k largest, by latent, and which rows are sure."""
    n, d_sae, k = len(screen.x), len(screen.b), how.k
    wide = min(WIDE * k, d_sae)
    places = torch.empty(n, wide, dtype=torch.int64)
    left = torch.empty(n)  # the score that no latent left out exceeds
    for first in range(0, n, CHUNK_TOKENS):
        part = slice(first, min(first + CHUNK_TOKENS, n))
        scores = screen.scores(part)
        sizes = scores.abs() if how.by_size else scores
        found = torch.topk(sizes, wide, dim=-1, sorted=False)
        places[part] = found.indices.sort(-1).values
        left[part] = found.values.amin(-1).float()
    starts = torch.arange(len(places) + 1) * wide
    values = screen.exact(places.view(-1), starts).view(-1, wide)
    sizes = values.abs() if how.by_size else values
    order = ties.top_places(sizes, k)  # places ascend, so of equals the lowest latents are kept
    sure = left + left.abs() / 256 + screen.error < sizes.gather(-1, order).amin(-1)
    return values.gather(-1, order), places.gather(-1, order), sure
