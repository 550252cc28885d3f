"""Text that two documents share, measured in runs of words."""

import re
from collections.abc import Sequence

import numpy as np

NGRAM_WORDS = 8
_WORD = re.compile(r"\w+")
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads small integers
_SHIFT = np.uint64(29)


class NGrams:
    """The word n-grams of several documents, as 64-bit hashes.

    Args:
        texts: the documents. Case, punctuation and spacing do not count.
        n: words a gram. A document of fewer words has none.
    """

    def __init__(self, texts: Sequence[str], n: int = NGRAM_WORDS):
        vocabulary: dict[str, int] = {}
        parts, counts = [np.empty(0, dtype=np.uint64)], []
        for text in texts:
            words = [
                vocabulary.setdefault(w, len(vocabulary) + 1) for w in _WORD.findall(text.lower())
            ]
            grams = _grams(np.array(words, dtype=np.uint64), n)
            parts.append(grams)
            counts.append(len(grams))
        self.hashes = np.concatenate(parts)  # [n_grams] uint64
        self.counts = np.array(counts, dtype=np.int64)  # [n_docs]
        self.docs = np.repeat(np.arange(len(counts)), self.counts)  # [n_grams]

    def shares(self, marked: np.ndarray) -> np.ndarray:
        """Return the share of marked grams of each document, 0 where it has no gram.

        Args:
            marked: ``[n_grams]`` bool.

        Returns:
            ``[n_docs]`` float64, 0 to 1.
        """
        hits = np.bincount(self.docs[marked], minlength=len(self.counts))
        return hits / np.maximum(self.counts, 1)

    def seen_before(self) -> np.ndarray:
        """Return, for each document, the share of its grams that an earlier document has."""
        _, first, inverse = np.unique(self.hashes, return_index=True, return_inverse=True)
        return self.shares(self.docs[first][inverse] < self.docs)

    def in_others(self, asked: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return, for each asked document, the share of its grams that any of the others has.

        Args:
            asked: ``[n_docs]`` bool; documents not asked for have share 0.
            others: ``[n_docs]`` bool.
        """
        pool = np.unique(self.hashes[others[self.docs]])
        return self.shares(asked[self.docs] & np.isin(self.hashes, pool))


def _grams(words: np.ndarray, n: int) -> np.ndarray:
    if len(words) < n:
        return np.empty(0, dtype=np.uint64)
    out = np.zeros(len(words) - n + 1, dtype=np.uint64)
    for i in range(n):  # wraps modulo 2^64, as it should
        out = (out ^ words[i : i + len(out)]) * _MIX
        out ^= out >> _SHIFT
    return out
