"""Text for SAEs that are trained: dealt so that nothing they were trained on is measured."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from saekit.core.errors import ConfigError
from saekit.data.base import Corpus, Shares, Split


def shares_of(trained_on: Mapping[str, Any] | None) -> Shares | None:
    """Return how the text of a training was dealt.

    Args:
        trained_on: the text, as its `to_dict`; None: not known.

    Returns:
        None where nobody says, or where the text has a rule of its own.
    """
    raw = trained_on or {}
    if "test_share" in raw:
        return Shares(float(raw.get("validation_share", 0.0)), float(raw["test_share"]))
    parts = (shares_of(part) for part in raw.get("parts", ()))
    return next((part for part in parts if part is not None), None)


def kept_from(corpus: Corpus, trained_on: Mapping[str, Any] | None) -> Corpus:
    """Return a text whose validation and test parts have no document that an SAE was trained on.

    It is dealt as the text of training was. Where a document goes is decided by its own words
    alone, so one that both texts have goes to the same part of both.

    Args:
        corpus: the text to measure on.
        trained_on: the text of training, as its `to_dict`; None: not known.

    Raises:
        ConfigError: training kept text for validation, and this corpus has no such part.
    """
    shares = shares_of(trained_on)
    return corpus if shares is None else corpus.with_shares(shares)


def kept_from_all(
    corpus: Corpus, trained: Iterable[tuple[str, Mapping[str, Any] | None]], split: Split
) -> Corpus:
    """Return a text of which a part has no document that any of several SAEs was trained on.

    Where their trainings dealt text differently, that part is what all of them kept for it.

    Args:
        corpus: the text to measure on.
        trained: the name of each SAE and the text of its training, as its `to_dict`, or None.
        split: the part that is read.

    Raises:
        ConfigError: they kept no text in common for it.
    """
    said = [(name, shares_of(trained_on)) for name, trained_on in trained]
    known = [(name, shares) for name, shares in said if shares is not None]
    every = {shares for _, shares in known}
    if len(every) <= 1:
        return corpus.with_shares(every.pop()) if every else corpus
    begin = max(shares.region(split)[0] for shares in every)
    end = min(shares.region(split)[1] for shares in every)
    if not begin < end:
        words = "; ".join(
            dict.fromkeys(
                f"{name} validation_share {s.validation:g}, test_share {s.test:g}"
                for name, s in known
            )
        )
        raise ConfigError(
            f"SAEs that are measured together read one text, and the {split} text of one was "
            f"trained on, or chosen by, in another: {words}. Measure them one by one, each on its "
            f"own {split} text (saekit eval), or train them with the same shares."
        )
    if split == "validation":
        return corpus.with_shares(Shares(end, min(shares.held_out for shares in every) - end))
    test = end - begin
    if begin + test > end:  # by rounding: no document beyond the end is read
        test = math.nextafter(test, 0.0)
    return corpus.with_shares(Shares(begin, test))
