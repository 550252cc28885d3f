"""Texts of two binary attributes, in the four cells that these make."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saekit.core.errors import DataError
from saekit.data.labelled.base import Labelled, Source, name_of, open_task

N_CELLS = 4
PLUS = "+"


class Cells(NamedTuple):
    """Texts, and on which side of two attributes each is; train comes first."""

    name: str
    texts: list[str]
    first: Bool[Tensor, "n"]
    second: Bool[Tensor, "n"]
    n_train: int
    said: tuple[str, str]  # the attributes in words
    provenance: dict[str, Any]

    def cell(self, number: int, part: slice) -> Int[Tensor, "k"]:
        """Return the texts of a cell in a part: 0 is neither attribute, 3 both."""
        here = (self.first.long() * 2 + self.second.long()) == number
        at = here.nonzero()[:, 0]
        return at[
            (at >= (part.start or 0)) & (at < (len(self.texts) if part.stop is None else part.stop))
        ]


def name_of_cells(word: str) -> str:
    """Return what a word for two attributes is called in scores."""
    return PLUS.join(name_of(w) for w in word.split(PLUS))


def cells_of(word: str, source: Source, n_train: int, n_test: int) -> Cells:
    """Return texts of two attributes, as many in each of their four cells.

    Args:
        word: ``A+B``, two tasks with the same two classes: the class, and which of them a text is
            of; or one task of four classes, which are the cells in their order: the first attribute
            parts the first two from the last two, the second the odd from the even.
        source: where named tasks are read from.
        n_train: the most texts of a cell to train on.
        n_test: the most to test on.

    Raises:
        DataError: the classes are others, or a cell is empty.
        UnknownNameError: there is no such task.
    """
    words = word.split(PLUS)
    tasks = [open_task(one, source).read() for one in words]
    said, parts = _parts(word, words, tasks)
    kept: list[list[tuple[str, int]]] = []
    for part, most in zip(parts, (n_train, n_test), strict=True):
        least = min(sum(c == i for _, c in part) for i in range(N_CELLS))
        if not least:
            raise DataError(f"{word} has no text in one of its four cells. Give more text.")
        taken = [[p for p in part if p[1] == i][: min(least, most)] for i in range(N_CELLS)]
        kept.append([pair for cell in taken for pair in cell])
    every = [*kept[0], *kept[1]]
    cell = torch.tensor([c for _, c in every])
    made_of = {w: t.provenance for w, t in zip(words, tasks, strict=True)}
    return Cells(
        name_of_cells(word),
        [t for t, _ in every],
        cell >= 2,
        cell % 2 == 1,
        len(kept[0]),
        said,
        made_of,
    )


def _parts(
    word: str, words: list[str], tasks: list[Labelled]
) -> tuple[tuple[str, str], list[list[tuple[str, int]]]]:
    """Return the attributes in words, and text and cell of each example, train and test."""
    if len(tasks) == 2 and tasks[0].classes == tasks[1].classes and len(tasks[0].classes) == 2:  # noqa: PLR2004
        said = ("/".join(tasks[0].classes), "/".join(map(name_of, words)))
        parts = [
            [(e.text, 2 * e.label + i) for i, t in enumerate(tasks) for e in getattr(t, part)]
            for part in ("train", "test")
        ]
        return said, parts
    if len(tasks) == 1 and len(tasks[0].classes) == N_CELLS:
        a, b, c, d = tasks[0].classes
        said = (f"{a} or {b}/{c} or {d}", f"{a} or {c}/{b} or {d}")
        parts = [[(e.text, e.label) for e in part] for part in (tasks[0].train, tasks[0].test)]
        return said, parts
    found = "; ".join(f"{w}: {', '.join(t.classes)}" for w, t in zip(words, tasks, strict=True))
    raise DataError(
        f"Two attributes are A+B, two tasks of the same two classes, or a task of four classes; "
        f"got {word} ({found}). Name others, as sst2+yelp_polarity."
    )
