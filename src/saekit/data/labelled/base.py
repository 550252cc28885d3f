"""The contract of a task: labelled texts, of which a fixed part is test and never trained on."""

import abc
import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import saekit.data.labelled as package
from saekit.core.config import Config
from saekit.core.errors import UnknownNameError, nearest
from saekit.core.files import digest
from saekit.core.registry import Registry

Source = Literal["auto", "hub", "packaged"]


class Example(NamedTuple):
    """A text and the number of its class."""

    text: str
    label: int


class Labelled(NamedTuple):
    """The examples of a task. No text of `test` is in `train`."""

    train: list[Example]  # in the order of a hash of the text, so that a beginning is a sample
    test: list[Example]
    classes: tuple[str, ...]
    provenance: dict[str, Any]  # JSON-ready: where it is from, what was left out

    def first(self, n_train: int, n_test: int) -> "Labelled":
        """Return at most so many examples of each part."""
        return self._replace(train=self.train[:n_train], test=self.test[:n_test])

    @property
    def sha256(self) -> str:
        """SHA-256 of every text and label, to tell one set of examples from another."""
        parts = [
            f"{part}\0{e.label}\0{e.text}" for part in ("train", "test") for e in self._of(part)
        ]
        return digest(parts)

    def _of(self, part: str) -> list[Example]:
        return self.train if part == "train" else self.test


@dataclass(frozen=True, kw_only=True)
class Task(Config, abc.ABC):
    """Labelled texts, as a value: the same settings give the same examples."""

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the task class called `name`."""
        return registry.get(name)

    @abc.abstractmethod
    def read(self) -> Labelled:
        """Return the examples.

        Raises:
            DataError: there are none, or only of one class.
            ResourceError: they cannot be fetched.
        """


registry = Registry[Task]("task", package)


def name_of(word: str) -> str:
    """Return what a task is called in scores: its name, or the stem of its file."""
    return word if word in registry.names() else Path(word).stem


def open_task(word: str, source: Source = "auto") -> Task:
    """Return the task that a word of the command line stands for.

    Args:
        word: a name (``saekit list tasks``), or a file of one's own: CSV or JSON lines with the
            columns ``text`` and ``label``.
        source: where a named task is read from; see `saekit.data.labelled._published`.

    Raises:
        UnknownNameError: it is neither.
    """
    if word in registry.names():
        task = registry.get(word)()
        return replace(task, source=source) if hasattr(task, "source") else task
    path = Path(word).expanduser()
    there = False
    with contextlib.suppress(OSError):  # a word may be too long for the name of a file
        there = path.is_file()
    if there:
        return registry.get("labelled_file")(path=str(path.absolute()))
    names = registry.names()
    raise UnknownNameError(
        f"There is no task `{word}`, and no file of that name; there are {', '.join(names)}. A "
        f"file of your own is CSV or JSON lines with the columns text and label."
        f"{nearest(word, names)}"
    )
