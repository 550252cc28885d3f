"""Several tests at once: p-values that keep the chance of any false finding at their level."""

from collections.abc import Sequence


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's method, in their order; each at most 1.

    Source:
        Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    found, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))  # never below a smaller one's
        found[i] = largest
    return found
