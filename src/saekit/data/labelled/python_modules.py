"""Python modules: pieces of four modules of Python's library, which every Python has."""

import functools
import importlib
import inspect
import platform
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from saekit.core.config import setting
from saekit.data.labelled import _splitting
from saekit.data.labelled.base import Example, Labelled, Task, registry

_CHARS = 120  # of a text
_MOST = 600  # texts of a module, so that the classes are about as large
_MODULES = {
    "argparse": "argparse",
    "decimal": "_pydecimal",
    "tarfile": "tarfile",
    "typing": "typing",
}


@registry.register
@dataclass(frozen=True, kw_only=True)
class PythonModules(Task):
    """Pieces of Python's own sources, by the module that they are from. Nothing is downloaded.

    A task of four classes, for tests and for a first look.

    Args:
        test_share: share of the texts that are test.

    Source:
        The Python that runs: its library.
    """

    name: ClassVar[str] = "python_modules"
    classes: ClassVar[tuple[str, ...]] = tuple(_MODULES)
    test_share: float = setting(0.3, above=0, below=1)

    @override
    def read(self) -> Labelled:
        return _read(self)


@functools.lru_cache(maxsize=4)
def _read(task: PythonModules) -> Labelled:
    examples = [
        Example(piece, label)
        for label, module in enumerate(_MODULES.values())
        for piece in _pieces(module)
    ]
    parts = _splitting.split_by_text(examples, task.test_share)
    _splitting.check(parts, task.classes, "the library of Python")
    provenance = {
        "source": "python",
        "version": platform.python_version(),
        "split": _splitting.split_rule(task.test_share),
        "left_out": parts.left_out,
        "notes": [],
    }
    return Labelled(parts.train, parts.test, task.classes, provenance)


def _pieces(module: str) -> list[str]:
    lines = inspect.getsource(importlib.import_module(module)).splitlines()
    text = " ".join(line.strip() for line in lines)
    return [text[i : i + _CHARS] for i in range(0, len(text) - _CHARS, _CHARS)][:_MOST]
