"""OwnPasses: what is attached to a model acts in passes of transformers itself, as `generate`."""

import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

from torch import nn

from saekit.core.errors import ConfigError

if TYPE_CHECKING:
    from saekit.models.hf import HFModel


@final
class OwnPasses(contextlib.AbstractContextManager[None]):
    """A block in which every pass of a model's module goes through what is attached to it.

    Positions count columns of the row, padding included, from its beginning: behind what the model
    keeps between tokens.

    Args:
        lm: the model.
    """

    def __init__(self, lm: "HFModel"):
        self._lm = lm
        self._running: list[contextlib.ExitStack | None] = []
        self._state = ""
        self._lengths: dict[int, int] = {}  # tokens behind what is kept, by its identity
        self._end = 0

    def __enter__(self) -> None:
        self._state = self._lm.state_name
        module: nn.Module = self._lm.module
        self._hooks = [
            module.register_forward_pre_hook(self._before, with_kwargs=True),
            module.register_forward_hook(self._after, always_call=True),
        ]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        for undo in self._running:
            if undo is not None:
                undo.close()

    def _before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._running.append(None)
        tokens = args[0] if args else kwargs.get("input_ids")
        if tokens is None:
            raise ConfigError(
                "A pass from `inputs_embeds` has no tokens, by which SAEs know what to leave "
                "out. Give `input_ids`, or leave the splice first."
            )
        start = self._start(kwargs.get(self._state))
        mask = kwargs.get("attention_mask")
        padded = mask is not None and not bool(mask.all())
        self._end = start + tokens.shape[1]
        self._running[-1] = self._lm.begin_own_pass(tokens, start, whole=not start and not padded)

    def _start(self, kept: Any) -> int:
        """Return how many tokens are behind what a pass goes on from."""
        if kept is None:
            return 0
        # Recurrent models keep no positions, and some say so only when they are asked.
        with contextlib.suppress(AttributeError, ValueError):
            return int(kept.get_seq_length())  # a tensor, of some, which the pass itself changes
        return self._lengths.get(id(kept), 0)

    def _after(self, _module: nn.Module, _args: Any, output: Any) -> None:
        undo = self._running.pop()
        if undo is not None:
            undo.close()
        if (kept := getattr(output, self._state, None)) is not None:
            self._lengths[id(kept)] = self._end
