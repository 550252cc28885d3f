"""What a field of a configuration may hold: declared on the field, read by checks and by help."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from saekit.core.errors import ConfigError, nearest

KEY = "bounds"  # of a field's metadata


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """The range of a number, or the choices of a text.

    In a tuple every entry must lie within them. `None` is within, where the type allows it.

    Args:
        least: smallest number allowed.
        most: largest number allowed.
        above: numbers must be larger than this.
        below: numbers must be smaller than this.
        unit: what is counted, as "tokens", or of what a number is a share, as "of training".
        choices: the texts that are allowed.
        hint: what to do instead, as a sentence; the default is named where there is none.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()
    hint: str = ""

    def __bool__(self) -> bool:
        """Tell whether anything is refused."""
        ends = (self.least, self.most, self.above, self.below)
        return bool(self.choices) or any(end is not None for end in ends)

    def allow(self, value: float | str) -> bool:
        """Tell whether one number or text is within."""
        if isinstance(value, str):
            return not self.choices or value in self.choices
        # Written so that NaN, which is neither smaller nor larger, is refused.
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def describe(self) -> str:
        """Return the range in words, as "at least 2 tokens"; empty where anything is allowed."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.least is not None and self.most is not None:
            words = f"from {_written(self.least)} to {_written(self.most)}"
        else:
            ends = {
                "at least": self.least,
                "above": self.above,
                "at most": self.most,
                "below": self.below,
            }
            named = [f"{word} {_written(end)}" for word, end in ends.items() if end is not None]
            words = " and ".join(named)
        return f"{words} {self.unit}".strip() if words else ""


ANYTHING = Bounds()


def bounds_of(field: "dataclasses.Field[Any]") -> Bounds:
    """Return the bounds that a field declares."""
    return field.metadata.get(KEY, ANYTHING)


def check(field: "dataclasses.Field[Any]", value: Any) -> None:
    """Refuse a value of a field that is out of bounds, or a number that is not finite.

    Args:
        field: of a configuration.
        value: of the field's type.

    Raises:
        ConfigError: it is refused; the message names the field, the range and the way out.
    """
    bounds = bounds_of(field)
    for name, entry in _entries(field.name, value):
        finite = isinstance(entry, str) or _is_finite(entry)
        if finite and bounds.allow(entry):
            continue
        words = [bounds.describe()] if finite else ["a finite number", bounds.describe()]
        raise ConfigError(
            f"`{name}` must be {', '.join(w for w in words if w)}; got {_written(entry)}."
            f"{_way_out(field, bounds, entry)}"
        )


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond what a float holds
        return False


def _entries(name: str, value: Any) -> Iterator[tuple[str, float | str]]:
    """Yield every number and text in a value, with its place in words."""
    if isinstance(value, tuple):
        for i, entry in enumerate(value):
            yield from _entries(f"{name}[{i}]", entry)
    elif isinstance(value, int | float | str) and not isinstance(value, bool):
        yield name, value


def _way_out(field: "dataclasses.Field[Any]", bounds: Bounds, value: float | str) -> str:
    """Return a sentence on what to do, with a space before it; empty where there is none."""
    if isinstance(value, str) and (near := nearest(value, bounds.choices)):
        return near
    if bounds.hint:
        return f" {bounds.hint}"
    if field.default is dataclasses.MISSING:
        return ""
    if isinstance(field.default, int | float | str):
        return f" The default is {_written(field.default)}."
    return " Leave it out for the default."


def _written(value: float | str) -> str:
    """Return a number as people write it, a text in quotes."""
    return f"{value:,}" if isinstance(value, int) else repr(value)
