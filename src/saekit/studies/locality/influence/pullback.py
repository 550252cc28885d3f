"""Gradients of many scalars of many windows with respect to token embeddings, in few passes.

A pass takes one gradient for every row of its batch, so that rows share matrix products, and
passes share the forward graph. A window stands in as many rows as it has gradients, and what the
graph keeps is kept once a window. No Jacobian is held: every gradient is handed on as it comes.
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
from saekit.models.fast_gradients.linear import MATMULS, Products, Reuse, reusing
from saekit.models.sites import EMBED, Site

PASS_TOKENS = 1024  # beyond this a pass is no faster a token, and holds more
PACKED_TOKENS = 4096  # of all gradients; with fewer, packing weights costs what it saves
MEMORY_SHARE = 0.5  # of what is free, where no budget is given

_row_bytes: "weakref.WeakKeyDictionary[LanguageModel, dict[Any, int]]" = weakref.WeakKeyDictionary()


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


def pull_back(  # noqa: PLR0913 - the question has as many parts
    lm: LanguageModel,
    windows: Windows,
    sites: Sequence[Site],
    seeds: Float[Tensor, "seeds *event d"],
    window: Int[Tensor, "seeds"],
    *,
    chunk: int | None = None,
    memory_bytes: int | None = None,
    matmul: str = "float32",
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
        matmul: "float32", which stands for the model's precision, or "bfloat16": in which
            gradients are multiplied with weights.

    Raises:
        ConfigError: the model is in a low precision, one row does not fit in the memory, or
            `matmul` is none of these.
        DataError: a gradient is not finite.
    """
    check_precision(lm)
    check_matmul(matmul)
    if not len(window):
        return
    n_ctx = windows.tokens.shape[1]
    budget = _budget(lm, memory_bytes)
    row = _checked_row(lm, n_ctx, sites, budget)
    most = min(chunk or max(PASS_TOKENS // n_ctx, 1), budget // row)
    many = len(window) * n_ctx >= PACKED_TOKENS
    products = Products(matmul, budget - most * row if many else 0)
    for group in _plan(window, len(windows.tokens), most):
        yield from _pass(lm, windows, list(sites), seeds, group, products)


def squares(
    lm: LanguageModel,
    windows: Windows,
    sites: Sequence[Site],
    seeds: Tensor,
    window: Tensor,
    **passes: Any,
) -> Float[Tensor, "seeds n_ctx"]:
    """Return the squared length of each gradient at each token; arguments as of `pull_back`."""
    J = seeds.new_zeros(len(seeds), windows.tokens.shape[1])
    for part in pull_back(lm, windows, sites, seeds, window, **passes):
        J[part.seeds] = part.gradient.float().square().sum(-1).to(J)
    return J


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


def check_matmul(matmul: str) -> None:
    """Refuse a precision of products that is not known.

    Raises:
        ConfigError: it is none.
    """
    if matmul not in MATMULS:
        raise ConfigError(f"`matmul` is one of {', '.join(MATMULS)}; got {matmul!r}.")


def _budget(lm: LanguageModel, memory_bytes: int | None) -> int:
    if memory_bytes is not None:
        return memory_bytes
    free = machine.free_memory(lm.device)
    return 2**62 if free is None else int(MEMORY_SHARE * free)


def _checked_row(lm: LanguageModel, n_ctx: int, sites: Sequence[Site], budget: int) -> int:
    """Return the bytes of a row's graph and gradients.

    Raises:
        ConfigError: they do not fit.
    """
    row = max(row_bytes(lm, n_ctx, sites), 4 * n_ctx * lm.d_model)
    if row > budget:
        raise ConfigError(
            f"One window of {n_ctx} tokens needs about {row / 1e6:,.0f} MB for its gradients at "
            f"{sites[-1]}; the budget is {budget / 1e6:,.0f} MB. Raise --memory, shorten the "
            f"window or read a lower layer."
        )
    return row


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


class _Group(NamedTuple):
    """Windows of one graph, and the seeds of each, of which a pass takes so many."""

    windows: list[int]
    seeds: list[list[int]]
    copies: int


def _plan(window: Tensor, windows: int, rows: int) -> Iterator[_Group]:
    """Yield groups such that few rows idle and few passes repeat a forward."""
    seeds: list[list[int]] = [[] for _ in range(windows)]
    for seed, w in enumerate(window.tolist()):
        seeds[w].append(seed)
    left = sorted((w for w in range(windows) if seeds[w]), key=lambda w: -len(seeds[w]))
    while left:
        longest = len(seeds[left[0]])
        turns = -(-longest // rows)
        copies = -(-longest // turns)
        now, left = left[: rows // copies], left[rows // copies :]
        yield _Group(now, [seeds[w] for w in now], copies)


def _pass(
    lm: LanguageModel,
    windows: Windows,
    sites: list[Site],
    seeds: Tensor,
    group: _Group,
    products: Products,
) -> Iterator[Part]:
    copies, longest = group.copies, len(group.seeds[0])
    index = torch.tensor(group.windows).repeat_interleave(copies)
    with reusing(Reuse(len(index), copies, products)):
        found = lm.read(windows.tokens[index], [EMBED, *sites], grad=True)
    y = windows.at([found[s] for s in sites], index)
    for first in range(0, longest, copies):
        mine = [of[first : first + copies] for of in group.seeds]
        which = torch.tensor([seed for of in mine for seed in of])
        rows = torch.tensor([i * copies + j for i, of in enumerate(mine) for j in range(len(of))])
        direction = y.new_zeros(y.shape)
        direction[rows] = seeds[which].to(direction)
        if sites == [EMBED]:
            gradient = torch.zeros_like(found[EMBED])
            gradient[torch.arange(len(index)), windows.position[index]] = direction
        else:
            gradient = torch.autograd.grad(
                y, found[EMBED], direction, retain_graph=first + copies < longest
            )[0]
        gradient = gradient.detach()
        gradient = gradient if len(rows) == len(index) else gradient[rows]
        if not all_finite(gradient):
            raise DataError(
                f"Gradients of {lm.name} at {sites[-1]} are not finite; the model overflows in "
                f"{lm.dtype}. Try float64 or another window."
            )
        yield Part(which, gradient)
