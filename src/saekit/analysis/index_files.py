"""The files of an index: tables sorted by latent, so that one latent is one small read."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saekit.activations.latents import LatentStore
from saekit.analysis.act_histogram import ActHistogram
from saekit.analysis.columns.base import Made, registry
from saekit.analysis.examples import BANDS, Examples
from saekit.analysis.firing import Firing
from saekit.analysis.index_words import ends_of, group_of
from saekit.analysis.neighbours import alike, together
from saekit.analysis.token_sets import SETS
from saekit.core.errors import DataError
from saekit.data import parquet
from saekit.data.parquet import Lists, Values
from saekit.hub.index_manifest import CONTEXTS, DETAILS, EXAMPLES, LATENTS, VOCAB

BINS = 24  # of the histogram of activations
NEAR = 8  # neighbours of a latent
ON_TOKENS = 12  # commonest tokens of a latent that are kept
KEPT_BITS = 14  # of the 23 of a float32's fraction: over four digits

Said = Callable[[str], None]


def write_files(
    made: Made, out: Path, profile: Mapping[str, LatentStore] | None = None
) -> dict[str, Any]:
    """Write the tables of an index to a folder and return what its manifest says of them.

    Args:
        made: what it is made from.
        out: a new folder.
        profile: the codes at every site of an SAE that several share, in order.
    """
    columns, values = _columns(made)
    units = {name: about["unit"] for name, about in columns.items() if about["unit"]}
    parquet.write(out / LATENTS, values, units=units)
    _write_examples(made, out)
    details, said = _details(made, profile)
    parquet.write(out / DETAILS, details, ends=ends_of(made.store.d_sae))
    parquet.write(out / VOCAB, {"token": made.vocab})
    bands = {name: {"title": title, "about": about} for name, (title, about) in BANDS.items()}
    return {"columns": columns, "bands": bands, "group": group_of(made.store.d_sae), **said}


def _columns(made: Made) -> tuple[dict[str, dict[str, str]], dict[str, Values]]:
    """Return what is said of every column, and the columns of the table of latents."""
    said: dict[str, dict[str, str]] = {}
    values: dict[str, Values] = {"latent": np.arange(made.store.d_sae, dtype=np.int32)}
    groups = registry.names()
    for group in sorted(groups, key=lambda name: (name != "activity", name)):
        part = registry.get(group)
        found = part().run(made)
        for name, (label, unit, about) in part.columns.items():
            if name not in found:
                continue
            if name in values:
                raise DataError(
                    f"Two groups of columns have a column `{name}`; the second is `{group}` "
                    f"({part.__module__}). Give it another name."
                )
            values[name] = _checked(name, found[name], made.store.d_sae)
            said[name] = {"label": label, "unit": unit, "about": about}
    return said, values


def _checked(name: str, values: Tensor | list[Any], n: int) -> Values:
    if len(values) != n:
        raise DataError(f"The column `{name}` has {len(values):,} values for {n:,} latents.")
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    if any(isinstance(v, str) for v in values):
        return values
    return np.array([np.nan if v is None else v for v in values])


def _write_examples(made: Made, out: Path) -> None:
    """Write the examples, and once each the rows of text that they are from."""
    e = made.examples
    rows, context = np.unique(e.row, return_inverse=True)
    tokens, docs = made.store.rows(torch.from_numpy(rows))
    kind = np.uint16 if len(made.vocab) <= 2**16 else np.int32
    parquet.write(
        out / CONTEXTS,
        {
            "row": rows.astype(np.int64),
            "tokens": Lists.equal(tokens.numpy().astype(kind)),
            "docs": Lists.equal(docs.numpy()),
        },
    )
    ends = np.searchsorted(e.latent, ends_of(made.store.d_sae)).tolist()
    short = np.uint16 if made.store.n_ctx < 2**16 else np.int32
    columns: dict[str, Values] = {
        "latent": e.latent.astype(np.int32),
        "band": e.band.astype(np.int8),
        "context": context.astype(np.int32),
        "start": e.start.astype(short),
        "end": e.end.astype(short),
        "peak": (e.pos - e.start).astype(short),
        "value": e.value,
        "doc": e.doc,
        "at": Lists(e.at.astype(short), e.starts),
        "acts": Lists(_packed(e), e.starts),
    }
    parquet.write(out / EXAMPLES, columns, ends=ends)


def _packed(e: Examples) -> np.ndarray:
    """Return activations in half precision where three digits survive it."""
    size = np.abs(e.acts)
    if not len(size) or (size.max() < 6e4 and size.min() > 6.2e-5):
        return e.acts.astype(np.float16)
    return e.acts


def _short(values: Any) -> np.ndarray:
    """Return float32 without the digits that nobody reads: they take most of the place."""
    found = np.ascontiguousarray(np.asarray(values, dtype=np.float32))
    mask = np.uint32(0xFFFFFFFF << (23 - KEPT_BITS) & 0xFFFFFFFF)
    half = np.uint32(1 << (22 - KEPT_BITS))
    bits = found.view(np.uint32)
    rounded = ((bits + half) & mask).view(np.float32)
    return np.where(np.isfinite(found), rounded, found)


def _details(
    made: Made, profile: Mapping[str, LatentStore] | None
) -> tuple[dict[str, Values], dict[str, Any]]:
    """Return what is shown of one latent alone, and what the manifest says of it."""
    store = made.store
    found: dict[str, Values] = {"latent": np.arange(store.d_sae, dtype=np.int32)}
    counts = ActHistogram(bins=BINS).counts(store).numpy().astype(np.int32)
    found["histogram"] = Lists.equal(counts)
    found |= _tokens_of(made)
    said: dict[str, Any] = {"left_out": {}, "layers": None, "sets": None}
    if (logits := made.logits) is not None:
        top = logits.top
        for side, ids, values in (
            ("promoted", top.promoted, top.promoted_values),
            ("suppressed", top.suppressed, top.suppressed_values),
        ):
            found[side] = Lists.equal(ids.numpy().astype(np.int32))
            found[f"{side}_values"] = Lists.equal(_short(values))
        for name in ("mean", "std", "low", "high"):
            found[f"logit_{name}"] = _short(getattr(logits, name))
        found["logit_counts"] = Lists.equal(logits.counts.numpy().astype(np.int32))
        found["set_z"] = Lists.equal(_short(logits.sets.z))
        found["set_means"] = Lists.equal(_short(logits.sets.mean))
        sizes = made.sets.sizes.tolist()
        names = enumerate(made.sets.names)
        said["sets"] = {name: {"about": SETS[name], "tokens": sizes[i]} for i, name in names}
    near = alike(made.directions.to(made.lm.device), NEAR)
    if near is None:
        said["left_out"]["decoder"] = "too many latents to compare each with each on a CPU"
    else:
        found["decoder"] = Lists.equal(near.latents.numpy().astype(np.int32))
        found["decoder_cosines"] = Lists.equal(_short(near.values))
    both, said["cofiring_tokens"] = together(store, NEAR)
    found["cofiring"] = Lists.equal(both.latents.numpy().astype(np.int32))
    found["cofiring_phi"] = Lists.equal(_short(both.values))
    assert both.both is not None
    found["cofiring_both"] = Lists.equal(both.both.numpy().astype(np.int32))
    if profile is not None:
        said["layers"] = list(profile)
        found |= _profile(list(profile.values()))
    return found, said


def _tokens_of(made: Made) -> dict[str, Values]:
    """Return the commonest tokens of each latent: how often, and share of that token's places."""
    every = made.fired.tokens.tolist()
    listed = Firing(top=ON_TOKENS).top_tokens(made.fired.triggers, made.store.d_sae)
    shares = [[n / every[token] for token, n in each] for each in listed]
    return {
        "on": Lists.of([[token for token, _ in each] for each in listed], np.int32),
        "on_counts": Lists.of([[n for _, n in each] for each in listed], np.int32),
        "on_shares": Lists(_short((s := Lists.of(shares, np.float32)).values), s.starts),
    }


def _profile(stores: Sequence[LatentStore]) -> dict[str, Values]:
    """Return density, mean and maximum of each latent by site."""
    counts = torch.stack([s.counts for s in stores], 1).double()
    n = torch.tensor([s.n_tokens for s in stores]).double()
    mean = torch.stack([s.sums for s in stores], 1) / counts
    maxima = torch.stack([s.maxima for s in stores], 1).double()
    return {
        "layer_density": Lists.equal(_short(counts / n)),
        "layer_mean": Lists.equal(_short(mean)),
        "layer_max": Lists.equal(_short(maxima.where(counts > 0, torch.nan))),
    }
