"""Find the variants of a kind by reading its package: one file, one variant, no list."""

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any, Generic, TypeVar

from saekit.core.errors import UnknownNameError, nearest

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])


class Registry(Generic[T]):
    """Maps a variant's `name` to its class; fills itself from the files of a package.

    Args:
        kind: what a variant is called in messages, as "architecture".
        package: the package whose modules hold one variant each. Modules whose name
            starts with an underscore are not variants.
    """

    def __init__(self, kind: str, package: ModuleType):
        self.kind = kind
        self._package = package
        self._entries: dict[str, type[Any]] = {}
        self._loaded = False

    def register(self, cls: C) -> C:
        """Class decorator, written once, in the variant's own file."""
        name = cls.name
        if name in self._entries:
            raise ValueError(
                f"{self.kind} `{name}` is defined twice: in "
                f"{self._entries[name].__module__} and in {cls.__module__}."
            )
        self._entries[name] = cls
        return cls

    def get(self, name: str) -> type[Any]:
        """Return the class registered under `name`.

        Raises:
            UnknownNameError: no file defines it.
        """
        if name not in self._entries:
            self._load()
        if name not in self._entries:
            raise UnknownNameError(
                f"There is no {self.kind} `{name}`; there are {', '.join(self.names())}."
                f"{nearest(str(name), self._entries)}"
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """Return every registered name, sorted."""
        self._load()
        return sorted(self._entries)

    def describe(self) -> list[dict[str, str]]:
        """Return name, first docstring line and module of every variant, sorted by name."""
        found = ((name, self.get(name)) for name in self.names())
        return [
            {
                "name": name,
                "about": (inspect.getdoc(cls) or "").partition("\n")[0],
                "module": cls.__module__,
            }
            for name, cls in found
        ]

    def _load(self) -> None:
        if self._loaded:
            return
        for module in pkgutil.iter_modules(self._package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{self._package.__name__}.{module.name}")
        self._loaded = True
