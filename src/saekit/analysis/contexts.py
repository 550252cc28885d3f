"""The text around chosen events, with the latent's activation on every token of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.activations.latents import LatentStore
from saekit.analysis.max_acts import Peaks
from saekit.core.result import Table

DIGITS = 4  # significant digits of the activations in records; tables keep them all


def contexts(
    store: LatentStore, peaks: Peaks, pieces: Callable[[Sequence[int]], list[str]]
) -> dict[int, list[dict[str, Any]]]:
    """Return a JSON-ready record of the window around each event, by latent.

    A window holds up to `peaks.before` tokens before the event and `peaks.after` after it,
    all of the event's own document and row.

    Args:
        store: where the events are from.
        peaks: the events.
        pieces: one string per id, as `Tokenizer.pieces`; called once per window.

    Returns:
        For each latent its events in the order given: ``tokens`` (strings), ``acts`` (its
        activation on each token, act units, 4 significant digits), ``peak`` (index of the
        event in the window), ``value`` (activation there), ``row`` and ``pos`` (place of the
        peak in the token stream) and ``doc`` (index of the document).
    """
    if not len(peaks.row):
        return {}
    rows, which = peaks.row.unique(return_inverse=True)
    tokens, doc_ids = store.rows(rows)
    offsets = torch.arange(-peaks.before, peaks.after + 1)
    pos = peaks.pos[:, None] + offsets  # [m, window]
    inside = (pos >= 0) & (pos < store.n_ctx)
    at = pos.clamp(0, store.n_ctx - 1)
    docs = doc_ids[which[:, None], at]
    home = doc_ids[which, peaks.pos]
    inside &= docs == home[:, None]
    ids = tokens[which[:, None], at]
    acts = _acts_at(store, peaks, at, inside)

    begin = inside.int().argmax(dim=1)  # a document is one stretch of a row
    end = begin + inside.sum(dim=1)
    found: dict[int, list[dict[str, Any]]] = {}
    columns = (peaks.latent, peaks.row, peaks.pos, peaks.value, home, begin, end, ids, acts)
    lists = (column.tolist() for column in columns)
    for latent, row, peak_pos, value, doc, a, b, window, window_acts in zip(*lists, strict=True):
        found.setdefault(latent, []).append(
            {
                "tokens": pieces(window[a:b]),
                "acts": [_short(act) for act in window_acts[a:b]],
                "peak": peaks.before - a,
                "value": _short(value),
                "row": row,
                "pos": peak_pos,
                "doc": doc,
            }
        )
    return found


def latent_records(
    stats: Table,
    found: Mapping[int, list[dict[str, Any]]],
    logits: Sequence[Mapping[str, Any]] | None = None,
    spread: Mapping[int, list[dict[str, Any]]] | None = None,
    histogram: Int[Tensor, "d_sae bins"] | None = None,
) -> dict[str, Any]:
    """Return the content of a run's `index/contexts.json`: one record a latent.

    Args:
        stats: a table with columns ``latent``, ``density`` and ``max``.
        found: what `contexts` gave.
        logits: ``promoted`` and ``suppressed`` tokens by latent, as `TopLogits.records`;
            None where the SAE does not write to the residual stream.
        spread: contexts from the whole range of each latent, as `contexts` gave them.
        histogram: activations by size, as `ActHistogram.counts` gave them.
    """
    columns = stats.columns
    records = []
    for i, latent in enumerate(columns["latent"]):
        record = {
            "latent": latent,
            "density": columns["density"][i],
            "max": None if math.isnan(columns["max"][i]) else columns["max"][i],
            "contexts": found.get(latent, []),
        }
        if spread is not None:
            record["spread"] = spread.get(latent, [])
        if histogram is not None:
            record["histogram"] = histogram[latent].tolist()
        records.append(record | dict(logits[latent] if logits is not None else {}))
    return {"latents": records}


def _acts_at(
    store: LatentStore, peaks: Peaks, at: Int[Tensor, "m window"], inside: Bool[Tensor, "m window"]
) -> Float[Tensor, "m window"]:
    """Return each event's latent at the positions of its window; 0 where it is off."""
    acts = torch.zeros(at.shape)
    for shard in store.shards():
        here = (peaks.row >= shard.first_row) & (peaks.row < shard.first_row + shard.n_rows)
        if not here.any():
            continue
        entries = shard.by_latent()
        if not len(entries.values):
            continue
        span = shard.n_rows * store.n_ctx  # places in the shard

        def place(row: Tensor, pos: Tensor, first: int = shard.first_row) -> Tensor:
            return (row - first) * store.n_ctx + pos

        # Entries are sorted by latent, then by place: so are these keys.
        keys = entries.latents() * span + place(entries.row, entries.pos)
        wanted = (peaks.latent[here] * span)[:, None] + place(peaks.row[here][:, None], at[here])
        spot = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        acts[here] = entries.values[spot].where(keys[spot] == wanted, 0.0)
    return acts.where(inside, 0.0)


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}") if value else 0.0
