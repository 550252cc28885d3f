"""GPU kernels for the linear maps of an SAE on codes: what `_sparse` does, in Triton.

Optional: needs `triton`, so this file is imported only where a kernel is used. Each function
takes CUDA tensors, or, where this file was imported with TRITON_INTERPRET=1, CPU tensors, in
float16, bfloat16 or float32; it adds in float32, and the result has the wider type of what
went in. Sums run in a fixed order, without atomics: the same input gives the same bits.

NaN and infinities spread as in a dense product over the entries present; an entry whose value
is 0 and whose row is NaN gives NaN.

A gather moves bytes where a dense product does arithmetic: see `gather_share`.

Source:
    Gao et al. 2024, arXiv:2406.04093, section 2.3 and appendix D (sparse decoder kernels).
    Differs: blocks of the width without padding to a power of two; entries in tiles; sums by
    latent instead of atomics, long ones in two levels.
"""

from typing import Literal, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

ENTRIES = 8  # rows gathered at once by one program
SEGMENT = 256  # entries of a latent that one program adds; more are added in two levels
TYPES = (torch.float32, torch.bfloat16, torch.float16)
LAUNCH = {"num_warps": 4, "enable_fp_fusion": True}  # fusion is said, or Triton 3.9 warns
Product = Literal["bf16", "tf32", "fp32"]
RATES = {"bf16": 7.9e14, "tf32": 3.95e14, "fp32": 6.7e13}  # operations/s of an H200
BANDWIDTH = 4.3e12  # bytes/s of its memory


class Unsupported(Exception):
    """A kernel does not take these tensors; the reference does."""


def require(**tensors: Tensor) -> None:
    """Refuse tensors that kernels cannot read; integers may be of any width.

    Raises:
        Unsupported: one is on a CPU, of another floating type, or strided.
    """
    for name, tensor in tensors.items():
        if not (tensor.is_cuda or INTERPRETED):
            raise Unsupported(f"`{name}` is on {tensor.device}; kernels take CUDA tensors.")
        if tensor.is_floating_point() and tensor.dtype not in TYPES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise Unsupported(f"`{name}` is {kind}; kernels take float32, bfloat16 and float16.")
        if not tensor.is_contiguous():
            raise Unsupported(
                f"`{name}` has shape {tuple(tensor.shape)} and strides {tensor.stride()}; kernels "
                f"take contiguous tensors."
            )
    if len({t.device for t in tensors.values()}) > 1:
        where = {name: str(t.device) for name, t in tensors.items()}
        raise Unsupported(f"Tensors are on different devices: {where}.")


def gather_share(rows: torch.dtype, product: Product) -> float:
    """Return the share of non-zeros below which a gather should beat the dense product.

    2 operations a number and latent at the product's rate, against the bytes of a gathered
    number at memory's: 1/184 for bfloat16 against bfloat16, 1/92 for bfloat16 and 1/184 for
    float32 against TF32, 1/31 for float32 against float32. Computed for an H200 from rates of
    its memory, not measured; a matrix that stays in L2 gains up to 1.6 times more.

    Args:
        rows: type of what is gathered.
        product: how the dense product would be computed.
    """
    return 2 / RATES[product] * BANDWIDTH / rows.itemsize


def block_of(width: int) -> int:
    """Return the block that covers a width with the least waste; of equals the largest."""
    return min((256, 128, 64), key=lambda block: (-(-width // block) * block, -block))


@triton.jit
@no_type_check  # the import hook of the tests must not wrap what Triton compiles
def _decode(  # noqa: PLR0913
    values, latents, starts, weight, out, width, ENTRIES: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < width
    first, end = tl.load(starts + row), tl.load(starts + row + 1)
    total = tl.full([BLOCK], 0.0, tl.float32)
    for at in range(first, end, ENTRIES):
        entries = at + tl.arange(0, ENTRIES)
        there = entries < end
        latent = tl.load(latents + entries, mask=there, other=0).to(tl.int64)
        value = tl.load(values + entries, mask=there, other=0.0).to(tl.float32)
        part = tl.load(
            weight + latent[:, None] * width + cols[None, :],
            mask=there[:, None] & inside[None, :],
            other=0.0,
        ).to(tl.float32)
        total += tl.sum(value[:, None] * part, axis=0)
    tl.store(out + row * width + cols, total, mask=inside)


@triton.jit
@no_type_check
def _dot(  # noqa: PLR0913
    rows, weight, latents, starts, ends, out, width, ENTRIES: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    first, end = tl.load(starts + row), tl.load(ends + row)
    for at in range(first, end, ENTRIES):
        entries = at + tl.arange(0, ENTRIES)
        there = entries < end
        latent = tl.load(latents + entries, mask=there, other=0).to(tl.int64)
        total = tl.full([ENTRIES, BLOCK], 0.0, tl.float32)
        for left in range(0, width, BLOCK):
            cols = left + tl.arange(0, BLOCK)
            inside = cols < width
            x = tl.load(rows + row * width + cols, mask=inside, other=0.0).to(tl.float32)
            part = tl.load(
                weight + latent[:, None] * width + cols[None, :],
                mask=there[:, None] & inside[None, :],
                other=0.0,
            ).to(tl.float32)
            total += x[None, :] * part
        tl.store(out + entries, tl.sum(total, axis=1), mask=there)


@triton.jit
@no_type_check
def _gathered(  # noqa: PLR0913
    tokens, weights, rows, first, end, cols, width, ENTRIES: tl.constexpr, BLOCK: tl.constexpr
):
    """Sum of weighted rows of `rows` over entries first..end, at some columns."""
    total = tl.full([BLOCK], 0.0, tl.float32)
    for at in range(first, end, ENTRIES):
        entries = at + tl.arange(0, ENTRIES)
        there = entries < end
        token = tl.load(tokens + entries, mask=there, other=0).to(tl.int64)
        scale = tl.load(weights + entries, mask=there, other=0.0).to(tl.float32)
        part = tl.load(
            rows + token[:, None] * width + cols[None, :],
            mask=there[:, None] & (cols < width)[None, :],
            other=0.0,
        ).to(tl.float32)
        total += tl.sum(scale[:, None] * part, axis=0)
    return total


@triton.jit
@no_type_check
def _sum_segments(  # noqa: PLR0913
    tokens,
    weights,
    starts,
    slot_ends,
    owners,
    rows,
    partial,
    width,
    d_sae,
    SEGMENT: tl.constexpr,
    ENTRIES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    slot = tl.program_id(0).to(tl.int64)
    latent = tl.load(owners + slot)
    if latent < d_sae:  # slots beyond those in use belong to nobody
        cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        # Slots of a latent end at slot_ends[latent] and begin where its predecessor's end.
        before = tl.load(slot_ends + latent - 1, mask=latent > 0, other=0)
        first = tl.load(starts + latent) + (slot - before) * SEGMENT
        end = tl.minimum(first + SEGMENT, tl.load(starts + latent + 1))
        total = _gathered(tokens, weights, rows, first, end, cols, width, ENTRIES, BLOCK)
        tl.store(partial + slot * width + cols, total, mask=cols < width)


@triton.jit
@no_type_check
def _sum_latents(  # noqa: PLR0913
    tokens,
    weights,
    starts,
    slot_ends,
    rows,
    partial,
    out,
    width,
    SEGMENT: tl.constexpr,
    ENTRIES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    latent = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first, end = tl.load(starts + latent), tl.load(starts + latent + 1)
    total = tl.full([BLOCK], 0.0, tl.float32)
    if end - first > SEGMENT:
        slot = tl.load(slot_ends + latent - 1, mask=latent > 0, other=0)
        stop = tl.load(slot_ends + latent)
        for at in range(slot, stop, ENTRIES):
            slots = at + tl.arange(0, ENTRIES)
            total += tl.sum(
                tl.load(
                    partial + slots[:, None] * width + cols[None, :],
                    mask=(slots < stop)[:, None] & (cols < width)[None, :],
                    other=0.0,
                ),
                axis=0,
            )
    else:
        total += _gathered(tokens, weights, rows, first, end, cols, width, ENTRIES, BLOCK)
    tl.store(out + latent * width + cols, total, mask=cols < width)


INTERPRETED = not isinstance(_decode, triton.JITFunction)


def decode(
    values: Float[Tensor, "nnz"],
    latents: Int[Tensor, "nnz"],
    starts: Int[Tensor, "n_and_one"],
    W_dec: Float[Tensor, "d_sae d_out"],
) -> Float[Tensor, "n d_out"]:
    """Return the sums of weighted rows of `W_dec`, one a token: the prediction without b_dec.

    Args:
        values: act units.
        latents: in 0..d_sae - 1; one may come twice in a row.
        starts: row r holds entries ``starts[r]:starts[r + 1]``; rows may be empty.
        W_dec: contiguous.

    Raises:
        Unsupported: see `require`.
    """
    require(values=values, latents=latents, starts=starts, W_dec=W_dec)
    n, width = len(starts) - 1, W_dec.shape[1]
    kind = torch.promote_types(values.dtype, W_dec.dtype)
    out = torch.empty(n, width, dtype=torch.float32, device=W_dec.device)
    if out.numel():
        block = block_of(width)
        # Tokens run fastest, so that all read the same columns of W_dec, which then stay in L2.
        _decode[(n, triton.cdiv(width, block))](
            values, latents, starts, W_dec, out, width, ENTRIES, block, **LAUNCH
        )
    return out.to(kind)


def dot(
    rows: Float[Tensor, "n width"],
    weight: Float[Tensor, "d_sae width"],
    latents: Int[Tensor, "nnz"],
    starts: Int[Tensor, "n_and_one"],
) -> Float[Tensor, "nnz"]:
    """Return ``rows[token] . weight[latent]`` of each entry.

    Args:
        rows: one a token, contiguous.
        weight: latent-major, contiguous.
        latents: in 0..d_sae - 1.
        starts: token r has entries ``starts[r]:starts[r + 1]``.

    Raises:
        Unsupported: see `require`.
    """
    require(rows=rows, weight=weight, latents=latents, starts=starts)
    out = torch.empty(len(latents), dtype=torch.float32, device=rows.device)
    dot_into(out, rows, weight, latents, starts[:-1], starts[1:])
    return out.to(torch.promote_types(rows.dtype, weight.dtype))


def dot_into(
    out: Tensor, rows: Tensor, weight: Tensor, latents: Tensor, starts: Tensor, ends: Tensor
) -> None:
    """Write ``rows[token] . weight[latent]`` of entries ``starts[r]:ends[r]`` of each token r."""
    if len(rows) and out.numel():
        width = rows.shape[1]
        _dot[(len(rows),)](
            rows, weight, latents, starts, ends, out, width, ENTRIES, block_of(width), **LAUNCH
        )


def sum_by_latent(
    tokens: Int[Tensor, "nnz"],
    weights: Float[Tensor, "nnz"],
    starts: Int[Tensor, "d_sae_and_one"],
    rows: Float[Tensor, "n width"],
) -> Float[Tensor, "d_sae width"]:
    """Return for each latent the sum of its tokens' rows, weighted: both weight gradients.

    A latent with more than `SEGMENT` entries is added in segments, then segments in order, so
    that no program runs over all tokens and the sum does not depend on the machine.

    Args:
        tokens: of entries sorted by latent.
        weights: of the same entries.
        starts: latent i holds entries ``starts[i]:starts[i + 1]``; it may have none.
        rows: one a token, contiguous.

    Raises:
        Unsupported: see `require`.
    """
    require(tokens=tokens, weights=weights, starts=starts, rows=rows)
    d_sae, width, nnz = len(starts) - 1, rows.shape[1], len(tokens)
    kind = torch.promote_types(weights.dtype, rows.dtype)
    out = torch.empty(d_sae, width, dtype=torch.float32, device=rows.device)
    if not out.numel():
        return out.to(kind)
    counts = starts.diff()
    segments = (counts + SEGMENT - 1).div(SEGMENT, rounding_mode="floor")
    slot_ends = torch.where(counts > SEGMENT, segments, 0).cumsum(0)
    n_slots = 2 * nnz // (SEGMENT + 1)  # no split needs more, and nothing waits for the count
    partial = torch.empty(n_slots, width, dtype=torch.float32, device=rows.device)
    block = block_of(width)
    blocks = triton.cdiv(width, block)
    if n_slots:
        slots = torch.arange(n_slots, device=rows.device)
        owners = torch.searchsorted(slot_ends, slots, right=True)
        _sum_segments[(n_slots, blocks)](
            tokens,
            weights,
            starts,
            slot_ends,
            owners,
            rows,
            partial,
            width,
            d_sae,
            SEGMENT,
            ENTRIES,
            block,
            **LAUNCH,
        )
    _sum_latents[(d_sae, blocks)](
        tokens,
        weights,
        starts,
        slot_ends,
        rows,
        partial,
        out,
        width,
        SEGMENT,
        ENTRIES,
        block,
        **LAUNCH,
    )
    return out.to(kind)
