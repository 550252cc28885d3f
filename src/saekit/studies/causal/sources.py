"""Texts by a word, in three parts: to choose latents on, to choose settings on, and to test."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from saekit.core.errors import ConfigError, DataError, UnknownNameError, nearest
from saekit.core.files import digest
from saekit.data.base import Corpus, HeldOut, Split
from saekit.data.held_out import kept_from_all
from saekit.data.labelled.base import Source, open_task
from saekit.data.labelled.base import registry as tasks
from saekit.data.open import open_corpus

SIGN = "/"
PARTS = ("train", "validation", "test")
Trained = Sequence[tuple[str, Mapping[str, Any] | None]]


class Texts(NamedTuple):
    """Texts of one kind; no text is in two parts."""

    train: list[str]
    validation: list[str]
    test: list[str]
    provenance: dict[str, Any]

    @property
    def sha256(self) -> str:
        """SHA-256 of every text and its part."""
        parts = zip(PARTS, self[:3], strict=True)
        return digest([f"{name}\0{text}" for name, texts in parts for text in texts])


def texts_of(
    words: Sequence[str],
    source: Source,
    most: tuple[int, int],
    trained: Trained = (),
    split: HeldOut = "test",
) -> Texts:
    """Return texts of what words name, at most so many of each word.

    Of a corpus, latents are chosen on train text, settings on validation text, and the rest is
    test text. With split="validation" no test text is read, and every other validation text takes
    its place; where no text was kept for validation, halves of the test text are used. Labelled
    texts have a train and a test part alone: settings are chosen on texts of train on which no
    latent was chosen.

    Args:
        words: ``TASK/CLASS`` of labelled texts, or a corpus: a name, a file, a data set.
        source: where named tasks are read from.
        most: texts of a word to choose latents on; and for validation, with as many for the test.
        trained: of SAEs that are measured, what they were trained on: see `kept_from_all`.
        split: the split that is measured.

    Raises:
        ConfigError: their trainings kept no text in common.
        UnknownNameError: there is no such class or corpus.
        DataError: there is too little text.
    """
    found = Texts([], [], [], {})
    for word in words:
        name, sign, kind = word.partition(SIGN)
        if sign and name in tasks.names():
            one = _labelled(name, kind, source, most)
        else:
            one = _corpus(word, most, trained, split)
        if not all(one[:3]):
            raise DataError(
                f"{word} has {len(one.train)} texts to choose latents on, {len(one.validation)} "
                f"to choose settings on and {len(one.test)} to test on; each needs at least one. "
                f"Give more text."
            )
        for every, mine in zip(found[:3], one[:3], strict=True):
            every.extend(mine)
        found.provenance[word] = one.provenance
    return found


def source_name(word: str) -> str:
    """Return what the source of a word is called: a task without its class, or the corpus."""
    name, sign, _ = word.partition(SIGN)
    return name if sign and name in tasks.names() else word


def _labelled(name: str, kind: str, source: Source, most: tuple[int, int]) -> Texts:
    task = open_task(name, source).read()
    if kind not in task.classes:
        raise UnknownNameError(
            f"`{name}` has no class `{kind}`; it has {', '.join(task.classes)}."
            f"{nearest(kind, task.classes)}"
        )
    label = task.classes.index(kind)
    train, test = ([e.text for e in part if e.label == label] for part in (task.train, task.test))
    n_train, n_held = most
    fewer = len(train) - max(1, len(train) * n_held // (n_train + n_held))  # in their proportion
    cut = max(0, min(n_train, fewer))
    parts = {"train": "train", "validation": "train, other texts", "test": "test"}
    made_from = task.provenance | {"parts": parts}
    return Texts(train[:cut], train[cut : cut + n_held], test[:n_held], made_from)


def _corpus(word: str, most: tuple[int, int], trained: Trained, split: HeldOut) -> Texts:
    corpus, (n_train, n_held) = open_corpus(word), most
    dealt = kept_from_all(corpus, trained, split)
    train = _first(dealt, "train", n_train)
    choice = [] if split == "validation" else _validation(corpus, trained, n_held)
    notes: list[str] = []
    parts = {"train": "train", "validation": "validation", "test": "test"}
    if choice:
        test = _first(dealt, "test", n_held)
    else:  # one split holds all that may be read, and is read by halves
        held = _first(dealt, split, 2 * n_held)
        choice, test = held[0::2], held[1::2]
        parts |= {"validation": f"{split}, half of it", "test": f"{split}, the other half"}
        if split == "test":
            notes.append(
                "no text was kept for validation: settings are chosen on half of the test text, "
                "scores are of the other half"
            )
    made_from = corpus.provenance()
    said = {"notes": [*notes, *made_from.get("notes", [])], "parts": parts}
    return Texts(train, choice, test, made_from | said)


def _validation(corpus: Corpus, trained: Trained, n: int) -> list[str]:
    """Return validation texts; none where the trainings kept none in common."""
    try:
        return _first(kept_from_all(corpus, trained, "validation"), "validation", n)
    except ConfigError:
        return []


def _first(corpus: Corpus, split: Split, n: int) -> list[str]:
    return [d.text for d in itertools.islice(corpus.documents(split), n)]
