"""Labelled texts without copies, split so that no test text is near one of train."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from saekit.core.errors import DataError
from saekit.data.labelled.base import Example
from saekit.data.overlap import NGrams
from saekit.data.split import RULE, fingerprint, normalise, split_of

GRAM_WORDS = 4
MOST_SHARED = 0.3  # share of its 4-word runs that a test text may have in common with train
LEAST_CLASSES = 2


class Parts(NamedTuple):
    """Examples to train on and to test on, and how many were left out and why."""

    train: list[Example]
    test: list[Example]
    left_out: dict[str, int]


def unique(examples: Iterable[Example]) -> tuple[list[Example], dict[str, int]]:
    """Return each text once, in the order of its hash; none that comes with two labels.

    Two texts that differ in case or spacing alone are one.
    """
    found: dict[str, Example] = {}
    two: set[str] = set()
    counts = {"without_text": 0, "copies": 0, "with_two_labels": 0}
    for example in examples:
        key = normalise(example.text)
        if not key:
            counts["without_text"] += 1
        elif key not in found:
            found[key] = example
        else:
            counts["copies"] += 1
            if found[key].label != example.label:
                two.add(key)
    counts["with_two_labels"] = len(two)
    kept = [example for key, example in found.items() if key not in two]
    return sorted(kept, key=lambda e: (fingerprint(e.text), e.text)), counts


def split_by_text(examples: Iterable[Example], test_share: float) -> Parts:
    """Return a train and a test part that share no passage.

    A text belongs to a part by its own hash. Texts below 4 words are left out, for they come
    inside of others; and so is each test text that has over 30 % of its 4-word runs in train, as
    a phrase of a sentence there, or another question about its passage.

    Args:
        examples: in any order.
        test_share: expected share of test texts before those near train are left out.
    """
    kept, counts = unique(examples)
    grams = NGrams([e.text for e in kept], GRAM_WORDS)
    long = grams.counts > 0
    is_test = np.array([split_of(e.text, test_share) == "test" for e in kept], dtype=bool)
    shared = grams.in_others(is_test & long, ~is_test & long)
    test = is_test & long & (shared <= MOST_SHARED)
    counts |= {
        "below_4_words": int((~long).sum()),
        "test_near_train": int((is_test & long).sum() - test.sum()),
    }
    train = [kept[i] for i in np.flatnonzero(~is_test & long)]
    return Parts(train, [kept[i] for i in np.flatnonzero(test)], counts)


def keep_test(train: Iterable[Example], test: Iterable[Example]) -> Parts:
    """Return parts that somebody split before: test as it is, train without a text of test."""
    held, of_test = unique(test)
    texts = {normalise(e.text) for e in held}
    kept, counts = unique(train)
    clean = [e for e in kept if normalise(e.text) not in texts]
    counts = {f"train_{k}": n for k, n in counts.items()} | {
        f"test_{k}": n for k, n in of_test.items()
    }
    return Parts(clean, held, counts | {"train_in_test": len(kept) - len(clean)})


def check(parts: Parts, classes: Sequence[str], what: str) -> None:
    """Refuse parts that no probe can be trained or tested on.

    Raises:
        DataError: a part has fewer than two classes.
    """
    for name, examples in (("train", parts.train), ("test", parts.test)):
        there = {e.label for e in examples}
        if len(there) < LEAST_CLASSES:
            out = ", ".join(
                f"{n} {why.replace('_', ' ')}" for why, n in parts.left_out.items() if n
            )
            raise DataError(
                f"The {name} part of {what} has {len(examples)} texts of {len(there)} classes; at "
                f"least {LEAST_CLASSES} classes are needed. Left out are {out}. Give more "
                f"labelled text."
            )
    if missing := {e.label for e in parts.test} - {e.label for e in parts.train}:
        names = ", ".join(classes[i] for i in sorted(missing))
        raise DataError(
            f"The test part of {what} has classes that its train part lacks: {names}. Give more "
            f"labelled text of them."
        )


def split_rule(test_share: float) -> dict[str, Any]:
    """Return how `split_by_text` splits, JSON-ready."""
    return {
        "test_share": test_share,
        "rule": f"{RULE}; test texts with over {MOST_SHARED:.0%} of their {GRAM_WORDS}-word runs "
        f"in train left out, texts below {GRAM_WORDS} words too",
    }
