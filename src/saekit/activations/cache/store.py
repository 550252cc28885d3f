"""Store: activations of a text at some sites of a model, on disk, as rows of tokens.

A store holds whole rows, special tokens and massive norms included, at each of its sites.
What is read, predicted, folded or left out is the business of who reads it: one store serves
every pair of its sites and every token rule, in text order or in any other.

    manifest.json     what it was made from
    shards.jsonl      one line a shard: its rows and checksums
    00000.safetensors tokens, doc_ids [rows, n_ctx]; of each site SITE.values
                      [rows, n_ctx, width], SITE.norms [rows, n_ctx], and where values are
                      scaled SITE.scale [rows, n_ctx]
    channels.safetensors  for int8w: SITE.mean and SITE.std [width]

The position of a token is its column. A shard is in the list when it is whole on disk, and
not before: what a killed writer left is not part of the store.
"""

import bisect
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.activations.cache.precision import GIVEN, Channels, StoredRows, decode
from saekit.activations.cache.shard_file import MappedShard, ShardRecord
from saekit.core.border import bordered, inside, reading
from saekit.core.errors import FormatError
from saekit.core.files import (
    digest,
    read_json_lines,
    read_object,
    read_tensors,
    sha256_of,
    write_json,
    write_tensors,
)
from saekit.core.provenance import collect
from saekit.data.tokenise import Rows
from saekit.models.base import LanguageModel
from saekit.models.sites import Site, parse_site

FORMAT, VERSION = "saekit activations", 1
MANIFEST, SHARDS, CHANNELS = "manifest.json", "shards.jsonl", "channels.safetensors"
IDENTITY = ("config", "model", "sites", "text", "batch_rows", "imported")


def read_records(folder: Path) -> tuple[list[ShardRecord], bool]:
    """Return the shards of a store, and whether its text ended with them.

    A line for a shard that has one already replaces it: it was written again.
    """
    found: dict[str, ShardRecord] = {}
    ended = False
    path = folder / SHARDS
    for line in read_json_lines(path) if path.exists() else ():
        if "ended" in line:
            ended = bool(line["ended"])
        else:
            inside(folder, line["file"])
            found[line["file"]] = ShardRecord(**line)
    records = sorted(found.values(), key=lambda r: r.first_row)
    _check_records(records, path)
    return records, ended


def _check_records(records: list[ShardRecord], path: Path) -> None:
    """Refuse shards whose rows are no numbers, or do not follow each other from 0."""
    row = 0
    for record in records:
        numbers = (record.first_row, record.n_rows, record.n_kept, record.n_bytes)
        if (
            not all(type(n) is int and n >= 0 for n in numbers)
            or record.first_row != row
            or (not record.n_rows or not isinstance(record.sha256, dict))
        ):
            raise FormatError(
                f"{path} is damaged: {record.file} does not go on from row {row:,}. Write the "
                f"cache again."
            )
        row = record.end_row


def described(model: LanguageModel, sites: Iterable[Site]) -> dict[str, Any]:
    """Return what a manifest says of a model."""
    tokenizer = model.tokenizer
    ids = {name: getattr(tokenizer, name) for name in ("bos_id", "eos_id", "pad_id")}
    return {
        "model": model.provenance(),
        "tokenizer": ids
        | {
            "special_ids": sorted(tokenizer.special_ids),
            "vocab_size": tokenizer.vocab_size,
            "digest": tokenizer.digest,
        },
        "n_layers": model.n_layers,
        "d_model": model.d_model,
        "n_ctx_max": model.n_ctx_max,
        "sites": {str(site): model.width(site) for site in sites},
    }


def begin(folder: Path, channels: Mapping[Site, Channels], manifest: dict[str, Any]) -> None:
    """Make an empty store.

    Args:
        folder: where; it is made.
        channels: by site, for int8w; else empty.
        manifest: config, what `described` gives, text, rules, added_fvu, kept_a_row,
            batch_rows, imported.
    """
    sums = {}
    if channels:
        tensors = {f"{s}.{k}": v for s, c in channels.items() for k, v in c._asdict().items()}
        write_tensors(folder / CHANNELS, tensors)
        sums = {"channels_sha256": sha256_of(folder / CHANNELS)}
    head = {"format": FORMAT, "version": VERSION}
    write_json(folder / MANIFEST, head | manifest | sums | {"provenance": collect()})


@final
class Store:
    """An activation store, as `saekit cache write` left it; whole or in part.

    Opening reads the manifest. A tensor of a shard is compared with its checksum when it is
    first used, once a process.

    Attributes:
        folder: where it is.
        manifest: what it was made from.
        records: its shards, in the order of their rows.
        sites: width by site.
    """

    def __init__(
        self, folder: Path, manifest: dict[str, Any], records: list[ShardRecord], ended: bool
    ):
        self.folder, self.manifest, self.records, self.ended = folder, manifest, records, ended
        self.sites: dict[Site, int] = {parse_site(n): w for n, w in manifest["sites"].items()}
        self.n_ctx: int = manifest["config"]["n_ctx"]
        self.precision: str = manifest["config"]["precision"]
        self.batch_rows: int = manifest["batch_rows"]
        self.remedy = (
            "Import it again."
            if manifest["imported"]
            else f"Write it again, and nothing else, with: saekit cache write --repair {folder}"
        )
        self._mapped: dict[int, MappedShard] = {}
        self.channels = self._read_channels()

    def __repr__(self) -> str:
        sites = ", ".join(map(str, self.sites))
        return f"Store({str(self.folder)!r}: {self.n_kept:,} tokens at {sites}, {self.precision})"

    @staticmethod
    @bordered("a cache of activations")
    def open(folder: Path) -> "Store":
        """Open a store.

        Raises:
            FormatError: the folder holds none, or its manifest is damaged.
        """
        if not (folder / MANIFEST).exists():
            raise FormatError(
                f"{folder} holds no activations: it has no {MANIFEST}. Make some with: "
                f"saekit cache write --out {folder}"
            )
        manifest = read_object(folder / MANIFEST)
        kind = (manifest.get("format"), manifest.get("version"))
        if kind != (FORMAT, VERSION):
            raise FormatError(
                f"{folder / MANIFEST} is `{kind[0]}` version {kind[1]}; this reads `{FORMAT}` "
                f"version {VERSION}. Write the cache again."
            )
        try:
            return Store(folder, manifest, *read_records(folder))
        except (KeyError, TypeError) as error:
            raise FormatError(
                f"{folder / MANIFEST} or {SHARDS} is damaged ({error}). Write the cache again."
            ) from error

    @property
    def n_rows(self) -> int:
        """Rows, consecutive from 0."""
        return self.records[-1].end_row if self.records else 0

    @property
    def max_abs(self) -> dict[str, float]:
        """Largest size of a number of each site, over all shards."""
        return {
            name: max((record.max_abs[name] for record in self.records), default=0.0)
            for name in self.manifest["sites"]
        }

    @property
    def n_kept(self) -> int:
        """Tokens that count at every site, by the rule the store was written with."""
        return sum(record.n_kept for record in self.records)

    @property
    def n_bytes(self) -> int:
        """Size of its shards."""
        return sum(record.n_bytes for record in self.records)

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations that reading gives."""
        return GIVEN[self.precision]

    @property
    def identity(self) -> str:
        """SHA-256 of what decides its rows; more rows do not change it."""
        parts = {key: self.manifest[key] for key in IDENTITY}
        return digest([json.dumps(parts, sort_keys=True)])

    def shard(self, index: int) -> MappedShard:
        """Return a shard.

        Raises:
            FormatError: it is missing or damaged.
        """
        if index not in self._mapped:
            record = self.records[index]
            self._mapped[index] = MappedShard(self.folder / record.file, record, self.remedy)
        return self._mapped[index]

    def text(self, first_row: int, n_rows: int) -> Rows:
        """Return some rows of tokens; fewer where the store ends."""
        with reading(self.folder, "a cache of activations"):
            return self._text(first_row, n_rows)

    def _text(self, first_row: int, n_rows: int) -> Rows:
        spans = self._spans(first_row, n_rows)
        columns = [
            [self.shard(i).part(name)[a:b].long() for i, a, b in spans]
            for name in ("tokens", "doc_ids")
        ]
        return Rows(torch.cat(columns[0]), torch.cat(columns[1]), first_row)

    def acts(self, site: Site, first_row: int, n_rows: int) -> Float[Tensor, "rows n_ctx width"]:
        """Return the activations of some rows at a site."""
        spans = self._spans(first_row, n_rows)
        with reading(self.folder, "a cache of activations"):
            parts = [self._decoded(i, site, slice(a, b)) for i, a, b in spans]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

    def norms(self, index: int, site: Site) -> Float[Tensor, "rows n_ctx"]:
        """Return the norms of what reading a shard gives at a site."""
        return self.shard(index).part(f"{site}.norms")

    def take(self, index: int, site: Site, places: Int[Tensor, "n"]) -> Float[Tensor, "n width"]:
        """Return the activations of some tokens of a shard, as ``row * n_ctx + position``."""
        shard = self.shard(index)
        values = shard.part(f"{site}.values").flatten(0, 1)
        scale = self._scale(index, site)
        # Selecting is not defined for float8; its bytes can be selected.
        found = values.view(torch.uint8) if values.dtype == torch.float8_e4m3fn else values
        found = found.index_select(0, places).view(values.dtype)
        chosen = None if scale is None else scale.flatten().index_select(0, places)
        return decode(StoredRows(found, chosen), self.precision, self.channels.get(site))

    def damaged(self) -> dict[int, str]:
        """Compare everything with its checksum; return what is wrong, by index of the shard."""
        found = {}
        for index, record in enumerate(self.records):
            try:
                MappedShard(self.folder / record.file, record, self.remedy).check()
            except FormatError as error:
                found[index] = str(error)
        return found

    def _decoded(self, index: int, site: Site, rows: slice) -> Tensor:
        values = self.shard(index).part(f"{site}.values")[rows]
        scale = self._scale(index, site)
        encoded = StoredRows(values, None if scale is None else scale[rows])
        return decode(encoded, self.precision, self.channels.get(site))

    def _scale(self, index: int, site: Site) -> Tensor | None:
        scaled = f"{site}.scale" in self.records[index].sha256
        return self.shard(index).part(f"{site}.scale") if scaled else None

    def _spans(self, first_row: int, n_rows: int) -> list[tuple[int, int, int]]:
        """Return shard, first and last row in it, of consecutive rows."""
        end = min(first_row + n_rows, self.n_rows)
        spans, row = [], first_row
        while row < end:
            index = bisect.bisect_right(self.records, row, key=lambda r: r.end_row)
            record = self.records[index]
            stop = min(end, record.end_row)
            spans.append((index, row - record.first_row, stop - record.first_row))
            row = stop
        return spans

    def _read_channels(self) -> dict[Site, Channels]:
        path = self.folder / CHANNELS
        if self.precision != "int8w":
            return {}
        if not path.exists() or sha256_of(path) != self.manifest["channels_sha256"]:
            raise FormatError(f"{path} is missing or damaged. Write the cache again.")
        raw = read_tensors(path)
        return {s: Channels(raw[f"{s}.mean"], raw[f"{s}.std"]) for s in self.sites}
