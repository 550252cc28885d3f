"""The learning rate over training, as a share of its peak."""

import math
from typing import Literal, NamedTuple

Fall = Literal["linear", "cosine", "constant"]


class Schedule(NamedTuple):
    """Linear warm-up, a plateau, and a fall over the last share of training.

    With `left` the share of the fall that is still to come, 1 before it and 0 at the end:

    "linear"    final + (1 - final) * left
    "cosine"    final + (1 - final) * (1 - cos(pi * left)) / 2
    "constant"  1

    The smaller of this and the warm-up counts.

    Args:
        total_steps: optimiser steps of the run.
        warm_up_steps: the first of them, over which the rate grows from near 0 to its peak.
        fall: the form of the fall.
        decay: share of training, at its end, over which the rate falls, 0 to 1.
        final: where it ends, as a share of the peak.
    """

    total_steps: int
    warm_up_steps: int = 0
    fall: Fall = "linear"
    decay: float = 0.5
    final: float = 0.0

    def at(self, step: int) -> float:
        """Return the share of the peak at an optimiser step, counted from 0."""
        grown = min(1.0, (step + 1) / self.warm_up_steps) if self.warm_up_steps else 1.0
        falling = self.decay * self.total_steps
        if self.fall == "constant" or not falling:
            return grown
        left = min(1.0, (self.total_steps - step) / falling)
        if self.fall == "cosine":
            left = (1 - math.cos(math.pi * left)) / 2
        return min(grown, self.final + (1 - self.final) * left)
