"""MixedAges: rows of unlike lengths in one batch of transformers, each in a place of its own.

Rows end at the same column, so that the next token of all of them has one place; a row that is
shorter has nothing in the columns before it, which a mask hides. Keys and values lie in buffers
that grow by half: a step writes one column, where transformers' own cache copies all of them.
"""

import functools
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

if TYPE_CHECKING:
    from saekit.models.hf import HFModel

_LEAST_COLUMNS = 64


@final
class MixedAges:
    """Rows of one model that are continued together; see `generation.Ages`.

    Args:
        lm: the model; nothing is attached to it.
    """

    def __init__(self, lm: "HFModel"):
        self._lm = lm
        self._cache = _cache_of(lm.module)
        self._first: list[int] = []  # column of each row's first token
        self._end = 0  # the column after the last
        known = inspect.signature(lm.module.forward).parameters
        self._takes_positions = "position_ids" in known

    def enter(self, place: int, before: Sequence[int]) -> None:
        """Put a new row in a place: its tokens but for the last are read here."""
        if len(before) > self._end:
            self._move(len(before) - self._end)
        if place == len(self._first):
            self._first.append(0)
        self._first[place] = self._end - len(before)
        if not before:
            return
        tokens = torch.tensor([list(before)], device=self._lm.device)
        own = _cache_of(self._lm.module)
        with self._lm.alone_in_use(tokens):
            self._lm.module(input_ids=tokens, past_key_values=own, logits_to_keep=1)
        for mine, theirs in zip(self._cache.layers, own.layers, strict=True):
            mine.put(place, theirs.keys, theirs.values, self._first[place])

    def keep(self, places: Sequence[int]) -> None:
        """Drop all rows but these."""
        self._first = [self._first[place] for place in places]
        index = torch.tensor(list(places), device=self._lm.device)
        for layer in self._cache.layers:
            layer.batch_select_indices(index)

    def step(self, tokens: Sequence[int]) -> Float[Tensor, "batch vocab"]:
        """Read a token of each row and return the logits of the next."""
        device, begin = self._lm.device, min(self._first)
        if begin:
            self._move(-begin)
        new = torch.tensor(tokens, device=device)[:, None]
        first = torch.tensor(self._first, device=device)[:, None]
        how: dict[str, Any] = {}
        if self._takes_positions:
            how["position_ids"] = self._end - first
        if max(self._first):  # else nothing is to be hidden
            how["attention_mask"] = (torch.arange(self._end + 1, device=device) >= first).long()
        with self._lm.alone_in_use(new):
            out = self._lm.module(
                input_ids=new, past_key_values=self._cache, logits_to_keep=1, **how
            )
        self._end += 1
        return out.logits[:, -1]

    def _move(self, columns: int) -> None:
        """Number the columns from another one on: add some in front, or leave out empty ones."""
        self._first = [first + columns for first in self._first]
        self._end += columns
        for layer in self._cache.layers:
            layer.move(columns)


def _cache_of(module: Any) -> Any:
    """Return an empty cache for a model, of layers that hold all columns."""
    from transformers.cache_utils import Cache

    n = module.config.get_text_config().num_hidden_layers
    return Cache(layers=[_layer_class()() for _ in range(n)])


@functools.cache
def _layer_class() -> type[Any]:  # noqa: C901 - a class, which needs transformers
    """Return the kind of cache layer, which transformers' own is the base of."""
    from transformers.cache_utils import DynamicLayer

    class Columns(DynamicLayer):
        """Keys and values of a layer in a buffer; columns before `begin` are free."""

        def __init__(self) -> None:
            super().__init__()
            self.begin, self.n = 0, 0
            self.buffers: list[Tensor] = []

        @override
        def update(
            self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
        ) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            self._hold(key_states, value_states, self.n + key_states.shape[-2])
            at = self.begin + self.n
            for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
                buffer[:, :, at : at + new.shape[-2]] = new
            self.n += key_states.shape[-2]
            return self._show()

        @override
        def get_seq_length(self) -> int:
            return self.n

        @override
        def batch_select_indices(self, indices: Tensor) -> None:
            end = self.begin + self.n
            self.buffers = [b[indices, :, self.begin : end] for b in self.buffers]
            self.begin = 0
            if self.buffers:
                self._show()

        def put(self, place: int, keys: Tensor, values: Tensor, first: int) -> None:
            """Write what was read of one row into the columns from `first` on."""
            if not self.is_initialized:
                self.lazy_initialization(keys, values)
            self._hold(keys, values, max(self.n, first + keys.shape[-2]), place + 1)
            self.n = max(self.n, first + keys.shape[-2])
            at = self.begin + first
            for buffer, new in zip(self.buffers, (keys, values), strict=True):
                buffer[place, :, at : at + new.shape[-2]] = new[0]
            self._show()

        def move(self, columns: int) -> None:
            """Leave out columns at the left (below 0), or add some that are free."""
            if not self.buffers:
                self.n = max(self.n + columns, 0)
                return
            self.n += columns
            if columns <= self.begin:
                self.begin -= columns
            else:
                end = self.begin + self.n - columns
                self.buffers = [
                    _grown(b[:, :, self.begin : end], b.shape[0], columns, 0) for b in self.buffers
                ]
                self.begin = 0
            self._show()

        def _hold(self, keys: Tensor, values: Tensor, n: int, rows: int = 0) -> None:
            """Make room for n columns and some rows."""
            have = self.buffers[0].shape if self.buffers else (0, 0, 0, 0)
            rows = max(rows, have[0], keys.shape[0] if not rows else 0)
            if rows <= have[0] and self.begin + n <= have[2]:
                return
            room = max(n + n // 2, _LEAST_COLUMNS)
            old = self.buffers or [new[:0, :, :0] for new in (keys, values)]
            end = self.begin + self.n if self.buffers else 0
            self.buffers = [
                _grown(b[:, :, self.begin : end], rows, 0, room - (end - self.begin)) for b in old
            ]
            self.begin = 0

        def _show(self) -> tuple[Tensor, Tensor]:
            end = self.begin + self.n
            keys, values = (b[:, :, self.begin : end] for b in self.buffers)
            self.keys, self.values = keys, values
            return keys, values

    return Columns


def _grown(old: Tensor, rows: int, left: int, right: int) -> Tensor:
    """Return keys or values with more rows and columns, which are 0."""
    found = old.new_zeros(rows, old.shape[1], left + old.shape[2] + right, old.shape[3])
    found[: old.shape[0], :, left : left + old.shape[2]] = old
    return found
