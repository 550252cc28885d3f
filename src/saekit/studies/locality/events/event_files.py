"""Events on disk: `ctx<N>.csv` and `influences_ctx<N>.npz`, as the published data has them.

A table written here has the columns of both published generations, so that what reads either
reads it; it may be `ctx<N>.parquet` instead. Both generations are read; the older one splits a
length over files by tier.
"""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.errors import FormatError
from saekit.core.files import replace_with
from saekit.core.npz import read_npz
from saekit.core.result import Table
from saekit.data import table_files
from saekit.studies.locality.events.event_entropy import OK, EventScores
from saekit.studies.locality.events.event_tables import (
    CURRENT,
    NO_TIER,
    OLDER,
    OURS,
    SAME,
    key,
    lengths,
    value_of,
)


class Row(NamedTuple):
    """One event of a file, whichever generation wrote it."""

    feature_id: int
    event_idx: int
    H_pos: float  # bits; NaN where there is none
    peak_value: float  # act units
    n_positions: int
    status: str
    description: str
    token: str  # at the peak; empty where the file has none
    J: Float[Tensor, "n"] | None  # from the window's first token to the peak
    tier: str = "all"  # of the file of features; "all" where there is none


def table(
    scored: EventScores,
    piece: Callable[[int], str],
    about: Mapping[int, str] | None = None,
    tiers: Mapping[int, str] | None = None,
) -> Table:
    """Return one row per event, in the columns of both generations.

    ``peak_value`` is the activation where the event was found, ``local_activation`` that in
    the scored window; ``ctx_start`` and ``abs_peak`` are places in the running text that it
    was found in; ``J_argmax`` counts from the window's first token.

    Args:
        scored: the events of one length.
        piece: the text of one token id.
        about: what each latent is said to be, where known.
        tiers: of a file of features, by latent; "all" for the others.
    """
    about, tiers = about or {}, tiers or {}
    columns: dict[str, list[Any]] = {name: [] for name in (*CURRENT, *OLDER, *OURS)}
    wide = (scored.n_positions, scored.activation, scored.H, scored.bos_share)
    lists = (c.tolist() for c in wide)
    each = zip(scored.events, scored.J, scored.status, *lists, strict=True)
    for event, J, status, n, activation, bits, bos in each:
        J = J[scored.n_ctx - n :].double() if not math.isnan(activation) else J[:0].double()
        total = float(J.sum()) if len(J) else None
        row = {
            "feature_id": event.latent,
            "event_idx": event.rank,
            "H_pos": bits,
            "peak_token_idx": event.peak,
            "peak_value": event.value,
            "sum_J": total,
            "tier": tiers.get(event.latent, NO_TIER),
            "description": about.get(event.latent, ""),
            "abs_peak": event.place,
            "ctx_len": scored.n_ctx,
            "ctx_start": event.place - n + 1,
            "n_positions": n,
            "J_max": float(J.max()) if len(J) else None,
            "J_argmax": int(J.argmax()) if len(J) else None,
            "peak_token_str": piece(event.ids[-1]),
            "status": status,
            "local_activation": activation,
            "H_share": bits / math.log2(n) if n > 1 else None,
            "effective_tokens": 2.0**bits,
            "bos_share": bos,
            "doc": event.doc,
            "npz_key": key(event.latent, event.rank) if status == OK else "",
        }
        row |= {older: row[current] for current, older in SAME.items()}
        for name, values in columns.items():
            values.append(row[name])
    units = {
        "H_pos": "bits",
        "H_pos_bits": "bits",
        "peak_value": "act units",
        "activation_value": "act units",
        "local_activation": "act units",
        "n_positions": "tokens",
        "effective_tokens": "tokens",
    }
    return Table(columns=columns, units=units)


def write(
    folder: Path,
    scored: EventScores,
    piece: Callable[[int], str],
    about: Mapping[int, str] | None = None,
    tables: str = "csv",
    tiers: Mapping[int, str] | None = None,
) -> tuple[Path, Path]:
    """Write the table and the influences of one length; return both paths.

    Args:
        folder: where.
        scored: the events of one length.
        piece: the text of one token id.
        about: what each latent is said to be, where known.
        tables: format of the table, of `table_files.FORMATS`.
        tiers: of each latent, where known.

    The archive holds float32 arrays under ``<latent>_<rank>``, from the window's first token
    to the peak, of the events whose status is ok.
    """
    made = table(scored, piece, about, tiers)
    at = table_files.write(made, folder / f"ctx{scored.n_ctx}", tables)
    arrays = {
        key(event.latent, event.rank): J[scored.n_ctx - n :].numpy()
        for event, J, n, status in zip(
            scored.events, scored.J, scored.n_positions.tolist(), scored.status, strict=True
        )
        if status == OK
    }
    archive = folder / f"influences_ctx{scored.n_ctx}.npz"
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)  # pyright: ignore[reportArgumentType]
    replace_with(archive, data.getvalue())
    return at, archive


def read(folder: Path, n_ctx: int | None = None) -> dict[int, list[Row]]:
    """Read the events of a folder by context length, of either generation.

    Args:
        folder: with ``ctx<N>.csv`` or ``.parquet``, or ``ctx<NNN>_<tier>.csv``, and influences
            beside them.
        n_ctx: only this length.

    Raises:
        FormatError: there is none, or a file is not what its name says.
    """
    found = lengths(folder)
    if n_ctx is not None and n_ctx not in found:
        raise FormatError(
            f"{folder} has no events of length {n_ctx}; it has {', '.join(map(str, found))}."
        )
    wanted = found if n_ctx is None else {n_ctx: found[n_ctx]}
    return {
        n: _distinct(row for path in paths for row in _rows(path, n)) for n, paths in wanted.items()
    }


def _distinct(rows: Iterable[Row]) -> list[Row]:
    """Return rows, each event once: a latent may stand in the files of two tiers."""
    found: dict[tuple[int, int], Row] = {}
    for row in rows:
        before = found.setdefault((row.feature_id, row.event_idx), row)
        if before.J is None and row.J is not None:  # the file that has its influences
            found[row.feature_id, row.event_idx] = row
    return list(found.values())


def _rows(path: Path, n_ctx: int) -> Iterable[Row]:
    arrays = _arrays(path.with_name(f"influences_{path.stem}.npz"))
    for i, record in enumerate(table_files.rows(path)):
        try:
            yield _row(record, i, n_ctx, arrays)
        except (KeyError, ValueError) as error:
            raise FormatError(
                f"{path}, line {i + 2}: {error}. Columns are {', '.join(CURRENT)}, or "
                f"{', '.join(OLDER)}."
            ) from error


def _row(record: dict[str, str], i: int, n_ctx: int, arrays: Mapping[str, np.ndarray]) -> Row:
    latent, rank = int(record["feature_id"]), int(value_of(record, "event_idx"))
    bits = _number(value_of(record, "H_pos"))
    J = None
    for name in (record.get("npz_key") or key(latent, rank), str(i)):
        if name in arrays:
            J = torch.from_numpy(np.asarray(arrays[name], dtype=np.float32))
            break
    status = record.get("status") or (OK if math.isfinite(bits) else "undefined")
    n = int(float(record.get("n_positions") or (len(J) if J is not None else n_ctx)))
    return Row(
        latent,
        rank,
        bits,
        _number(value_of(record, "peak_value")),
        n,
        status,
        record.get("description", ""),
        record.get("peak_token_str", ""),
        J,
        record.get("tier") or NO_TIER,
    )


def _arrays(path: Path) -> Mapping[str, np.ndarray]:
    """Return the arrays of an archive that may not be there; objects are refused."""
    if not path.exists():
        return {}
    return read_npz(path, kinds="fiubU")


def _number(text: str) -> float:
    return float(text) if text.strip() else math.nan


def right_aligned(rows: Sequence[Row], n_ctx: int) -> Float[Tensor, "m n_ctx"]:
    """Return influences with the peak in the last column, NaN where there are none."""
    out = torch.full((len(rows), n_ctx), torch.nan)
    for i, row in enumerate(rows):
        if row.J is not None:
            J = row.J[-n_ctx:]
            out[i, n_ctx - len(J) :] = J
    return out
