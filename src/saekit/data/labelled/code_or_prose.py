"""Code or prose: lines of Python's library and of its manual, which every Python has."""

import functools
import importlib
import inspect
import platform
import pydoc_data.topics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from saekit.core.config import setting
from saekit.data.labelled import _splitting
from saekit.data.labelled.base import Example, Labelled, Task, registry

_CHARS = 120  # of a text
_MODULES = ("argparse", "ast", "calendar", "csv", "doctest", "heapq", "inspect", "pdb", "shutil")


@registry.register
@dataclass(frozen=True, kw_only=True)
class CodeOrProse(Task):
    """Pieces of Python's own sources, or of its manual. Nothing is downloaded.

    An easy task, for tests and for a first look.

    Args:
        test_share: share of the texts that are test.

    Source:
        The Python that runs: its library, and `pydoc_data.topics`.
    """

    name: ClassVar[str] = "code_or_prose"
    classes: ClassVar[tuple[str, ...]] = ("code", "prose")
    test_share: float = setting(0.3, above=0, below=1)

    @override
    def read(self) -> Labelled:
        return _read(self)


@functools.lru_cache(maxsize=4)
def _read(task: CodeOrProse) -> Labelled:
    examples = [*_pieces(_sources(), 0), *_pieces(_topics(), 1)]
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


def _pieces(texts: Iterator[str], label: int) -> Iterator[Example]:
    for text in texts:
        for first in range(0, len(text) - _CHARS, _CHARS):
            yield Example(text[first : first + _CHARS], label)


def _sources() -> Iterator[str]:
    for name in _MODULES:
        lines = inspect.getsource(importlib.import_module(name)).splitlines()
        yield " ".join(line.strip() for line in lines)


def _topics() -> Iterator[str]:
    for text in pydoc_data.topics.topics.values():
        yield " ".join(text.split())
