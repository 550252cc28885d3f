"""StoreWriter: rows to shards; a row is in the store once, whatever stops the writer."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.activations.cache.precision import STORED, Channels, decode, encode, scaled
from saekit.activations.cache.shard_file import ShardRecord, write_shard
from saekit.activations.cache.store import SHARDS, Store
from saekit.core.errors import DataError, ResourceError
from saekit.core.parts import sync
from saekit.data.tokenise import Rows
from saekit.models.sites import Site


class StoreWriter:
    """Adds rows to a store, a shard at a time; holds one shard in memory.

    Args:
        store: what is there already; rows go on after it.
        channels: by site, for int8w.
    """

    def __init__(self, store: Store, channels: Mapping[Site, Channels] | None = None):
        self.store, self.channels = store, channels or {}
        self._parts: dict[str, list[Tensor]] = {}
        self._largest: dict[str, float] = {}
        self._held_rows = self._held_kept = 0
        row_bytes = bytes_of_row(store.sites, store.n_ctx, store.precision)
        passes = store.manifest["config"]["shard_bytes"] // (row_bytes * store.batch_rows)
        self.shard_rows = max(1, passes) * store.batch_rows
        _end_at_a_line(store.folder / SHARDS)

    def add(self, rows: Rows, acts: Mapping[Site, Tensor], n_kept: int) -> None:
        """Add the rows that follow; a shard is written whenever it is full.

        Args:
            rows: tokens; they begin after those added before.
            acts: ``[rows, n_ctx, width]`` by site.
            n_kept: tokens of them that count.

        Raises:
            DataError: an activation is not finite, or does not fit the precision.
            ResourceError: the disk is full; all shards before are kept.
        """
        assert rows.first_row == self.store.n_rows + self._held_rows
        self.hold(rows, acts)
        self._held_kept += n_kept
        if self._held_rows >= self.shard_rows:
            self.flush()

    def hold(self, rows: Rows, acts: Mapping[Site, Tensor]) -> None:
        """Take rows of a shard that `replace` will write.

        Raises:
            DataError: an activation is not finite, or does not fit the precision.
        """
        parts = {"tokens": rows.tokens.int(), "doc_ids": rows.doc_ids.long()}
        for name, part in (parts | self._encoded(acts, rows.first_row)).items():
            self._parts.setdefault(name, []).append(part)
        self._held_rows += len(rows.tokens)

    def flush(self) -> None:
        """Write what is held as a shard, and take it into the store.

        Raises:
            ResourceError: the disk is full; all shards before are kept.
        """
        if self._held_rows:
            file = f"{len(self.store.records):05d}.safetensors"
            self.store.records.append(self._write(file, self.store.n_rows, self._held_kept))

    def replace(self, index: int) -> None:
        """Write what is held in place of a shard of as many rows.

        Raises:
            ResourceError: the disk is full.
        """
        old = self.store.records[index]
        assert self._held_rows == old.n_rows
        self.store.records[index] = self._write(old.file, old.first_row, old.n_kept)

    def end(self) -> None:
        """Note that the text has no more rows."""
        _append(self.store.folder / SHARDS, {"ended": True})
        self.store.ended = True

    def _encoded(self, acts: Mapping[Site, Tensor], row: int) -> dict[str, Tensor]:
        out = {}
        for site, found in acts.items():
            self._note_largest(site, found, row)
            try:
                encoded = encode(found, self.store.precision, self.channels.get(site))
            except DataError as error:
                raise DataError(f"At {site}, in rows from {row:,}: {error}") from error
            back = decode(encoded, self.store.precision, self.channels.get(site))
            out[f"{site}.values"] = encoded.values.cpu()
            out[f"{site}.norms"] = back.float().norm(dim=-1).cpu()
            if encoded.scale is not None:
                out[f"{site}.scale"] = encoded.scale.cpu()
        return out

    def _note_largest(self, site: Site, acts: Float[Tensor, "rows n_ctx width"], row: int) -> None:
        largest = float(acts.abs().max())
        if not largest < float("inf"):
            raise DataError(f"Activations at {site} are not finite in rows from {row:,}.")
        self._largest[str(site)] = max(largest, self._largest.get(str(site), 0.0))

    def _write(self, file: str, first_row: int, n_kept: int) -> ShardRecord:
        tensors = {name: torch.cat(parts) for name, parts in self._parts.items()}
        n_bytes, sums = write_shard(self.store.folder / file, tensors)
        record = ShardRecord(file, first_row, self._held_rows, n_kept, n_bytes, sums, self._largest)
        _append(self.store.folder / SHARDS, record._asdict())
        self._parts, self._largest = {}, {}
        self._held_rows = self._held_kept = 0
        return record


def bytes_of_row(sites: Mapping[Site, int], n_ctx: int, precision: str) -> int:
    """Return what a row takes on disk: values, norms, scales, token and document ids."""
    beside = 8 if scaled(precision) else 4
    each = sum(width * STORED[precision].itemsize + beside for width in sites.values())
    return n_ctx * (each + 12)


def _append(path: Path, line: dict) -> None:
    """Add a line and make sure it is on disk; a part of a line is taken back.

    Raises:
        ResourceError: the disk is full; the file is as it was.
    """
    new = not path.exists()
    size = 0 if new else path.stat().st_size
    try:
        with path.open("ab") as file:
            file.write((json.dumps(line) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.truncate(path, size)
        raise ResourceError(
            f"Could not write {path}: {error.strerror}. Free some space; what was written "
            f"before is whole."
        ) from error


def _end_at_a_line(path: Path) -> None:
    """Cut off the part of a line that a killed writer left."""
    if path.exists():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)
