"""Searching: which latents of an index are on at a text, have it near them, or promote it."""

import functools
from typing import Any, Literal, NamedTuple

import numpy as np

from saekit.analysis.index_folder import Index
from saekit.analysis.index_words import ORDER
from saekit.core.errors import ConfigError
from saekit.data.parquet import Lists
from saekit.hub.index_manifest import DETAILS, EXAMPLES

Scope = Literal["any", "on", "text", "logits"]
SCOPES = ("any", "on", "text", "logits")
MOST_PLACES = 20_000  # of the text in the kept rows that are looked at
ON, NEAR, PROMOTED = 2.0, 0.5, 0.5  # what each part weighs where all are looked at


class Found(NamedTuple):
    """Latents that answer a search, the best first.

    Attributes:
        latents: their numbers.
        scores: how well each answers; of no meaning beyond their order.
    """

    latents: list[int]
    scores: list[float]


def search(index: Index, text: str, scope: str = "any") -> Found:
    """Return the latents of an index that have to do with a text.

    ASCII letters count alike in both cases.

    Args:
        index: the index.
        text: one character or more.
        scope: "on": how strongly, of its maximum, a latent is on at the token in which the text
            begins, in its examples; "text": in how many of its examples the text is; "logits":
            how early a token with the text comes among those that it promotes or suppresses;
            "any": all of them, weighed.

    Raises:
        ConfigError: there is no such scope, or nothing to search for.
        FormatError: a file of the index is damaged.
    """
    if scope not in SCOPES:
        raise ConfigError(f"`in` is one of {', '.join(SCOPES)}; got {scope!r:.40}.")
    if not text:
        raise ConfigError("There is nothing to search for. Give one character or more.")
    wanted = text.encode().lower()
    score = np.zeros(index.d_sae)
    if scope in ("any", "on", "text"):
        fires, near = _in_examples(index, wanted)
        score += {"any": ON * fires + NEAR * near, "on": fires, "text": near}[scope]
    if scope in ("any", "logits"):
        score += (PROMOTED if scope == "any" else 1.0) * _in_logits(index, wanted)
    order = np.argsort(-score, kind="stable")
    order = order[score[order] > 0]
    return Found(order.tolist(), [float(f"{s:.4g}") for s in score[order].tolist()])


class _Examples(NamedTuple):
    """The examples of an index by the row they are of, and the bytes of the rows."""

    text: bytes  # of every row, in lower case, each ended by NUL
    ends: np.ndarray  # of each token in `text`; the NUL of a row is one more token
    order: np.ndarray  # examples sorted by row
    rows: np.ndarray  # row of each, in that order
    latent: np.ndarray  # as they are in the file, with the next four
    start: np.ndarray
    end: np.ndarray
    at: Lists
    acts: Lists


@functools.lru_cache(maxsize=1)
def _examples(index: Index) -> _Examples:
    vocab = [raw.lower() for raw in index._vocab]
    tokens, _ = index._contexts
    parts = [[vocab[t] for t in row] + [b"\0"] for row in tokens.tolist()]
    lengths = np.fromiter((len(part) for row in parts for part in row), np.int64)
    names = ["latent", "band", "context", "start", "end", "at", "acts"]
    found: dict[str, Any] = index._open(EXAMPLES).read(names)
    keep = np.flatnonzero(found["band"] != ORDER.index("negative"))
    order = keep[np.argsort(found["context"][keep], kind="stable")]
    return _Examples(
        text=b"".join(b"".join(row) for row in parts),
        ends=lengths.cumsum(),
        order=order,
        rows=found["context"][order],
        latent=found["latent"],
        start=found["start"],
        end=found["end"],
        at=found["at"],
        acts=found["acts"],
    )


def _in_examples(index: Index, wanted: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return how strongly each latent is on at a text, and the share of its examples with it."""
    kept = _examples(index)
    width = index.n_ctx + 1
    fires, hits = np.zeros(index.d_sae), np.zeros(index.d_sae)
    largest = np.abs(np.nan_to_num(index.column("max")))
    seen: set[tuple[int, int]] = set()
    at = kept.text.find(wanted)
    for _ in range(MOST_PLACES):
        if at < 0:
            break
        token = int(np.searchsorted(kept.ends, at, side="right"))
        row, pos = divmod(token, width)
        first, last = np.searchsorted(kept.rows, [row, row + 1])
        for example in kept.order[first:last].tolist():
            start, latent = int(kept.start[example]), int(kept.latent[example])
            if not start <= pos < kept.end[example]:
                continue
            if (example, latent) not in seen:
                seen.add((example, latent))
                hits[latent] += 1
            on = np.flatnonzero(kept.at[example] == pos - start)
            if len(on) and largest[latent]:
                act = abs(float(kept.acts[example][on[0]])) / largest[latent]
                fires[latent] = max(fires[latent], min(act, 1.0))
        at = kept.text.find(wanted, at + 1)
    counts = np.bincount(kept.latent[kept.order], minlength=index.d_sae)
    return fires, hits / np.maximum(counts, 1)


def _in_logits(index: Index, wanted: bytes) -> np.ndarray:
    """Return 1 / (1 + rank) of the first token with a text among those a latent moves most."""
    ids = [i for i, raw in enumerate(index._vocab) if wanted in raw.lower()]
    best = np.zeros(index.d_sae)
    file = index._open(DETAILS)
    sides = [name for name in ("promoted", "suppressed") if name in file.names]
    for values in file.read(sides).values() if sides else ():
        assert isinstance(values, Lists)
        places = np.flatnonzero(np.isin(values.values, ids))
        latents = np.searchsorted(values.starts, places, side="right") - 1
        np.maximum.at(best, latents, 1.0 / (1 + places - values.starts[latents]))
    return best


def densities(index: Index, bins: int = 40) -> dict[str, Any]:
    """Return a histogram of the densities of latents, on a logarithmic scale.

    Returns:
        ``log10_edges``, ``latents`` between them, and ``never_fired``.
    """
    density = index.column("density")
    alive = density[density > 0]
    low = np.floor(np.log10(alive.min())) if len(alive) else -6.0
    counts, edges = np.histogram(np.log10(alive), bins=bins, range=(low, 0.0))
    return {
        "log10_edges": [round(float(e), 4) for e in edges],
        "latents": counts.tolist(),
        "never_fired": int(index.d_sae - len(alive)),
    }
