"""How much of the long tables a run of the slow tests goes through: all, or every nth part.

SAEKIT_SLOW_EVERY=n takes the same nth part each time, so that a failure comes again: of the kills
of each command every nth, beginning at another one for each; of hurt inputs as many fewer.
"""

import os
from collections.abc import Callable

EVERY = int(os.environ.get("SAEKIT_SLOW_EVERY", "1"))
assert EVERY >= 1, f"SAEKIT_SLOW_EVERY is a whole number of at least 1; got {EVERY}."


def points(place: int, every: int = EVERY) -> Callable[[int], list[int]]:
    """Return what chooses among the points 1..n of the table at a place among its like.

    Tables that are alike then have different points chosen, and each its last one.
    """
    return lambda n: sorted({*range(1 + place % every, n + 1, every), n})


def part(n: int, least: int = 1, every: int = EVERY) -> int:
    """Return how many of `n` are to be done."""
    return max(n // every, least)
