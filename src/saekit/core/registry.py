"""Find the variants of a kind by reading its package: no list of them anywhere."""

import importlib
import importlib.util
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
        package: the package whose modules hold the variants, as a rule one each. Modules
            whose name starts with an underscore hold none.
        of_studies: the folder of a study that may hold variants too, as "evals".
    """

    def __init__(self, kind: str, package: ModuleType, of_studies: str | None = None):
        self.kind = kind
        self._package = package
        self._of_studies = of_studies
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
        for package in [self._package, *self._packages_of_studies()]:
            for module in pkgutil.iter_modules(package.__path__):
                if not module.name.startswith("_"):
                    importlib.import_module(f"{package.__name__}.{module.name}")
        self._loaded = True

    def _packages_of_studies(self) -> list[ModuleType]:
        """Return the folder of this kind's variants of each study that has one."""
        if self._of_studies is None:
            return []
        names = (f"{study}.{self._of_studies}" for study in studies())
        return [importlib.import_module(name) for name in names if importlib.util.find_spec(name)]


def studies() -> list[str]:
    """Return the package of every study, as "saekit.studies.truth", sorted by name."""
    package = importlib.import_module("saekit.studies")
    return sorted(f"{package.__name__}.{m.name}" for m in pkgutil.iter_modules(package.__path__))
