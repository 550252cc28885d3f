"""Runs that have a name: each file has a function, called like the file, that returns a `Run`."""

import importlib
import pkgutil
from typing import TYPE_CHECKING

from saekit.core.errors import UnknownNameError, nearest

if TYPE_CHECKING:
    from saekit.training.run import Run


def names() -> list[str]:
    """Return the names of all recipes."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def get(name: str) -> "Run":
    """Return the run of a recipe.

    Raises:
        UnknownNameError: there is no such recipe.
    """
    if name not in names():
        raise UnknownNameError(
            f"There is no recipe `{name}`; there are {', '.join(names())}.{nearest(name, names())}"
        )
    return getattr(importlib.import_module(f"{__name__}.{name}"), name)()
