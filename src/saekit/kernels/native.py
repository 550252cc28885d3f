"""Compiled loops of the choice of latents on CPUs: what PyTorch does in several passes.

They give places only. Every number that reaches a weight is made by PyTorch, so that results
have the same bits with and without them. Imported where extra `native` is installed.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saekit.kernels.vector import (
    LANES,
    LOWEST,
    as_bits,
    as_float,
    at_least,
    compiled,
    in_any_order,
    keys_at_least,
    popcount,
    trailing_zeros,
    vector_max,
)

BLOCK = 32  # latents that are looked at together
DEEPEST = 32  # vectors that a block is of, at most
WIDE = 64  # numbers of 32 bits that a loop takes at once
BLOCKS = 4  # for each one wanted, at least


def top_candidates(
    scores: Tensor, margin: Tensor, k: int, by_size: bool, found: Tensor, counts: Tensor
) -> None:
    """Find, for each row, the places that may hold one of the k largest exact values.

    Args:
        scores: ``[n, d_sae]`` bfloat16, each within its own rounding and half of `margin`
            of the exact value.
        margin: ``[n]`` float32.
        k: how many are wanted.
        by_size: largest in absolute value.
        found: ``[n, room]`` int32, gets places, ascending in a row.
        counts: ``[n]`` int64, gets how many each row has; -1 where there are more than
            room for, or a score is not a number.
    """
    bits = scores.view(torch.int16).numpy()
    out, keep = (found.numpy(), counts.numpy()), np.int16(0x7FFF if by_size else -1)
    _in_parts(len(scores), _top_candidates, bits, margin.numpy(), (k, keep), out)


def rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows in bfloat16, and what bounds need to know of each row.

    Args:
        rows: ``[n, width]`` float32, contiguous.

    Returns:
        ``[n, width]`` bfloat16, and ``[3, n]`` float32: lengths of rows, of the rounded rows,
        and of the difference.
    """
    low = torch.empty(rows.shape, dtype=torch.bfloat16)
    lengths = torch.empty(3, len(rows))
    out = (low.view(torch.int16).numpy(), lengths.numpy())
    _in_parts(len(rows), _round, rows.detach().numpy(), out)
    return low, lengths.sqrt_()


def packed(found: Tensor, starts: Tensor) -> Tensor:
    """Return the first entries of each row one after another, ``[nnz]`` int64.

    Args:
        found: ``[n, room]`` int32.
        starts: ``[n + 1]`` int64, where each row goes.
    """
    out = torch.empty(int(starts[-1]), dtype=torch.int64)
    _in_parts(len(found), _pack, found.numpy(), starts.numpy(), out.numpy())
    return out


def sorted_by_latent(latents: Tensor, starts: Tensor, d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the stable order of entries by latent, their tokens in it, and latents' starts.

    Args:
        latents: ``[nnz]`` int64.
        starts: ``[n + 1]`` int64, of rows.
        d_sae: number of latents.

    Returns:
        ``[nnz]``, ``[nnz]`` and ``[d_sae + 1]`` int64.
    """
    order, tokens = torch.empty_like(latents), torch.empty_like(latents)
    ends = torch.zeros(d_sae + 1, dtype=torch.int64)
    rows, n = (latents.numpy(), starts.numpy()), len(starts) - 1
    parts = _split(n, lambda *rs: (rs[0], _count_latents(rows, d_sae, *rs)))
    counts = dict(parts)  # by the first row of a part, in order
    places = _first_places(np.stack(list(counts.values())), ends.numpy())
    of_part = dict(zip(counts, places, strict=True))
    into = (order.numpy(), tokens.numpy())
    _split(n, lambda *rs: _place(rows, of_part[rs[0]], into, *rs))
    return order, tokens, ends


def above_candidates(
    scores: Tensor, margin: Tensor, least: Tensor, room: int
) -> tuple[Tensor, Tensor] | None:
    """Return the places where ``score + margin > least``, ascending; None where over `room`.

    Args:
        scores: ``[n, d_sae]`` bfloat16.
        margin: ``[n]`` float32.
        least: ``[d_sae]`` float32.
        room: most entries of all rows together.

    Returns:
        Latents ``[nnz]`` int64 and how many each row has, ``[n]`` int64.
    """
    bits, counts = scores.view(torch.int16).numpy(), np.empty(len(scores), np.int64)
    limits = (margin.numpy(), least.numpy())

    def part(first: int, last: int) -> Any:
        out = np.empty(room + BLOCK, np.int64)
        return out, _above_candidates(bits, limits, (out, counts), first, last)

    parts = _split(len(scores), part)
    if any(size < 0 for _, size in parts) or sum(size for _, size in parts) > room:
        return None
    latents = np.concatenate([out[:size] for out, size in parts])
    return torch.from_numpy(latents), torch.from_numpy(counts)


def top_of_rows(values: Tensor, starts: Tensor, k: int, *, by_size: bool) -> Tensor:
    """Return the places of the k largest values of each row, ascending, ``[n, k]`` int64.

    Of equal values the earlier are taken.

    Args:
        values: ``[nnz]`` float32, in rows of at least k.
        starts: ``[n + 1]`` int64.
        k: how many.
        by_size: largest in absolute value.
    """
    places = torch.empty(len(starts) - 1, k, dtype=torch.int64)
    rows = (values.numpy(), starts.numpy())
    _in_parts(len(places), _top_of_rows, rows, (k, by_size), places.numpy())
    return places


def _split(n: int, task: Callable[[int, int], Any]) -> list[Any]:
    """Return what `task(first, last)` does for as many parts of n rows as PyTorch has threads."""
    parts = max(min(torch.get_num_threads(), n), 1)
    ends = [n * i // parts for i in range(parts + 1)]
    # Threads of Python, not of the compiler: two runtimes with teams of their own would each
    # keep a team spinning on the same cores.
    others = [_pool(parts - 1).submit(task, *ends[i : i + 2]) for i in range(1, parts)]
    return [task(*ends[:2]), *(other.result() for other in others)]


def _in_parts(n: int, kernel: Callable[..., Any], *args: Any) -> None:
    _split(n, lambda first, last: kernel(*args, first, last))


_pools: dict[int, ThreadPoolExecutor] = {}


def _pool(threads: int) -> ThreadPoolExecutor:
    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads, "saekit-native")
    return _pools[threads]


@compiled
def _key(bits: Any, keep: Any) -> Any:
    """Return an integer that orders bfloat16 numbers as they are ordered, by size or signed.

    `keep` is 0x7FFF, which drops the sign, or -1.
    """
    kept = bits & keep
    return kept ^ ((kept >> np.int16(15)) & np.int16(0x7FFF))


@compiled
def _lowered(key: Any, margin: Any) -> Any:
    """Return the key of a score that no exact value of this score less `margin` is below.

    A score s is a rounded number: what it stands for lies within |s| / 256 of it, and so do
    the ones it is compared with.
    """
    bits = np.int32(key ^ ((key >> np.int16(15)) & np.int16(0x7FFF))) << np.int32(16)
    value = as_float(bits)
    value -= abs(value) * np.float32(1 / 256) + margin
    value -= abs(value) * np.float32(1.01 / 256)
    found = as_bits(value)
    high = np.int16(found >> np.int32(16))
    if found < 0 and (found & np.int32(0xFFFF)) != 0:
        high += np.int16(1)  # away from zero: a larger negative number
    return high ^ ((high >> np.int16(15)) & np.int16(0x7FFF))


@compiled
def _vertical(row: Any, keep: Any, depth: Any, best: Any) -> Any:
    """Write the largest key of each block of scores and return the largest of all.

    A block is what lies under one lane in `depth` vectors that follow each other: its largest
    takes no look across lanes. The rest of a row, shorter than a vector, is a block.
    """
    vectors, highest, size = len(row) // LANES, np.int16(LOWEST), 0
    for first in range(0, vectors, depth):
        count = min(depth, vectors - first)
        vector_max(row, first * LANES, count, keep, best[size : size + LANES])
        size += LANES
    best[size] = LOWEST
    for j in range(vectors * LANES, len(row)):
        best[size] = max(best[size], _key(row[j], keep))
    for b in range(len(best)):
        highest = max(highest, best[b])
    return highest


@compiled
def _kth_largest(keys: Any, k: int) -> Any:
    """Return the k-th largest key, or the smallest possible where there are fewer."""
    low, high = np.int32(LOWEST), np.int32(32767)
    whole = len(keys) // LANES * LANES
    while low < high:
        middle, enough = (low + high + 1) >> 1, 0
        for first in range(0, whole, LANES):
            enough += popcount(keys_at_least(keys, first, np.int16(middle)))
        for b in range(whole, len(keys)):
            enough += keys[b] >= np.int16(middle)
        if enough >= k:
            low = middle
        else:
            high = middle - 1
    return np.int16(low)


@compiled
def _collect(row: Any, keep: Any, least: Any, found: Any) -> int:
    """Write the places of keys that are `least` or more; return how many, -1: too many."""
    size, whole = 0, len(row) // LANES * LANES
    for first in range(0, whole, LANES):
        mask = at_least(row, first, keep, least)
        if mask == 0:
            continue
        if size > len(found) - LANES:
            return -1
        while mask != 0:
            found[size] = first + trailing_zeros(mask)
            mask &= mask - np.uint32(1)
            size += 1
    if size > len(found) - LANES:
        return -1
    for j in range(whole, len(row)):
        found[size] = j  # written in any case, and kept or not: no branch to guess
        size += _key(row[j], keep) >= least
    return size


@compiled
def _top_candidates(scores: Any, margin: Any, choice: Any, out: Any, first: int, last: int) -> None:
    (k, keep), (found, counts) = choice, out
    d_sae = scores.shape[1]
    depth = max(1, min(DEEPEST, d_sae // (BLOCKS * k)))
    best = np.empty((d_sae // LANES + depth - 1) // depth * LANES + 1, np.int16)
    keys = np.empty(found.shape[1], np.int16)
    for r in range(first, last):
        row, places = scores[r], found[r]
        if not margin[r] < np.inf or _vertical(row, keep, depth, best) > np.int16(0x7F7F):
            counts[r] = -1  # infinite, or not a number: where a score is, or the margin
            continue
        # At least k scores are as high as the k-th largest of the blocks' largest.
        size = _collect(row, keep, _lowered(_kth_largest(best, k), margin[r]), places)
        if size > k:  # the k-th largest itself is among those found: it leaves out more
            for i in range(size):
                keys[i] = _key(row[places[i]], keep)
            least = _lowered(_kth_largest(keys[:size], k), margin[r])
            kept = 0
            for i in range(size):
                places[kept] = places[i]
                kept += keys[i] >= least
            size = kept
        counts[r] = size if size >= k else -1


@in_any_order
def _round(rows: Any, out: Any, first: int, last: int) -> None:
    low, lengths = out
    for r in range(first, last):
        whole, kept, lost = np.float32(0), np.float32(0), np.float32(0)
        for j in range(rows.shape[1]):
            value = rows[r, j]
            bits = as_bits(value)
            even = (bits >> np.int32(16)) & np.int32(1)
            half = (bits + np.int32(0x7FFF) + even) >> np.int32(16)
            half = half if value == value else np.int32(0x7FC0)
            low[r, j] = np.int16(half)
            back = as_float(half << np.int32(16))
            whole += value * value
            kept += back * back
            lost += (back - value) * (back - value)
        lengths[0, r], lengths[1, r], lengths[2, r] = whole, kept, lost


@compiled
def _pack(found: Any, starts: Any, out: Any, first: int, last: int) -> None:
    for r in range(first, last):
        for i in range(starts[r + 1] - starts[r]):
            out[starts[r] + i] = found[r, i]


@compiled
def _count_latents(rows: Any, d_sae: int, first: int, last: int) -> Any:
    (latents, starts), counts = rows, np.zeros(d_sae, np.int64)
    for i in range(starts[first], starts[last]):
        counts[latents[i]] += 1
    return counts


@compiled
def _first_places(counts: Any, ends: Any) -> Any:
    """Return where each part's entries of each latent begin, parts in their order."""
    places, place = np.empty_like(counts), 0
    for j in range(counts.shape[1]):
        for part in range(len(counts)):
            places[part, j] = place
            place += counts[part, j]
        ends[j + 1] = place
    return places


@compiled
def _place(rows: Any, place: Any, into: Any, first: int, last: int) -> None:
    (latents, starts), (order, tokens) = rows, into
    for r in range(first, last):
        for i in range(starts[r], starts[r + 1]):
            at = place[latents[i]]
            place[latents[i]] += 1
            order[at] = i
            tokens[at] = r


@compiled
def _above_candidates(scores: Any, limits: Any, into: Any, first: int, last: int) -> int:
    (margin, least), (out, counts) = limits, into
    d_sae, size = scores.shape[1], 0
    for r in range(first, last):
        row, before = scores[r], size
        for start in range(0, d_sae, BLOCK):
            end, some = min(start + BLOCK, d_sae), False
            for j in range(start, end):
                score = as_float(np.int32(row[j]) << np.int32(16))
                some |= not (score + margin[r] <= least[j])
            if some:
                if size > len(out) - BLOCK:
                    return -1
                for j in range(start, end):
                    score = as_float(np.int32(row[j]) << np.int32(16))
                    out[size] = j
                    size += not (score + margin[r] <= least[j])
        counts[r] = size - before
    return size


@compiled
def _top_of_rows(rows: Any, choice: Any, places: Any, first: int, last: int) -> None:
    (values, starts), (k, by_size) = rows, choice
    longest = 0
    for r in range(first, last):
        longest = max(longest, starts[r + 1] - starts[r])
    wide = (longest + WIDE - 1) // WIDE * WIDE
    room, taken = np.empty(wide, np.int32), np.empty(longest + 1, np.int64)
    for r in range(first, last):
        start, n = starts[r], starts[r + 1] - starts[r]
        keys = room[: (n + WIDE - 1) // WIDE * WIDE]
        keys[n:] = np.int32(-(2**31))
        for j in range(n):  # integers in the order of the numbers; both zeros are 0
            bits = as_bits(values[start + j] + np.float32(0))
            keys[j] = bits & 0x7FFFFFFF if by_size else bits ^ ((bits >> 31) & 0x7FFFFFFF)
        cut = _kth_of(keys, k)
        more = 0
        for j in range(n):
            more += keys[j] > cut
        equal, size = k - more, 0
        for j in range(n):
            taken[size] = start + j  # written in any case, and kept or not: no branch to guess
            on_cut = (keys[j] == cut) & (equal > 0)
            equal -= on_cut
            size += (keys[j] > cut) | on_cut
        for j in range(k):
            places[r, j] = taken[j]


@compiled
def _kth_of(keys: Any, k: int) -> Any:
    """Return the k-th largest of at least k integers of 32 bits."""
    low, high = np.int64(-(2**31)), np.int64(keys[0])
    for j in range(len(keys)):
        high = max(high, np.int64(keys[j]))
    while low < high:
        middle, enough = (low + high + 1) >> 1, np.int32(0)
        least = np.int32(middle)
        for j in range(len(keys)):
            enough += np.int32(keys[j] >= least)
        if enough >= k:
            low = middle
        else:
            high = middle - 1
    return np.int32(low)
