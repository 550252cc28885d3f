"""What choosing on a GPU begins with: rounded rows, bounds of scores, and keys to compare.

See `_triton_choose` for what the bounds are for.
"""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from saekit.kernels.triton.maps import LAUNCH, block_of

BLOCK_N, BLOCK_K, GROUP = 128, 64, 8  # latents and inputs of a tile; tiles of tokens in a band
LEAST = tl.constexpr(-(2**31))  # the key below all others
BITS = tl.constexpr(0x7FFFFFFF)  # of a float but its sign
ROUNDING = 2.0**-23  # of one float32 addition, as tensor cores do it
SLACK = 1.001  # norms are themselves rounded
PIPELINE = LAUNCH | {"num_warps": 8, "num_stages": 3}


class Rounded(NamedTuple):
    """Rows in bfloat16, and what their errors are bounded by, never 0."""

    rows: Tensor  # [n, width] bfloat16
    norm: Tensor  # [n] float32, |row|, or |rounded row|, whichever is larger
    off: Tensor  # [n] float32, |row - rounded row|


@triton.jit
@no_type_check
def _sizes(rows, rounded, norm, off, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    full = tl.full([BLOCK], 0.0, tl.float32)
    low = tl.full([BLOCK], 0.0, tl.float32)
    left = tl.full([BLOCK], 0.0, tl.float32)
    for at in range(0, width, BLOCK):
        cols = at + tl.arange(0, BLOCK)
        inside = cols < width
        x = tl.load(rows + row * width + cols, mask=inside, other=0.0).to(tl.float32)
        x_low = tl.load(rounded + row * width + cols, mask=inside, other=0.0).to(tl.float32)
        full += x * x
        low += x_low * x_low
        left += (x - x_low) * (x - x_low)
    # Squares and products of tiny numbers vanish: a smallest normal number for each covers that.
    lost = width * 2.0**-125
    longer = tl.maximum(tl.sum(full, axis=0), tl.sum(low, axis=0))
    tl.store(norm + row, tl.sqrt(longer + lost))
    tl.store(off + row, tl.sqrt(tl.sum(left, axis=0) + lost))


@triton.jit
@no_type_check
def to_key(score):
    """Integers in the order of floats."""
    bits = score.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & BITS)


@triton.jit
@no_type_check
def to_score(key):
    """Inverse of `to_key`."""
    return (key ^ ((key >> 31) & BITS)).to(tl.float32, bitcast=True)


@triton.jit
@no_type_check
def kth_key(keys, k):
    """The k-th largest of some keys, bit by bit from the top; LEAST where there are fewer."""
    found = tl.where(tl.sum((keys >= 0).to(tl.int32), axis=0) >= k, 0, LEAST)
    for step in range(31):
        higher = found + (1 << (30 - step))
        found = tl.where(tl.sum((keys >= higher).to(tl.int32), axis=0) >= k, higher, found)
    return found


@triton.jit
@no_type_check
def upper_bounds(  # noqa: PLR0913
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
    BY_SIZE: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Upper bounds of the pre-activations of a tile: [BLOCK_M, BLOCK_N]; infinite for NaN."""
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    x_at = x + rows.to(tl.int64)[:, None] * d_in
    w_at = weight + cols.to(tl.int64)[None, :] * d_in
    total = tl.full([BLOCK_M, BLOCK_N], 0.0, tl.float32)
    for at in range(0, d_in, BLOCK_K):
        inner = at + tl.arange(0, BLOCK_K)
        a = tl.load(
            x_at + inner[None, :], mask=(rows < n)[:, None] & (inner < d_in)[None, :], other=0.0
        )
        b = tl.load(
            w_at + inner[:, None], mask=(cols < d_sae)[None, :] & (inner < d_in)[:, None], other=0.0
        )
        if WIDEN:  # the interpreter multiplies bfloat16 numbers as if they were integers
            a, b = a.to(tl.float32), b.to(tl.float32)
        total = tl.dot(a, b, total, input_precision="ieee")
    total += tl.load(bias + cols, mask=cols < d_sae, other=0.0).to(tl.float32)[None, :]
    if BY_SIZE:
        total = tl.abs(total)
    norm = tl.load(x_norm + rows, mask=rows < n, other=0.0)
    off = tl.load(x_off + rows, mask=rows < n, other=0.0)
    by_off = tl.load(w_norm + cols, mask=cols < d_sae, other=0.0)
    by_norm = tl.load(w_off + cols, mask=cols < d_sae, other=0.0)
    total += off[:, None] * by_off[None, :] + norm[:, None] * by_norm[None, :]
    total += tl.abs(total) * 2.0**-21  # a large bias is rounded too
    return tl.where(total == total, total, float("inf"))


@triton.jit
@no_type_check
def tile_of(program, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Tiles in bands of GROUP tiles of tokens, so that weights read once serve a band."""
    band = program // (GROUP * tiles_n)
    height = tl.minimum(tiles_m - band * GROUP, GROUP)
    within = program % (GROUP * tiles_n)
    return band * GROUP + within % height, within // height


def rounded_rows(rows: Tensor, margin: float = 1.0) -> Rounded:
    """Round to bfloat16, with the sizes that bound errors, times a margin."""
    low = rows.to(torch.bfloat16)
    norm = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    off = torch.empty_like(norm)
    if len(rows):
        width = rows.shape[1]
        _sizes[(len(rows),)](rows, low, norm, off, width, block_of(width), **LAUNCH)
    return Rounded(low, norm * (SLACK * margin), off * (SLACK * margin))


def norm_factor(weight: Rounded) -> Tensor:
    """What |x| is multiplied by in the bound: the error of weights and that of the sum."""
    return weight.off + weight.norm * (weight.rows.shape[1] * ROUNDING)


def tiling(n: int, d_sae: int) -> tuple[tuple[int], dict[str, int]]:
    """Programs and sizes of the encoder's product."""
    block = 128 if n >= 128 else 64
    sizes = {"BLOCK_M": block, "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K, "GROUP": GROUP}
    return (triton.cdiv(n, block) * triton.cdiv(d_sae, BLOCK_N),), sizes
