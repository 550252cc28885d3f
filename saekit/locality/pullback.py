"""Gradients of many scalars of many windows with respect to token embeddings, in few passes.

A row of the batch is a window; each pass takes one gradient for every row, so windows share
matrix products, and passes share the forward graph. Where there are fewer windows than rows, a
window stands in several. No Jacobian is held: every gradient is handed on as it comes.
"""

import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core import machine
from saekit.core.errors import ConfigError, DataError
from saekit.core.finite import all_finite
from saekit.models.base import LanguageModel
from saekit.models.sites import EMBED, Site

PASS_TOKENS = 1024  # beyond this a pass is no faster a token, and holds more
MEMORY_SHARE = 0.5  # of what is free, where no budget is given

_row_bytes: "weakref.WeakKeyDictionary[LanguageModel, dict[Any, int]]" = (
    weakref.WeakKeyDictionary()
)


class Windows(NamedTuple):
    """Rows of tokens, and the position in each at which latents are taken."""

    tokens: Int[Tensor, "windows n_ctx"]
    position: Int[Tensor, "windows"]

    def at(self, acts: Sequence[Float[Tensor, "rows n_ctx d"]], rows: Tensor | None = None):
        """Return activations at each row's position: ``[rows, d]``, or with sites stacked."""
        position = self.position if rows is None else self.position[rows]
        index = torch.arange(len(position))
        found = [x[index.to(x.device), position.to(x.device)] for x in acts]
        return found[0] if len(found) == 1 else torch.stack(found, dim=1)


class Part(NamedTuple):
    """Some of the gradients asked for."""

    seeds: Int[Tensor, "part"]  # which
    gradient: Float[Tensor, "part n_ctx d_model"]


def read_at(
    lm: LanguageModel, windows: Windows, sites: Sequence[Site], chunk: int | None = None
) -> Float[Tensor, "windows *event d"]:
    """Return activations at each window's position, float32, without a graph."""
    rows = chunk or max(4 * PASS_TOKENS // windows.tokens.shape[1], 1)
    parts = []
    for index in torch.arange(len(windows.tokens)).split(rows):
        found = lm.read(windows.tokens[index], list(sites))
        parts.append(windows.at([found[s] for s in sites], index).float())
    return torch.cat(parts)


def pull_back(
    lm: LanguageModel,
    windows: Windows,
    sites: Sequence[Site],
    seeds: Float[Tensor, "seeds *event d"],
    window: Int[Tensor, "seeds"],
    *,
    chunk: int | None = None,
    memory_bytes: int | None = None,
) -> Iterator[Part]:
    """Yield d <seed, y> / d x for each seed, y the activation at its window's position.

    x are the token embeddings, as the model's first block or position embedding gets them.

    Args:
        lm: in float32 or float64.
        windows: the rows.
        sites: where y is read; several where an SAE codes sites jointly.
        seeds: gradient of the wanted scalar with respect to y.
        window: the row each seed belongs to.
        chunk: rows of a pass; None: as many as are fast and fit in memory.
        memory_bytes: of graph and gradients; None: half of what is free.

    Raises:
        ConfigError: the model is in a low precision, or one row does not fit in the memory.
        DataError: a gradient is not finite.
    """
    check_precision(lm)
    if not len(window):
        return
    n_ctx = windows.tokens.shape[1]
    most = chunk or max(PASS_TOKENS // n_ctx, 1)
    most = min(most, rows_that_fit(lm, n_ctx, sites, memory_bytes))
    for rows in _plan(window, len(windows.tokens), most):
        yield from _pass(lm, windows, list(sites), seeds, rows)


def check_precision(lm: LanguageModel) -> None:
    """Refuse a model whose gradients would be those of rounded numbers.

    Raises:
        ConfigError: it runs in bfloat16 or float16.
    """
    if lm.dtype not in (torch.float32, torch.float64):
        raise ConfigError(
            f"Influence is taken in float32; {lm.name} runs in {lm.dtype}. Load it with "
            f'dtype="float32" (--dtype float32).'
        )


def rows_that_fit(
    lm: LanguageModel, n_ctx: int, sites: Sequence[Site], memory_bytes: int | None
) -> int:
    """Return how many rows' graph and gradients fit in the memory.

    Raises:
        ConfigError: not even one.
    """
    budget = memory_bytes
    if budget is None:
        free = machine.free_memory(lm.device)
        if free is None:
            return 2**31
        budget = int(MEMORY_SHARE * free)
    row = max(row_bytes(lm, n_ctx, sites), 4 * n_ctx * lm.d_model)
    if row > budget:
        raise ConfigError(
            f"One window of {n_ctx} tokens needs about {row / 1e6:,.0f} MB for its gradients at "
            f"{sites[-1]}; the budget is {budget / 1e6:,.0f} MB. Raise --memory, shorten the "
            f"window or read a lower layer."
        )
    return budget // row


def row_bytes(lm: LanguageModel, n_ctx: int, sites: Sequence[Site]) -> int:
    """Return the bytes that one row's graph holds, and as much again as a backward pass needs.

    Measured on one short row: what autograd saves grows linearly with tokens, but for attention
    weights where these are kept, which a second row of another length tells apart.
    """
    known = _row_bytes.setdefault(lm, {})
    key = (n_ctx, tuple(map(str, sites)))
    if key not in known:
        short = min(n_ctx, 32)
        known[key] = 2 * _saved_bytes(lm, n_ctx, short, sites)
    return known[key]


def _saved_bytes(lm: LanguageModel, n_ctx: int, short: int, sites: Sequence[Site]) -> int:
    def saved(length: int) -> int:
        seen: dict[int, int] = {}

        def keep(x: Tensor) -> Tensor:
            if not isinstance(x, torch.nn.Parameter) and not (x.is_leaf and x.requires_grad):
                seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        tokens = torch.zeros(1, length, dtype=torch.int64)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            lm.read(tokens, [EMBED, *sites], grad=True)
        return sum(seen.values())

    if n_ctx <= short:
        return saved(n_ctx)
    # a length + b length^2 through two points; weights of the model count in neither slope
    one, two = saved(short // 2), saved(short)
    half = short // 2
    square = max((two - 2 * one) / (short * short - 2 * half * half), 0.0)
    linear = (two - square * short * short) / short
    return int(linear * n_ctx + square * n_ctx * n_ctx)


class _Row(NamedTuple):
    window: int
    seeds: list[int]  # one for each pass


def _plan(window: Tensor, windows: int, rows: int) -> Iterator[list[_Row]]:
    """Yield batches of rows such that few rows idle and few passes repeat a forward."""
    by_window: list[list[int]] = [[] for _ in range(windows)]
    for seed, w in enumerate(window.tolist()):
        by_window[w].append(seed)
    longest = max(map(len, by_window))
    # With few windows a row takes only a part of a window's seeds, so that passes are wide.
    depth = min(longest, max(-(-len(window) // rows), 1))
    parts = [
        _Row(w, seeds[first : first + depth])
        for w, seeds in enumerate(by_window)
        for first in range(0, len(seeds), depth)
    ]
    parts.sort(key=lambda row: -len(row.seeds))  # rows of a batch end together
    for first in range(0, len(parts), rows):
        yield parts[first : first + rows]


def _pass(
    lm: LanguageModel, windows: Windows, sites: list[Site], seeds: Tensor, rows: list[_Row]
) -> Iterator[Part]:
    index = torch.tensor([row.window for row in rows])
    found = lm.read(windows.tokens[index], [EMBED, *sites], grad=True)
    y = windows.at([found[s] for s in sites], index)
    depth = len(rows[0].seeds)
    for turn in range(depth):
        on = [i for i, row in enumerate(rows) if turn < len(row.seeds)]  # a prefix: rows sorted
        which = torch.tensor([rows[i].seeds[turn] for i in on])
        direction = y.new_zeros(y.shape)
        direction[: len(on)] = seeds[which].to(direction)
        if sites == [EMBED]:
            gradient = torch.zeros_like(found[EMBED])
            gradient[torch.arange(len(index)), windows.position[index]] = direction
        else:
            gradient = torch.autograd.grad(
                y, found[EMBED], direction, retain_graph=turn + 1 < depth
            )[0]
        gradient = gradient[: len(on)].detach()
        if not all_finite(gradient):
            raise DataError(
                f"Gradients of {lm.name} at {sites[-1]} are not finite; the model overflows in "
                f"{lm.dtype}. Try float64 or another window."
            )
        yield Part(which, gradient)
