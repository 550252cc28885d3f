"""Texts by a word, in three parts: to choose latents on, to choose settings on, and to test."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from saekit.core.errors import DataError, UnknownNameError, nearest
from saekit.core.files import digest
from saekit.data.held_out import kept_from_all
from saekit.data.labelled.base import Source, open_task
from saekit.data.labelled.base import registry as tasks
from saekit.data.open import open_corpus

SIGN = "/"


class Texts(NamedTuple):
    """Texts of one kind; no text is in two parts."""

    train: list[str]
    validation: list[str]
    test: list[str]
    provenance: dict[str, Any]

    @property
    def sha256(self) -> str:
        """SHA-256 of every text and its part."""
        parts = zip(("train", "validation", "test"), self[:3], strict=True)
        return digest([f"{name}\0{text}" for name, texts in parts for text in texts])


def texts_of(
    words: Sequence[str],
    source: Source,
    n_train: int,
    n_test: int,
    trained: Sequence[tuple[str, Mapping[str, Any] | None]] = (),
) -> Texts:
    """Return texts of what words name, at most so many of each word.

    The train part of a source chooses latents; of its held-out part every other text is for
    validation, and the rest is test.

    Args:
        words: ``TASK/CLASS`` of labelled texts, or a corpus: a name, a file, a data set.
        source: where named tasks are read from.
        n_train: texts of a word to choose latents on.
        n_test: texts for validation, and as many for the test.
        trained: of SAEs that are measured, what they were trained on: see `kept_from_all`.

    Raises:
        ConfigError: their trainings kept no text in common.
        UnknownNameError: there is no such class or corpus.
        DataError: there is too little text.
    """
    found = Texts([], [], [], {})
    for word in words:
        train, held, made_from = _parts(word, source, (n_train, 2 * n_test), trained)
        if not train or len(held) < 2:  # noqa: PLR2004 - one for each of the held-out parts
            raise DataError(
                f"{word} has {len(train)} texts to choose latents on and {len(held)} held out; at "
                f"least 1 and 2 are needed. Give more text."
            )
        found.train.extend(train)
        found.validation.extend(held[0::2])
        found.test.extend(held[1::2])
        found.provenance[word] = made_from
    return found


def _parts(
    word: str,
    source: Source,
    most: tuple[int, int],
    trained: Sequence[tuple[str, Mapping[str, Any] | None]],
) -> tuple[list[str], list[str], dict[str, Any]]:
    (n_train, n_held), (name, sign, kind) = most, word.partition(SIGN)
    if sign and name in tasks.names():
        task = open_task(name, source).read()
        if kind not in task.classes:
            raise UnknownNameError(
                f"`{name}` has no class `{kind}`; it has {', '.join(task.classes)}."
                f"{nearest(kind, task.classes)}"
            )
        label = task.classes.index(kind)
        train, test = (
            [e.text for e in part if e.label == label] for part in (task.train, task.test)
        )
        return train[:n_train], test[:n_held], task.provenance
    corpus = kept_from_all(open_corpus(word), trained, "test")
    train = [d.text for d in itertools.islice(corpus.documents("train"), n_train)]
    test = [d.text for d in itertools.islice(corpus.documents("test"), n_held)]
    return train, test, {"notes": []} | corpus.provenance()
