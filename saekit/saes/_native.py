"""Compiled loops of the choice of latents on CPUs: what PyTorch does in several passes.

They give places only. Every number that reaches a weight is made by PyTorch, so that results
have the same bits with and without them. Imported where extra `native` is installed.
"""

import inspect
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor

BLOCK = 32  # latents whose largest score is looked at first
_LOWEST = -32768


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
    _sort_by_latent(
        latents.numpy(), starts.numpy(), order.numpy(), tokens.numpy(), ends.numpy()
    )
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

    parts = [task.result() for task in _split(len(scores), part)]
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


def _split(n: int, task: Callable[[int, int], Any]) -> list[Future[Any]]:
    """Run `task(first, last)` on as many parts of n rows as PyTorch has threads."""
    parts = max(min(torch.get_num_threads(), n), 1)
    ends = [n * i // parts for i in range(parts + 1)]
    # Threads of Python, not of the compiler: two runtimes with teams of their own would each
    # keep a team spinning on the same cores.
    return [_pool(parts).submit(task, *ends[i : i + 2]) for i in range(parts)]


def _in_parts(n: int, kernel: Callable[..., Any], *args: Any) -> None:
    for task in _split(n, lambda first, last: kernel(*args, first, last)):
        task.result()


_pools: dict[int, ThreadPoolExecutor] = {}


def _pool(threads: int) -> ThreadPoolExecutor:
    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads, "saekit-native")
    return _pools[threads]


def _cast(to: Any, since: Any, code: Any) -> Any:
    """Return a function for compiled code that reads the bits of one type as another."""

    def typing(_context: Any, _value: Any) -> Any:
        return to(since), lambda _c, builder, _s, args: builder.bitcast(args[0], code)

    return intrinsic(typing)


_as_float: Any = _cast(types.float32, types.int32, ir.FloatType())
_as_bits: Any = _cast(types.int32, types.float32, ir.IntType(32))


def _compiled(function: Any) -> Any:
    """Compile a function, without what tests wrap around it."""
    return numba.njit(nogil=True, cache=True, boundscheck=False)(inspect.unwrap(function))


@_compiled
def _key(bits: Any, keep: Any) -> Any:
    """Return an integer that orders bfloat16 numbers as they are ordered, by size or signed.

    `keep` is 0x7FFF, which drops the sign, or -1.
    """
    kept = bits & keep
    return kept ^ ((kept >> np.int16(15)) & np.int16(0x7FFF))


@_compiled
def _lowered(key: Any, margin: Any) -> Any:
    """Return the key of a score that no exact value of this score less `margin` is below.

    A score s is a rounded number: what it stands for lies within |s| / 256 of it, and so do
    the ones it is compared with.
    """
    bits = np.int32(key ^ ((key >> np.int16(15)) & np.int16(0x7FFF))) << np.int32(16)
    value = _as_float(bits)
    value -= abs(value) * np.float32(1 / 256) + margin
    value -= abs(value) * np.float32(1.01 / 256)
    found = _as_bits(value)
    high = np.int16(found >> np.int32(16))
    if found < 0 and (found & np.int32(0xFFFF)) != 0:
        high += np.int16(1)  # away from zero: a larger negative number
    return high ^ ((high >> np.int16(15)) & np.int16(0x7FFF))


@_compiled
def _highest(row: Any, keep: Any, best: Any) -> Any:
    """Write the largest key of each block of scores and return the largest of all."""
    whole, highest = len(row) // BLOCK, np.int16(_LOWEST)
    for b in range(whole):
        largest = np.int16(_LOWEST)
        for j in range(BLOCK):  # of known length, so that it becomes one vector instruction
            largest = max(largest, _key(row[b * BLOCK + j], keep))
        best[b] = largest
        highest = max(highest, largest)
    if whole < len(best):
        largest = np.int16(_LOWEST)
        for j in range(whole * BLOCK, len(row)):
            largest = max(largest, _key(row[j], keep))
        best[whole] = largest
        highest = max(highest, largest)
    return highest


@_compiled
def _kth_largest(keys: Any, k: int) -> Any:
    """Return the k-th largest key, or the smallest possible where there are fewer."""
    low, high = np.int32(_LOWEST), np.int32(32767)
    while low < high:
        middle, enough = (low + high + 1) >> 1, 0
        for b in range(len(keys)):
            enough += keys[b] >= np.int16(middle)
        if enough >= k:
            low = middle
        else:
            high = middle - 1
    return np.int16(low)


@_compiled
def _collect(row: Any, keep: Any, best: Any, least: Any, found: Any) -> int:
    """Write the places of keys that are `least` or more; return how many, -1: too many."""
    size = 0
    for b in range(len(best)):
        if best[b] < least:
            continue
        if size > len(found) - BLOCK:
            return -1
        for j in range(b * BLOCK, min(b * BLOCK + BLOCK, len(row))):
            found[size] = j  # written in any case, and kept or not: no branch to guess
            size += _key(row[j], keep) >= least
    return size


@_compiled
def _top_candidates(scores: Any, margin: Any, choice: Any, out: Any, first: int, last: int) -> None:
    (k, keep), (found, counts) = choice, out
    best = np.empty((scores.shape[1] + BLOCK - 1) // BLOCK, np.int16)
    for r in range(first, last):
        if _highest(scores[r], keep, best) > np.int16(0x7F7F):  # infinite, or not a number
            counts[r] = -1
            continue
        # At least k scores are as high as the k-th largest of the blocks' largest.
        least = _lowered(_kth_largest(best, k), margin[r])
        counts[r] = _collect(scores[r], keep, best, least, found[r])


@_compiled
def _pack(found: Any, starts: Any, out: Any, first: int, last: int) -> None:
    for r in range(first, last):
        for i in range(starts[r + 1] - starts[r]):
            out[starts[r] + i] = found[r, i]


@_compiled
def _sort_by_latent(latents: Any, starts: Any, order: Any, tokens: Any, ends: Any) -> None:
    for latent in latents:
        ends[latent + 1] += 1
    for j in range(1, len(ends)):
        ends[j] += ends[j - 1]
    place = ends[:-1].copy()
    for r in range(len(starts) - 1):
        for i in range(starts[r], starts[r + 1]):
            at = place[latents[i]]
            place[latents[i]] += 1
            order[at] = i
            tokens[at] = r


@_compiled
def _above_candidates(scores: Any, limits: Any, into: Any, first: int, last: int) -> int:
    (margin, least), (out, counts) = limits, into
    d_sae, size = scores.shape[1], 0
    for r in range(first, last):
        row, before = scores[r], size
        for start in range(0, d_sae, BLOCK):
            end, some = min(start + BLOCK, d_sae), False
            for j in range(start, end):
                score = _as_float(np.int32(row[j]) << np.int32(16))
                some |= not (score + margin[r] <= least[j])
            if some:
                if size > len(out) - BLOCK:
                    return -1
                for j in range(start, end):
                    score = _as_float(np.int32(row[j]) << np.int32(16))
                    out[size] = j
                    size += not (score + margin[r] <= least[j])
        counts[r] = size - before
    return size


@_compiled
def _top_of_rows(rows: Any, choice: Any, places: Any, first: int, last: int) -> None:
    (values, starts), (k, by_size) = rows, choice
    for r in range(first, last):
        start, n = starts[r], starts[r + 1] - starts[r]
        row = values[start : start + n]
        sizes = np.abs(row) if by_size else row
        cut = np.partition(sizes, n - k)[n - k]
        more = 0
        for j in range(n):
            more += sizes[j] > cut
        equal, size = k - more, 0
        for j in range(n):
            if sizes[j] > cut or (sizes[j] == cut and equal > 0):
                equal -= sizes[j] == cut
                places[r, size] = start + j
                size += 1
        for j in range(size, k):  # not a number: any will do, the row is done again
            places[r, j] = start + j
