"""GPU kernels that choose latents without writing pre-activations: encode and select in one.

Choosing needs only to know which latents could belong; their values are then computed in
float32, from the weights as they are. Scores are computed in bfloat16 with float32 sums. With
x = x' + dx and w = w' + dw, where x' and w' are the rounded ones,

    |x . w - x' . w'| = |dx . w + x' . dw| <= |dx| |w| + |x'| |dw|

by Cauchy and Schwarz, so each score comes with a bound on its error that is known, not
guessed. What is compared are upper bounds; a latent is dropped only where its upper bound is
below what is surely reached. Chosen sets are therefore those of float32, where sums of
another order may differ by rounding and swap latents as close as that.

See `_triton` for the types taken and for how results are kept the same from run to run.

Source:
    Gao et al. 2024, arXiv:2406.04093, section 2.3 (TopK). The screening is this project's.
"""

import math
from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from saekit.kernels.ties import top_places
from saekit.kernels.triton.bounds import (
    BLOCK_N,
    LEAST,
    PIPELINE,
    Rounded,
    kth_key,
    norm_factor,
    rounded_rows,
    tile_of,
    tiling,
    to_key,
    to_score,
    upper_bounds,
)
from saekit.kernels.triton.maps import (
    INTERPRETED,
    LAUNCH,
    Unsupported,
    dot_into,
    gather_share,
    require,
)

MOST_KEPT = 24  # entries a tile keeps; more cost more than writing pre-activations
WIDEST = 2**15  # candidates of a token that one program sorts out
PART_TOKENS, DENSE_TOKENS = 2**14, 2**9  # tokens at a time: candidates, pre-activations


class TooDense(Unsupported):
    """So many latents are above the threshold that plain products are faster: no news."""


class Chosen(NamedTuple):
    """The k largest pre-activations of each token."""

    values: Float[Tensor, "n k"]  # float32, act units
    latents: Int[Tensor, "n k"]  # int64, in no particular order, the same from run to run
    recomputed: int  # tokens that no bound could decide, done again densely


@triton.jit
@no_type_check
def _best_of_tiles(  # noqa: PLR0913
    x,
    x_norm,
    x_off,
    weight,
    w_norm,
    w_off,
    bias,
    keys,
    n,
    d_in,
    d_sae,
    KEPT: tl.constexpr,
    BY_SIZE: tl.constexpr,
    WIDEN: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    tiles_m, tiles_n = tl.cdiv(n, BLOCK_M), tl.cdiv(d_sae, BLOCK_N)
    tile_m, tile_n = tile_of(tl.program_id(0), tiles_m, tiles_n, GROUP)
    upper = upper_bounds(
        x,
        x_norm,
        x_off,
        weight,
        w_norm,
        w_off,
        bias,
        n,
        d_in,
        d_sae,
        tile_m,
        tile_n,
        BY_SIZE,
        WIDEN,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )
    # The lowest bits of a key say which latent: one maximum finds score and place at once, and
    # no two keys of a row are equal.
    place = tl.arange(0, BLOCK_N)
    key = (to_key(upper) & -BLOCK_N) | (BLOCK_N - 1 - place)[None, :]
    key = tl.where((tile_n * BLOCK_N + place < d_sae)[None, :], key, LEAST)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    out = keys + (rows.to(tl.int64) * tiles_n + tile_n) * KEPT
    for i in range(KEPT):
        best = tl.max(key, axis=1)
        tl.store(out + i, best, mask=rows < n)
        key = tl.where(key == best[:, None], LEAST, key)


@triton.jit
@no_type_check
def _latent_of(key, at, KEPT: tl.constexpr, BLOCK_N: tl.constexpr):
    return (at // KEPT) * BLOCK_N + (BLOCK_N - 1 - (key & (BLOCK_N - 1)))


@triton.jit
@no_type_check
def _first_k(  # noqa: PLR0913
    keys,
    candidates,
    counts,
    lowest,
    n_keys,
    k,
    KEPT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ROOM: tl.constexpr,
    PADDED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, PADDED)
    key = tl.load(keys + row * n_keys + at, mask=at < n_keys, other=LEAST)
    kth = kth_key(key, k)
    # Tiles may hold equal keys, so there may be more than k.
    slot = tl.cumsum((key >= kth).to(tl.int32), axis=0) - 1
    first = (key >= kth) & (key > LEAST) & (slot < ROOM)
    tl.store(candidates + row * ROOM + slot, _latent_of(key, at, KEPT, BLOCK_N), mask=first)
    tl.store(counts + row, tl.sum(first.to(tl.int32), axis=0))
    tl.store(lowest + row, kth)


@triton.jit
@no_type_check
def _others_that_could(  # noqa: PLR0913
    keys,
    candidates,
    counts,
    lowest,
    scores,
    bias,
    ends,
    undecided,
    n_keys,
    k,
    BY_SIZE: tl.constexpr,
    KEPT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ROOM: tl.constexpr,
    PADDED: tl.constexpr,
    ROOM_PADDED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    done = tl.load(counts + row)
    at = tl.arange(0, ROOM_PADDED)
    there = at < done
    latent = tl.load(candidates + row * ROOM + at, mask=there, other=0)
    value = tl.load(scores + row * ROOM + at, mask=there, other=0.0)
    value += tl.load(bias + latent, mask=there, other=0.0).to(tl.float32)
    value = tl.abs(value) if BY_SIZE else value
    reached = kth_key(tl.where(there, to_key(value), LEAST), k)
    lost = tl.sum((there & ((value != value) | (tl.abs(value) == float("inf")))).to(tl.int32), 0)

    at = tl.arange(0, PADDED)
    key = tl.load(keys + row * n_keys + at, mask=at < n_keys, other=LEAST)
    could = (key > LEAST) & ((key | (BLOCK_N - 1)) >= reached)
    last = could & (at % KEPT == KEPT - 1)  # the tile may hold more that could
    lost += tl.sum((last | (to_score(key & -BLOCK_N) == float("inf"))).to(tl.int32), axis=0)
    more = could & (key < tl.load(lowest + row))
    slot = done + tl.cumsum(more.to(tl.int32), axis=0) - 1
    end = done + tl.sum(more.to(tl.int32), axis=0)
    latent = _latent_of(key, at, KEPT, BLOCK_N)
    tl.store(candidates + row * ROOM + slot, latent, mask=more & (slot < ROOM))
    tl.store(ends + row, tl.minimum(end, ROOM))
    full = (end > ROOM) | ((done == ROOM) & (n_keys > ROOM))
    tl.store(undecided + row, ((lost > 0) | full | (reached == LEAST)).to(tl.int8))


@triton.jit
@no_type_check
def _keep_k(  # noqa: PLR0913
    scores,
    candidates,
    counts,
    bias,
    values,
    latents,
    k,
    BY_SIZE: tl.constexpr,
    ROOM: tl.constexpr,
    PADDED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, PADDED)
    there = at < tl.load(counts + row)
    latent = tl.load(candidates + row * ROOM + at, mask=there, other=0)
    value = tl.load(scores + row * ROOM + at, mask=there, other=0.0)
    value += tl.load(bias + latent, mask=there, other=0.0).to(tl.float32)
    value = tl.where(value == 0.0, 0.0, value)  # both zeros are equal
    key = tl.where(there, to_key(tl.abs(value) if BY_SIZE else value), LEAST)
    kth = kth_key(key, k)
    surely, level = key > kth, there & (key == kth)
    room = k - tl.sum(surely.to(tl.int32), axis=0)
    # Of equals the lowest latents are kept: those whose negative is among the largest.
    before = tl.where(level, -latent, LEAST)
    kept = surely | (level & (before >= kth_key(before, room)))
    slot = tl.cumsum(kept.to(tl.int32), axis=0) - 1
    tl.store(values + row * k + slot, value, mask=kept)
    tl.store(latents + row * k + slot, latent.to(tl.int64), mask=kept)


@triton.jit
@no_type_check
def _mark(  # noqa: PLR0913
    x,
    x_norm,
    x_off,
    weight,
    w_norm,
    w_off,
    bias,
    threshold,
    words,
    counts,
    n,
    d_in,
    d_sae,
    each,
    WIDEN: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    tiles_m, tiles_n = tl.cdiv(n, BLOCK_M), tl.cdiv(d_sae, BLOCK_N)
    tile_m, tile_n = tile_of(tl.program_id(0), tiles_m, tiles_n, GROUP)
    upper = upper_bounds(
        x,
        x_norm,
        x_off,
        weight,
        w_norm,
        w_off,
        bias,
        n,
        d_in,
        d_sae,
        tile_m,
        tile_n,
        False,
        WIDEN,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    level = tl.load(threshold + cols * each, mask=cols < d_sae, other=0.0).to(tl.float32)
    could = ((upper > level[None, :]) & (cols < d_sae)[None, :]).to(tl.int32)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    place = rows.to(tl.int64) * tiles_n + tile_n
    tl.store(counts + place, tl.sum(could, axis=1), mask=rows < n)
    # A bit a latent: 1/32 of what pre-activations would take.
    bits = tl.reshape(could, [BLOCK_M, BLOCK_N // 32, 32]) << tl.arange(0, 32)[None, None, :]
    word = tl.arange(0, BLOCK_N // 32)
    out = words + place[:, None] * (BLOCK_N // 32) + word[None, :]
    tl.store(out, tl.sum(bits, axis=2), mask=(rows < n)[:, None])


@triton.jit
@no_type_check
def _list(words, ends, latents, tiles_n, BLOCK_N: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK_N)
    for tile in range(tiles_n):
        at = row * tiles_n + tile
        end = tl.load(ends + at)
        begin = tl.load(ends + at - 1, mask=at > 0, other=0)
        if end > begin:
            word = tl.load(words + at * (BLOCK_N // 32) + place // 32)
            on = (word >> (place % 32)) & 1
            slot = begin + tl.cumsum(on, axis=0) - 1
            tl.store(latents + slot, (tile * BLOCK_N + place).to(tl.int64), mask=on > 0)


def top_latents(
    x: Float[Tensor, "n d_in"],
    W_enc_t: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, "d_sae"],
    k: int,
    *,
    by_size: bool = False,
    margin: float = 1.0,
) -> Chosen:
    """Return the k largest pre-activations of each token, before any non-linearity.

    Each tile of 128 latents keeps its few largest upper bounds. The k largest of all are
    computed in float32, then the others that reach the least of these values, and the k
    largest are the answer.
    Where a tile may have dropped one of them, or something is not finite, the token is done
    again densely, where NaN counts as the largest. Of equals the lowest latents are kept.

    Args:
        x: act units, contiguous.
        W_enc_t: latent-major encoder, contiguous.
        b_enc: act units.
        k: entries a token.
        by_size: largest in absolute value; the sign stays.
        margin: share of the bound that is reckoned with. 1 is safe; the largest errors seen
            in simulation were a fifth of the bound, and less of it means fewer values to
            compute.

    Raises:
        Unsupported: see `_triton.require`; or k is a large share of the latents, or these are
            too many.
    """
    require(x=x, W_enc_t=W_enc_t, b_enc=b_enc)
    n, d_sae = len(x), len(W_enc_t)
    kept = _kept(k, d_sae)
    values = torch.empty(n, k, dtype=torch.float32, device=x.device)
    latents = torch.empty(n, k, dtype=torch.int64, device=x.device)
    undecided = torch.zeros(n, dtype=torch.int8, device=x.device)
    if not n:
        return Chosen(values, latents, 0)
    rounded = rounded_rows(W_enc_t)
    for first in range(0, n, PART_TOKENS):
        part = slice(first, min(first + PART_TOKENS, n))
        _choose(
            x[part],
            W_enc_t,
            b_enc,
            rounded,
            (k, kept, by_size, margin),
            (values[part], latents[part], undecided[part]),
        )
    again = undecided.nonzero().squeeze(-1)  # the one wait for the device
    if len(again):
        weight, bias = W_enc_t.float().t(), b_enc.float()
        for rows in again.split(DENSE_TOKENS):
            pre = torch.addmm(bias, x[rows].float(), weight)
            top = top_places(pre.abs() if by_size else pre, k)
            latents[rows], values[rows] = top, pre.gather(-1, top)
    return Chosen(values, latents, len(again))


def above(
    x: Float[Tensor, "n d_in"],
    W_enc_t: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, "d_sae"],
    threshold: Float[Tensor, "*d_sae"],
) -> tuple[Float[Tensor, "nnz"], Int[Tensor, "nnz"], Int[Tensor, "nnz"]]:
    """Return pre-activations strictly above a threshold, one or one a latent.

    Latents whose upper bound is above it are marked, a bit each, then listed and computed in
    float32. NaN is not above anything.

    Args:
        x: act units, contiguous.
        W_enc_t: latent-major encoder, contiguous.
        b_enc: act units.
        threshold: act units.

    Returns:
        Values in float32, their tokens and their latents, sorted by token, then latent.

    Raises:
        Unsupported: see `_triton.require`.
        TooDense: so many may be above that plain products are faster.
    """
    require(x=x, W_enc_t=W_enc_t, b_enc=b_enc, threshold=threshold)
    parts = []
    weight = rounded_rows(W_enc_t)
    for first in range(0, len(x), PART_TOKENS):
        values, rows, latents = _above(
            x[first : first + PART_TOKENS], W_enc_t, b_enc, weight, threshold
        )
        parts.append((values, rows + first, latents))
    if not parts:
        none = torch.empty(0, dtype=torch.int64, device=x.device)
        return torch.empty(0, device=x.device), none, none
    values, rows, latents = (torch.cat(p) for p in zip(*parts, strict=True))
    return values, rows, latents


def _kept(k: int, d_sae: int) -> int:
    """How many each tile keeps: so many that random places seldom crowd more into one."""
    share = k * BLOCK_N / d_sae
    kept = min(math.ceil(share + 5 * math.sqrt(share) + 4), BLOCK_N)
    tiles = triton.cdiv(d_sae, BLOCK_N)
    if kept > MOST_KEPT or tiles * kept < k:
        raise Unsupported(f"k={k} of d_sae={d_sae} is too large a share to select by tiles.")
    if triton.next_power_of_2(tiles * kept) > WIDEST:
        raise Unsupported(f"d_sae={d_sae} is too wide to select by tiles with k={k}.")
    return kept


def _choose(
    x: Tensor,
    W_enc_t: Tensor,
    b_enc: Tensor,
    weight: Rounded,
    how: tuple[int, int, bool, float],
    out: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Fill values, latents and the marks of undecided tokens."""
    (k, kept, by_size, margin), (values, latents, undecided) = how, out
    n, (d_sae, d_in) = len(x), W_enc_t.shape
    few, by_norm, tiles = rounded_rows(x, margin), norm_factor(weight), triton.cdiv(d_sae, BLOCK_N)
    n_keys, room = tiles * kept, min(4 * k + 32, tiles * kept)
    keys = torch.empty(n, n_keys, dtype=torch.int32, device=x.device)
    grid, sizes = tiling(n, d_sae)
    _best_of_tiles[grid](
        few.rows,
        few.norm,
        few.off,
        weight.rows,
        weight.norm,
        by_norm,
        b_enc,
        keys,
        n,
        d_in,
        d_sae,
        KEPT=kept,
        BY_SIZE=by_size,
        WIDEN=INTERPRETED,
        **sizes,
        **PIPELINE,
    )
    candidates = torch.empty(n, room, dtype=torch.int32, device=x.device)
    counts, lowest, ends = torch.empty(3, n, dtype=torch.int32, device=x.device)
    padded = triton.next_power_of_2(n_keys)
    tiles_of = {"KEPT": kept, "BLOCK_N": BLOCK_N, "ROOM": room, "PADDED": padded}
    wide = LAUNCH | {"num_warps": min(max(padded // 512, 4), 16)}
    starts = torch.arange(n, device=x.device) * room
    scores = torch.empty(n * room, dtype=torch.float32, device=x.device)
    _first_k[(n,)](keys, candidates, counts, lowest, n_keys, k, **tiles_of, **wide)
    dot_into(scores, x, W_enc_t, candidates, starts, starts + counts)
    room_padded = triton.next_power_of_2(room)
    _others_that_could[(n,)](
        keys,
        candidates,
        counts,
        lowest,
        scores,
        b_enc,
        ends,
        undecided,
        n_keys,
        k,
        BY_SIZE=by_size,
        ROOM_PADDED=room_padded,
        **tiles_of,
        **wide,
    )
    dot_into(scores, x, W_enc_t, candidates, starts + counts, starts + ends)
    _keep_k[(n,)](
        scores,
        candidates,
        ends,
        b_enc,
        values,
        latents,
        k,
        BY_SIZE=by_size,
        ROOM=room,
        PADDED=room_padded,
        **LAUNCH,
    )


def _above(
    x: Tensor, W_enc_t: Tensor, b_enc: Tensor, weight: Rounded, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n, (d_sae, d_in) = len(x), W_enc_t.shape
    few, tiles = rounded_rows(x), triton.cdiv(d_sae, BLOCK_N)
    words = torch.empty(n, tiles, BLOCK_N // 32, dtype=torch.int32, device=x.device)
    counts = torch.empty(n, tiles, dtype=torch.int32, device=x.device)
    grid, sizes = tiling(n, d_sae)
    _mark[grid](
        few.rows,
        few.norm,
        few.off,
        weight.rows,
        weight.norm,
        norm_factor(weight),
        b_enc,
        threshold,
        words,
        counts,
        n,
        d_in,
        d_sae,
        int(threshold.numel() > 1),
        WIDEN=INTERPRETED,
        **sizes,
        **PIPELINE,
    )
    ends = counts.view(-1).cumsum(0)
    nnz = int(ends[-1])
    if nnz > gather_share(W_enc_t.dtype, "fp32") * n * d_sae and nnz > BLOCK_N * n:
        raise TooDense(f"{nnz:,} of {n * d_sae:,} pre-activations may be above the threshold.")
    latents = torch.empty(nnz, dtype=torch.int64, device=x.device)
    _list[(n,)](words, ends, latents, tiles, BLOCK_N=BLOCK_N, **LAUNCH)
    starts = torch.cat([ends.new_zeros(1), ends[tiles - 1 :: tiles]])
    index = torch.arange(n, device=x.device)
    rows = torch.repeat_interleave(index, starts.diff(), output_size=nnz)
    values = torch.empty(nnz, dtype=torch.float32, device=x.device)
    dot_into(values, x, W_enc_t, latents, starts[:-1], starts[1:])
    values += b_enc[latents]
    on = values > (threshold[latents] if threshold.ndim else threshold)
    return values[on], rows[on], latents[on]
