"""What processes send: every collective counted, so that a claim about it can be a test."""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

KINDS = {"allreduce_": "sum", "_allgather_base_": "gather"}


class Traffic(TorchDispatchMode):
    """A context in which collectives are counted: calls, numbers, and the largest message."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.largest: Counter[str] = Counter()  # numbers of one message
        self.bytes: Counter[str] = Counter()  # given to collectives of a kind

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name.startswith("c10d."):
            op = name.split(".")[1]
            given = args[1] if op == "_allgather_base_" else args[0]
            parts = [t for t in (given if isinstance(given, list | tuple) else [given])]
            parts = [t for t in parts if isinstance(t, torch.Tensor)]
            kind = KINDS.get(op, op)
            self.calls[kind] += 1
            self.largest[kind] = max(self.largest[kind], sum(t.numel() for t in parts))
            self.bytes[kind] += sum(t.nbytes for t in parts)
        return func(*args, **(kwargs or {}))

    def sent(self, size: int) -> float:
        """Return the bytes that one of `size` processes sends, by rings.

        A sum of n bytes sends 2 n (size - 1) / size, a gather of n bytes each n (size - 1).
        """
        return (size - 1) * (2 * self.bytes["sum"] / size + self.bytes["gather"])
