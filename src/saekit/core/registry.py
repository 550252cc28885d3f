"""Find the variants of a kind by reading its package: no list of them anywhere.

A user's own parts register in the same way, from a file of theirs: one that is named (`use`, or
files in $SAEKIT_USE), or one that an installed package names as an entry point of `saekit.parts`.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from saekit.core.errors import ConfigError, SaekitError, UnknownNameError, nearest

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])

ENTRY_POINTS = "saekit.parts"
VARIABLE = "SAEKIT_USE"
_own: dict[str, type[Any]] = {}  # users' parts, by "kind name"
_used: dict[Path, ModuleType] = {}  # files that were imported as users' parts
_searched = False  # entry points and the variable were looked at


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
        """Class decorator, written once, in the variant's own file.

        Raises:
            ConfigError: another class has the name.
        """
        name, is_own = cls.name, not cls.__module__.startswith("saekit.")
        if is_own:
            self._load_package()  # so that a name of saekit's is refused here, not later
        before = self._entries.get(name)
        # A cell of a notebook that runs again defines its class again.
        again = is_own and before is not None and _place(before) == _place(cls)
        if before is not None and not again:
            raise ConfigError(
                f"{self.kind} `{name}` is defined twice: in {before.__module__} and in "
                f"{cls.__module__}. Give yours another name."
            )
        self._entries[name] = cls
        if is_own:
            _own[f"{self.kind} {name}"] = cls
        return cls

    def get(self, name: str) -> type[Any]:
        """Return the class registered under `name`.

        Raises:
            UnknownNameError: no file defines it.
        """
        is_name = isinstance(name, str)
        if is_name and name not in self._entries:
            self._load()
        if not is_name or name not in self._entries:
            raise UnknownNameError(
                f"There is no {self.kind} `{name}`; there are {', '.join(self.names())}."
                f"{nearest(str(name), self._entries)} One of your own is found in a file that is "
                f"named: saekit --use FILE, or ${VARIABLE}."
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
        self._load_package()
        _load_own()

    def _load_package(self) -> None:
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


def use(path: Path | str) -> ModuleType:
    """Import a file of the user's own parts, once, and return it as a module.

    Args:
        path: a Python file, whose classes register themselves; it is run.

    Raises:
        ConfigError: there is no such file, or it cannot be imported.
    """
    file = Path(path).expanduser().absolute()
    if file in _used:
        return _used[file]
    if file.suffix != ".py" or not file.is_file():
        raise ConfigError(f"A file of parts is a Python file, as my_parts.py; got {path}.")
    name = f"saekit_parts_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # of a .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    _used[file] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name], _used[file]
        if isinstance(error, SaekitError) or not isinstance(error, Exception):
            raise
        raise ConfigError(
            f"{path} could not be imported: {type(error).__name__}: {error}. Mend the file."
        ) from error
    return module


def used_files() -> list[Path]:
    """Return the files of users' parts that this process imported, for another one to import."""
    return list(_used)


def _load_own() -> None:
    """Import what $SAEKIT_USE and the entry points of installed packages name, once."""
    global _searched  # noqa: PLW0603 - done once a process
    if _searched:
        return
    _searched = True
    for path in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        use(path)
    for point in metadata.entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except SaekitError:
            raise
        except Exception as error:
            raise ConfigError(
                f"The entry point `{point.name}` of {ENTRY_POINTS}, {point.value}, could not be "
                f"imported: {type(error).__name__}: {error}. Mend or uninstall its package."
            ) from error


def own_parts(settings: Any = None) -> dict[str, dict[str, Any]]:
    """Return the user's own parts: where each is from, JSON-ready.

    Args:
        settings: of a run, with a ``name`` in each group: only the parts that it names; None: all.

    Returns:
        by "architecture toy": ``file`` (its name) and ``sha256``; both None where a class was
        defined in no file, as in a notebook.
    """
    names = None if settings is None else set(_names(settings))
    return {
        part: _origin(cls)
        for part, cls in sorted(_own.items())
        if names is None or part.rpartition(" ")[2] in names
    }


@contextlib.contextmanager
def missing_explained(parts: Any) -> Iterator[None]:
    """A context in which a name that is not found is said to be of a file that is not here.

    Args:
        parts: what `own_parts` gave when the files that are read were written; or None.
    """
    try:
        yield
    except UnknownNameError as error:
        lacking = [
            f"{part} ({origin.get('file') or 'defined in a notebook'}, SHA-256 "
            f"{str(origin.get('sha256'))[:12]})"
            for part, origin in (parts if isinstance(parts, Mapping) else {}).items()
            if part not in _own and isinstance(origin, Mapping)
        ]
        if not lacking:
            raise
        raise UnknownNameError(
            f"{error} It was made with parts of a user's own that are not here: "
            f"{', '.join(lacking)}."
        ) from error


def _names(settings: Any) -> Iterator[str]:
    if isinstance(settings, Mapping):
        if isinstance(settings.get("name"), str):
            yield settings["name"]
        for value in settings.values():
            yield from _names(value)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _names(value)


def _origin(cls: type[Any]) -> dict[str, Any]:
    try:
        file = Path(inspect.getfile(cls))
        return {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    except (OSError, TypeError):
        return {"file": None, "sha256": None}


def _place(cls: type[Any]) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__
