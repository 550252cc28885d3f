"""An index of chosen words, written by hand: what pages, server and export are tested on."""

import random
from pathlib import Path
from typing import Any

import numpy as np

from saekit.analysis.columns.base import registry
from saekit.analysis.examples import BANDS, ORDER
from saekit.analysis.index_words import ends_of
from saekit.analysis.token_sets import SETS
from saekit.core.files import sha256_of
from saekit.core.sealed import write_sealed
from saekit.data import parquet
from saekit.data.parquet import Lists
from saekit.hub.index_manifest import (
    CONTEXTS,
    DETAILS,
    EXAMPLES,
    FILES,
    FORMAT,
    LATENTS,
    MANIFEST,
    VERSION,
    VOCAB,
)

N_CTX, N_ROWS, BINS = 8, 40, 12


def made_index(
    folder: Path,
    words: list[str],
    *,
    d_sae: int = 8,
    n_examples: int = 3,
    dead: tuple[int, ...] = (0,),
    seed: int = 0,
    **manifest: Any,
) -> Path:
    """Write an index whose tokens are `words`, and return its folder.

    Args:
        folder: where to.
        words: the vocabulary; every text is drawn from it, and each begins with the first word.
        d_sae: latents.
        n_examples: of a latent in each band.
        dead: latents that are never on.
        seed: of the draws.
        manifest: entries of the manifest that are to be others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    alive = [i for i in range(d_sae) if i not in dead]
    tokens = np.array([[0, *chance.choices(range(len(words)), k=N_CTX - 1)] for _ in range(N_ROWS)])
    numbers: dict[str, tuple[str, str, str]] = {}
    for name in registry.names():
        numbers |= registry.get(name).columns
    columns: dict[str, Any] = {"latent": np.arange(d_sae, dtype=np.int32)}
    for name, _ in numbers.items():
        if name in ("token", "promotes", "suppresses", "token_set"):
            columns[name] = [words[i % len(words)] if i in alive else None for i in range(d_sae)]
        else:
            drawn = np.array([0.1234567 + chance.random() * 9 for _ in range(d_sae)])
            columns[name] = np.where(np.isin(np.arange(d_sae), alive), drawn, np.nan)
    parquet.write(folder / LATENTS, columns)
    rows = []
    for latent in alive:
        for band, name in enumerate(ORDER):
            for _ in range(n_examples):
                on = sorted(chance.sample(range(N_CTX), 2))
                off = name == "negative"
                rows.append((latent, band, chance.randrange(N_ROWS), on, not off))
    parquet.write(
        folder / EXAMPLES,
        {
            "latent": np.array([r[0] for r in rows], np.int32),
            "band": np.array([r[1] for r in rows], np.int8),
            "context": np.array([r[2] for r in rows], np.int32),
            "start": np.zeros(len(rows), np.uint16),
            "end": np.full(len(rows), N_CTX, np.uint16),
            "peak": np.array([r[3][0] for r in rows], np.uint16),
            "value": np.array([9.87654 if r[4] else 0 for r in rows], np.float32),
            "doc": np.array([r[2] for r in rows]),
            "at": Lists.of([r[3] if r[4] else [] for r in rows], np.uint16),
            "acts": Lists.of([[9.87654, 1.5] if r[4] else [] for r in rows], np.float32),
        },
        ends=[sum(r[0] < end for r in rows) for end in ends_of(d_sae)],
    )
    n = min(8, len(words))
    ids = np.array([chance.sample(range(len(words)), n) for _ in range(d_sae)], np.int32)
    counts = np.array([[40, 9, 3, 1] if i in alive else [0] * 4 for i in range(d_sae)], np.int32)
    near = np.array([[(i + 1) % d_sae, (i + 2) % d_sae] for i in range(d_sae)], np.int32)
    halves = np.full((d_sae, 2), 0.5, np.float32)
    details: dict[str, Any] = {
        "latent": np.arange(d_sae, dtype=np.int32),
        "histogram": Lists.equal(counts),
        "on": Lists.equal(ids[:, :2]),
        "on_counts": Lists.equal(np.full((d_sae, 2), 7, np.int32)),
        "on_shares": Lists.equal(halves),
        "logit_counts": Lists.equal(np.ones((d_sae, BINS), np.int32)),
        "set_z": Lists.equal(np.ones((d_sae, len(SETS)), np.float32)),
        "set_means": Lists.equal(np.ones((d_sae, len(SETS)), np.float32)),
        "decoder": Lists.equal(near),
        "decoder_cosines": Lists.equal(halves),
        "cofiring": Lists.equal(near),
        "cofiring_phi": Lists.equal(halves),
        "cofiring_both": Lists.equal(np.full((d_sae, 2), 3, np.int32)),
    }
    for side in ("promoted", "suppressed"):
        details[side] = Lists.equal(ids)
        details[f"{side}_values"] = Lists.equal(np.full((d_sae, n), 0.25, np.float32))
    for name, value in (("mean", 0.0), ("std", 1.0), ("low", -2.0), ("high", 2.0)):
        details[f"logit_{name}"] = np.full(d_sae, value, np.float32)
    parquet.write(folder / DETAILS, details, ends=ends_of(d_sae))
    parquet.write(
        folder / CONTEXTS,
        {
            "row": np.arange(N_ROWS),
            "tokens": Lists.equal(tokens.astype(np.uint16)),
            "docs": Lists.equal(np.repeat(np.arange(N_ROWS)[:, None], N_CTX, 1)),
        },
    )
    parquet.write(folder / VOCAB, {"token": [word.encode() for word in words]})
    sizes = {n: (folder / n).stat().st_size for n in FILES}
    write_sealed(
        folder / MANIFEST,
        {
            "format": FORMAT,
            "version": VERSION,
            "d_sae": d_sae,
            "n_ctx": N_CTX,
            "n_tokens": N_CTX * N_ROWS,
            "site": "L1.resid_post",
            "model": "tiny",
            "weights": "0" * 64,
            "sae": None,
            "at": None,
            "logits_of": "L1.resid_post",
            "window": 0,
            "split": "train",
            "settings": {"tokens": N_CTX * N_ROWS},
            "harvest": {"seen": N_CTX * N_ROWS, "special": 0, "high_norm": 0, "kept": 1},
            "counts": {"tokens": N_CTX * N_ROWS, "rows": N_ROWS, "entries": 9, "seconds": 1.0},
            "corpus": {},
            "card": {},
            "said": {"notes": []},
            "provenance": {},
            "files": {n: {"sha256": sha256_of(folder / n), "bytes": sizes[n]} for n in FILES},
            "columns": {
                name: {"label": label, "unit": unit, "about": about}
                for name, (label, unit, about) in numbers.items()
            },
            "bands": {n: {"title": title, "about": about} for n, (title, about) in BANDS.items()},
            "left_out": {},
            "layers": None,
            "cofiring_tokens": N_CTX * N_ROWS,
            "sets": {name: {"about": about, "tokens": 12} for name, about in SETS.items()},
            **manifest,
        },
    )
    return folder
