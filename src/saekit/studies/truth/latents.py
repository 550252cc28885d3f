"""The latents of a synthetic model's SAE as an index: what the explorer and queries show of them.

Samples of a synthetic model have no tokens, so there are no texts in it, and no examples: a latent
is known by the feature that it stands for.
"""

from pathlib import Path
from typing import Any

import numpy as np

from saekit.analysis.index_words import ends_of, group_of
from saekit.analysis.indexing import is_replaced
from saekit.analysis.neighbours import alike
from saekit.core import provenance
from saekit.core.files import sha256_of
from saekit.core.lock import made_whole
from saekit.core.result import Result
from saekit.core.sealed import write_sealed
from saekit.data import parquet
from saekit.data.parquet import Lists, Values
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
from saekit.hub.sae_files import fingerprint
from saekit.hub.trained import TrainedSAE, weights_digest
from saekit.studies.truth.words import COLUMNS

NEAR = 8  # neighbours of a latent
NOTE = (
    "It was trained on samples of a synthetic model, which have no tokens: there are no example "
    "texts. What each latent stands for is in its panel Ground truth."
)


def write_index(loaded: TrainedSAE, result: Result, out: Path) -> Path:
    """Write an index of the latents of an SAE, from what was measured of them, and return it.

    Args:
        loaded: the SAE.
        result: of the evaluation `ground_truth`.
        out: the folder to make; an index in it is replaced.

    Raises:
        ConfigError: there is something else at `out`.
        MissingExtraError: pyarrow is not installed.
    """
    parquet.check()
    measured = result.details["by_latent"]
    values: dict[str, Values] = {"latent": np.arange(len(measured["feature"]), dtype=np.int32)}
    for name in COLUMNS:
        cells = [None if name == "matched_feature" and v == -1 else v for v in measured[name]]
        values[name] = np.array([np.nan if v is None else v for v in cells])
    units = {name: unit for name, (_, unit, _) in COLUMNS.items() if unit}
    directions = loaded.sae.directions().detach()
    while directions.ndim > 2:
        directions = directions[0]
    near = alike(directions, NEAR)
    details: dict[str, Values] = {"latent": values["latent"]}
    if near is not None:
        details["decoder"] = Lists.equal(near.latents.numpy().astype(np.int32))
        details["decoder_cosines"] = Lists.equal(near.values.numpy().astype(np.float32))
    ends = ends_of(loaded.sae.cfg.d_sae)
    with made_whole(out, "saekit truth eval", replaces=is_replaced) as part:
        parquet.write(part / LATENTS, values, units=units)
        parquet.write(part / DETAILS, details, ends=ends)
        parquet.write(part / EXAMPLES, _no_examples(), ends=[0 for _ in ends])
        none = np.zeros((0, 1), np.int32)
        texts: dict[str, Values] = {"row": np.zeros(0, np.int64)}
        texts |= {"tokens": Lists.equal(none), "docs": Lists.equal(none)}
        parquet.write(part / CONTEXTS, texts)
        parquet.write(part / VOCAB, {"token": []})
        write_sealed(part / MANIFEST, _manifest(loaded, result, part))
    return out


def _no_examples() -> dict[str, Values]:
    whole = ("latent", "band", "context", "start", "end", "peak", "doc")
    columns: dict[str, Values] = {name: np.zeros(0, np.int32) for name in whole}
    columns["value"] = np.zeros(0, np.float32)
    for name in ("at", "acts"):
        columns[name] = Lists(np.zeros(0, np.float32), np.zeros(1, np.int64))
    return columns


def _manifest(loaded: TrainedSAE, result: Result, part: Path) -> dict[str, Any]:
    card, n = loaded.card, int(result.details["tokens"])
    sizes = {f: {"sha256": sha256_of(part / f), "bytes": (part / f).stat().st_size} for f in FILES}
    return {
        "format": FORMAT,
        "version": VERSION,
        "d_sae": loaded.sae.cfg.d_sae,
        "n_ctx": 1,
        "n_tokens": n,
        "site": card.pair.label,
        "model": card.model.get("name", "unknown"),
        "weights": weights_digest(loaded.sae),
        "sae": None if loaded.folder is None else str(loaded.folder),
        "sae_files": None if loaded.folder is None else fingerprint(loaded.folder),
        "counts": {"tokens": n},
        "corpus": card.corpus,
        "card": card.to_dict(),
        "said": {"notes": [NOTE]},
        "provenance": provenance.collect(),
        "files": sizes,
        "columns": {
            name: {"label": label, "unit": unit, "about": about}
            for name, (label, unit, about) in COLUMNS.items()
        },
        "bands": {},
        "group": group_of(loaded.sae.cfg.d_sae),
        "left_out": {},
        "layers": None,
        "sets": None,
    }
