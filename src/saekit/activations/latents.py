"""LatentStore: the sparse codes of a corpus on disk, by token and by latent."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.border import bordered, inside, ordinary, reading
from saekit.core.codes import Codes
from saekit.core.errors import DataError, FormatError, ShapeError, UnknownNameError
from saekit.core.files import read_tensors, sha256_of, write_tensors
from saekit.core.finite import all_finite
from saekit.core.parts import is_own
from saekit.core.sealed import read_sealed, write_sealed
from saekit.data.tokenise import Rows

FORMAT, VERSION = "saekit.latents", 2  # version 1 had no checksum of the manifest itself
BY_SIZE = "by size"  # what `maxima` in totals are the largest by
_MANIFEST, _TOTALS = "manifest.json", "totals.safetensors"
WRITTEN = "written.json"  # the shards of a store that is not whole yet


class TokenMajor(NamedTuple):
    """Codes of the kept tokens of a shard, in text order."""

    row: Int[Tensor, "n"]  # row of the token stream
    pos: Int[Tensor, "n"]  # position in the row, from 0
    codes: Codes


class LatentMajor(NamedTuple):
    """The same entries sorted by latent, then in text order.

    Latent i holds ``values[starts[i]:starts[i + 1]]`` and the same slice of `row` and `pos`.
    """

    values: Float[Tensor, "nnz"]
    row: Int[Tensor, "nnz"]
    pos: Int[Tensor, "nnz"]
    starts: Int[Tensor, "d_sae_and_one"]

    def latents(self) -> Int[Tensor, "nnz"]:
        """Return the latent of every entry."""
        index = torch.arange(len(self.starts) - 1)
        return torch.repeat_interleave(index, self.starts.diff(), output_size=len(self.values))


class Events(NamedTuple):
    """Where one latent is on, in text order."""

    row: Int[Tensor, "n"]
    pos: Int[Tensor, "n"]
    value: Float[Tensor, "n"]


@final
class Shard:
    """Some consecutive rows of a store; nothing is read before it is asked for.

    Args:
        path: its file.
        first_row: index of its first row in the token stream.
        n_rows: rows in it.
        d_sae: number of latents.
        sha256: of the file, which is compared when it is first read.
    """

    def __init__(self, path: Path, first_row: int, n_rows: int, d_sae: int, sha256: str):
        self.path, self.first_row, self.n_rows, self.d_sae = path, first_row, n_rows, d_sae
        self.sha256 = sha256

    def by_token(self) -> TokenMajor:
        """Return the codes of the kept tokens, in text order."""
        raw = self._read("values", "latents", "starts", "row", "pos")
        latents, starts = raw["latents"].long(), raw["starts"]
        n = len(raw["row"])
        self._check(starts, n, len(raw["values"]), len(latents) == len(raw["values"]))
        self._check_range("latents", latents, self.d_sae)
        codes = Codes(raw["values"], latents, starts, (n,), self.d_sae)
        return TokenMajor(raw["row"], raw["pos"].long(), codes)

    def by_latent(self) -> LatentMajor:
        """Return the same entries sorted by latent, then in text order."""
        raw = self._read("latent_values", "latent_tokens", "latent_starts", "row", "pos")
        token, starts = raw["latent_tokens"].long(), raw["latent_starts"]
        n = len(raw["latent_values"])
        self._check(starts, self.d_sae, n, len(token) == n and len(raw["pos"]) == len(raw["row"]))
        self._check_range("latent_tokens", token, len(raw["row"]))
        return LatentMajor(
            raw["latent_values"], raw["row"][token], raw["pos"][token].long(), raw["latent_starts"]
        )

    def events(self, latent: int) -> Events:
        """Return where one latent is on; reads that latent's part of the file only."""
        with reading(self.path, "a shard of an index"), _opened(self.path, self.sha256) as file:
            begin, end = file.get_slice("latent_starts")[latent : latent + 2].tolist()
            token = file.get_slice("latent_tokens")[begin:end].long()
            value = file.get_slice("latent_values")[begin:end]
            row, pos = file.get_tensor("row"), file.get_tensor("pos")
            self._check_range("latent_tokens", token, min(len(row), len(pos)))
            row, pos = row[token], pos[token].long()
        return Events(row, pos, value.clone())

    def rows(self) -> Rows:
        """Return the tokens of every row, also those that no kept token is in."""
        raw = self._read("tokens", "doc_ids")
        if (
            raw["tokens"].ndim != 2
            or raw["tokens"].shape != raw["doc_ids"].shape
            or (len(raw["tokens"]) != self.n_rows)
        ):
            raise FormatError(f"{self.path} is damaged: its rows are not {self.n_rows:,}.")
        return Rows(raw["tokens"].long(), raw["doc_ids"], self.first_row)

    def _read(self, *names: str) -> dict[str, Tensor]:
        with reading(self.path, "a shard of an index"), _opened(self.path, self.sha256) as file:
            found = {name: file.get_tensor(name) for name in names}
        for name, tensor in found.items():
            if tensor.ndim != (2 if name in ("tokens", "doc_ids") else 1) or (
                tensor.is_floating_point() != name.endswith("values")
            ):
                raise FormatError(f"{self.path} is damaged: `{name}` is of another kind.")
        return found

    def _check(self, starts: Tensor, n: int, n_entries: int, fits: bool) -> None:
        """Refuse offsets that are not those of `n` runs of entries, or columns of unlike length."""
        ordered = len(starts) == n + 1 and bool((starts.diff() >= 0).all())
        if not (fits and ordered and int(starts[0]) == 0 and int(starts[-1]) == n_entries):
            raise FormatError(f"{self.path} is damaged: its columns do not fit each other.")

    def _check_range(self, name: str, index: Tensor, n: int) -> None:
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < n:
            raise FormatError(f"{self.path} is damaged: `{name}` goes beyond 0..{n - 1}.")


@final
class LatentStore:
    """The sparse codes of a corpus, as `LatentStoreWriter` left them.

    Opening reads the manifest and the totals; shards are read one at a time, when asked for.

    Attributes:
        n_ctx: tokens per row.
        d_sae: number of latents.
        n_rows: rows, consecutive from `first_row`.
        n_tokens: tokens that were encoded (those the token rule kept).
        meta: what the writer was told about the SAE, the model and the corpus.
        counts: tokens each latent is on for, int64 ``[d_sae]``.
        sums: sum of its activations, act units, float64 ``[d_sae]``.
        squares: sum of their squares, float64 ``[d_sae]``.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], totals: dict[str, Tensor]):
        self.folder, self._manifest = folder, manifest
        self.n_ctx: int = manifest["n_ctx"]
        self.d_sae: int = manifest["d_sae"]
        self.n_rows: int = manifest["n_rows"]
        self.n_tokens: int = manifest["n_tokens"]
        self.first_row: int = manifest["first_row"]
        self.meta: dict[str, Any] = manifest["meta"]
        self.counts, self.sums = totals["counts"], totals["sums"]
        self.squares, self._maxima = totals["squares"], totals["maxima"]
        for name in ("counts", "sums", "squares", "maxima"):
            if totals[name].shape != (self.d_sae,):
                raise FormatError(
                    f"{folder / _TOTALS} is damaged: `{name}` is not of {self.d_sae:,} latents."
                )

    @functools.cached_property
    def maxima(self) -> Float[Tensor, "d_sae"]:
        """Activation of largest size, with its sign, act units, float32; 0 where never on.

        Older stores kept the largest of signed activations: of these it is found by a pass.
        """
        if self._manifest.get("maxima") == BY_SIZE:
            return self._maxima
        ends = _Ends(self.d_sae)
        for shard in self.by_token():
            ends.add(shard.codes.latents, shard.codes.values)
        return ends.maxima()

    @property
    def density(self) -> Float[Tensor, "d_sae"]:
        """Share of the tokens that count at which each latent is on, float64."""
        return self.counts.double() / self.n_tokens

    @staticmethod
    @bordered("an index")
    def open(folder: Path) -> "LatentStore":
        """Open a store.

        Raises:
            FormatError: the folder holds no finished store, or a file of it is damaged.
        """
        if not (folder / _MANIFEST).exists():
            raise FormatError(
                f"{folder} holds no {_MANIFEST}: the index was interrupted or never made. "
                f"A store is whole or unusable; index again."
            )
        manifest = read_sealed(folder / _MANIFEST, unsealed=True)
        if manifest.get("format") != FORMAT or manifest.get("version") not in (1, VERSION):
            raise FormatError(
                f"{folder / _MANIFEST} is `{manifest.get('format')}` version "
                f"{manifest.get('version')}; this reads `{FORMAT}` up to version {VERSION}. Index "
                f"again."
            )
        try:
            for part in (*manifest["shards"], manifest["totals"]):
                _check_size(inside(folder, part["file"]), part["bytes"])
            _check_sum(folder / _TOTALS, manifest["totals"]["sha256"])
            _check_numbers(folder, manifest)
            return LatentStore(folder, manifest, read_tensors(folder / _TOTALS))
        except KeyError as error:
            raise FormatError(
                f"{folder / _MANIFEST} or {_TOTALS} lacks {error}. Index again."
            ) from error

    def verify(self) -> None:
        """Compare every file with its checksum; reads the whole store once.

        Raises:
            FormatError: a file is not what was written.
        """
        for part in (*self._manifest["shards"], self._manifest["totals"]):
            path = self.folder / part["file"]
            _check_size(path, part["bytes"])
            _check_sum(path, part["sha256"])

    def shards(self) -> Iterator[Shard]:
        """Yield the shards, in text order."""
        first = self.first_row
        for part in self._manifest["shards"]:
            path = self.folder / part["file"]
            yield Shard(path, first, part["rows"], self.d_sae, part["sha256"])
            first += part["rows"]

    def by_token(self) -> Iterator[TokenMajor]:
        """Yield the codes of all kept tokens in text order, a shard at a time."""
        return (shard.by_token() for shard in self.shards())

    def events(self, latent: int) -> Events:
        """Return every token at which a latent is on, in text order.

        Raises:
            UnknownNameError: there is no such latent.
        """
        if not 0 <= latent < self.d_sae:
            raise UnknownNameError(
                f"There is no latent {latent}; this store has latents 0..{self.d_sae - 1}."
            )
        parts = [shard.events(latent) for shard in self.shards()]
        return Events(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def rows(
        self, index: Int[Tensor, "m"]
    ) -> tuple[Int[Tensor, "m n_ctx"], Int[Tensor, "m n_ctx"]]:
        """Return tokens and document ids of some rows, in the order given.

        Raises:
            UnknownNameError: a row is not in the store.
        """
        last = self.first_row + self.n_rows - 1
        outside = index[(index < self.first_row) | (index > last)]
        if len(outside):
            raise UnknownNameError(
                f"There is no row {int(outside[0])}; this store has rows {self.first_row}..{last}."
            )
        tokens = torch.empty(len(index), self.n_ctx, dtype=torch.int64)
        doc_ids = torch.empty_like(tokens)
        for shard in self.shards():
            here = (index >= shard.first_row) & (index < shard.first_row + shard.n_rows)
            if here.any():
                rows, wanted = shard.rows(), index[here] - shard.first_row
                if rows.tokens.shape[1] != self.n_ctx:
                    raise FormatError(f"{shard.path} has rows of other than {self.n_ctx} tokens.")
                tokens[here], doc_ids[here] = rows.tokens[wanted], rows.doc_ids[wanted]
        return tokens, doc_ids


@final
class LatentStoreWriter:
    """Writes a `LatentStore` in one pass; holds one shard in memory.

    The manifest is written last: a folder without one is not a store. What an earlier
    writer left in the folder is removed first. Where a shard ends depends on the rows only,
    never on how they were batched.

    Args:
        folder: where the store goes.
        n_ctx: tokens per row.
        d_sae: number of latents.
        meta: JSON-ready record of the SAE, the model and the corpus.
        shard_tokens: tokens per shard, rounded down to whole rows; one row at least.
        goes_on: keep the shards that a writer of the same sizes and record, which was killed, left
            in the folder, and go on after them.

    Attributes:
        next_row: the row of the token stream to go on with.
        n_tokens: tokens in the shards that are written.
        beside: what the caller keeps with each shard that is written, JSON-ready; set it before
            `add`. Of a writer that goes on it is what stood beside the last shard.

    Raises:
        FormatError: a shard that was left is damaged.
    """

    def __init__(
        self,
        folder: Path,
        *,
        n_ctx: int,
        d_sae: int,
        meta: dict[str, Any],
        shard_tokens: int = 2**17,
        goes_on: bool = False,
    ):
        self.folder, self.n_ctx, self.d_sae, self.meta = folder, n_ctx, d_sae, meta
        self.rows_per_shard = max(1, shard_tokens // n_ctx)
        self._first_row = self.next_row = 0
        self._goes_on, self.beside = goes_on, {}
        self._shards: list[dict[str, Any]] = []
        self._buffer: list[tuple[Rows, TokenMajor]] = []
        self._totals = {
            "counts": torch.zeros(d_sae, dtype=torch.int64),
            "sums": torch.zeros(d_sae, dtype=torch.float64),
            "squares": torch.zeros(d_sae, dtype=torch.float64),
        }
        self._ends = _Ends(d_sae)
        for name in (_MANIFEST, _TOTALS):
            (folder / name).unlink(missing_ok=True)
        if goes_on and (folder / WRITTEN).is_file():
            self._take_up(read_sealed(folder / WRITTEN))
        known = {part["file"] for part in self._shards}
        for left in folder.glob("shard-*.safetensors"):
            if left.name not in known:
                left.unlink()

    @property
    def n_tokens(self) -> int:
        """Tokens in the shards that are written."""
        return sum(part["tokens"] for part in self._shards)

    def _take_up(self, written: dict[str, Any]) -> None:
        """Go on after the shards that are there; totals are summed again from them."""
        self._first_row = self.next_row = written["first_row"]
        self.beside = written["beside"]
        for part in written["shards"]:
            path = inside(self.folder, part["file"])
            _check_size(path, part["bytes"])
            shard = Shard(path, self.next_row, part["rows"], self.d_sae, part["sha256"])
            entries = shard.by_latent()
            self._count(entries.latents(), entries.values, entries.starts.diff())
            self._shards.append(part)
            self.next_row += part["rows"]

    def add(self, rows: Rows, row: Int[Tensor, "n"], pos: Int[Tensor, "n"], codes: Codes) -> None:
        """Add some rows and the codes of the tokens that were kept in them.

        Args:
            rows: the rows that follow those added before.
            row: absolute row of each kept token; text order, each token once.
            pos: its position in the row.
            codes: one row per kept token, act units; zero values are dropped.

        Raises:
            ShapeError: rows, tokens and codes do not belong together.
            DataError: an activation is not finite.
        """
        row, pos = row.cpu(), pos.cpu()
        self._check(rows, row, pos, codes)
        live = codes.detach().live()
        columns = (live.values.float(), live.latents.int(), live.starts)
        codes = Codes(*(c.cpu() for c in columns), batch=(len(row),), d_sae=self.d_sae)
        if not all_finite(codes.values):
            raise DataError("Activations are not finite. Encode in float32, or check the weights.")
        end = 0
        while end < len(rows.tokens):
            held = sum(len(r.tokens) for r, _ in self._buffer)
            begin, end = end, min(len(rows.tokens), end + self.rows_per_shard - held)
            first = rows.first_row + begin
            a, b = torch.searchsorted(row, torch.tensor([first, rows.first_row + end])).tolist()
            part = Rows(rows.tokens[begin:end], rows.doc_ids[begin:end], first)
            self._buffer.append((part, TokenMajor(row[a:b], pos[a:b], _sliced(codes, a, b))))
            if held + end - begin == self.rows_per_shard:
                self._flush()
        self.next_row = rows.first_row + len(rows.tokens)

    def close(self) -> LatentStore:
        """Write what is left and the manifest; return the store.

        Raises:
            DataError: no token was kept.
        """
        if self._buffer:
            self._flush()
        sizes = {f"n_{k}": sum(s[k] for s in self._shards) for k in ("rows", "tokens", "entries")}
        if not sizes["n_tokens"]:
            raise DataError("Not one token was kept. Give more text, or loosen the token rule.")
        self._totals["maxima"] = self._ends.maxima()
        totals = self.folder / _TOTALS
        write_tensors(totals, self._totals)
        write_sealed(
            self.folder / _MANIFEST,
            {
                "format": FORMAT,
                "version": VERSION,
                "n_ctx": self.n_ctx,
                "d_sae": self.d_sae,
                "first_row": self._first_row,
                **sizes,
                "shards": self._shards,
                "totals": _described(totals),
                "maxima": BY_SIZE,
                "meta": self.meta,
            },
        )
        (self.folder / WRITTEN).unlink(missing_ok=True)
        return LatentStore.open(self.folder)

    def _check(self, rows: Rows, row: Tensor, pos: Tensor, codes: Codes) -> None:
        if not self._shards and not self._buffer:
            self._first_row = self.next_row = rows.first_row
        if rows.first_row != self.next_row or rows.tokens.shape[1] != self.n_ctx:
            raise ShapeError(
                f"Rows must go on from row {self.next_row} with {self.n_ctx} tokens each; got "
                f"rows from {rows.first_row} with {rows.tokens.shape[1]}."
            )
        if codes.n_rows != len(row) or codes.d_sae != self.d_sae:
            raise ShapeError(
                f"Codes must have one row per kept token ({len(row)}) and d_sae={self.d_sae}; "
                f"got {codes.n_rows} rows and d_sae={codes.d_sae}."
            )
        place = (row - rows.first_row) * self.n_ctx + pos
        inside = (pos >= 0) & (pos < self.n_ctx) & (place >= 0) & (place < rows.tokens.numel())
        if not inside.all() or not (place.diff() > 0).all():
            raise ShapeError(
                f"`row` and `pos` must name tokens of the rows given ({rows.first_row}.."
                f"{rows.first_row + len(rows.tokens) - 1}, positions 0..{self.n_ctx - 1}), each "
                f"once and in text order."
            )

    def _flush(self) -> None:
        rows, kept = zip(*self._buffer, strict=True)
        self._buffer = []
        codes = Codes.cat([k.codes for k in kept])
        order, starts = _by_latent(codes)
        values, token = codes.values[order], codes.rows()[order].int()
        self._count(codes.latents.long(), codes.values, starts.diff())
        path = self.folder / f"shard-{len(self._shards):05d}.safetensors"
        write_tensors(
            path,
            {
                "values": codes.values,
                "latents": codes.latents,
                "starts": codes.starts,
                "row": torch.cat([k.row for k in kept]),
                "pos": torch.cat([k.pos for k in kept]).int(),
                "latent_values": values,
                "latent_tokens": token,
                "latent_starts": starts,
                "tokens": torch.cat([r.tokens.cpu() for r in rows]).int(),
                "doc_ids": torch.cat([r.doc_ids.cpu() for r in rows]).long(),
            },
        )
        sizes = {"tokens": codes.n_rows, "entries": len(codes.values)}
        sizes["rows"] = sum(len(r.tokens) for r in rows)
        self._shards.append(_described(path) | sizes)
        if self._goes_on:
            written = {"first_row": self._first_row, "shards": self._shards, "beside": self.beside}
            write_sealed(self.folder / WRITTEN, written)

    def _count(self, latents: Tensor, values: Tensor, counts: Tensor) -> None:
        self._totals["counts"] += counts
        wide = values.double()
        self._totals["sums"] += torch.bincount(latents, wide, self.d_sae)
        self._totals["squares"] += torch.bincount(latents, wide * wide, self.d_sae)
        self._ends.add(latents, values)


class _Ends:
    """The largest and the smallest activation of each latent."""

    def __init__(self, d_sae: int):
        self.high, self.low = torch.zeros(d_sae), torch.zeros(d_sae)

    def add(self, latents: Int[Tensor, "nnz"], values: Float[Tensor, "nnz"]) -> None:
        """Take in some activations."""
        self.high.scatter_reduce_(0, latents, values, "amax")
        self.low.scatter_reduce_(0, latents, values, "amin")

    def maxima(self) -> Float[Tensor, "d_sae"]:
        """Return the activation of largest size, with its sign; of both ends alike the positive."""
        return torch.where(-self.low > self.high, self.low, self.high)


def is_store(folder: Path, also: Sequence[str] = ()) -> bool:
    """Return whether a folder holds a `LatentStore`, whole or in part, and nothing else.

    Args:
        folder: the folder.
        also: names of further files that may be in it.
    """
    known = {_MANIFEST, _TOTALS, WRITTEN, *also}
    return all(
        path.name in known
        or is_own(path.name)
        or (path.name.startswith("shard-") and path.suffix == ".safetensors")
        for path in folder.iterdir()
    )


def holds_store(folder: Path) -> bool:
    """Return whether a folder holds a finished `LatentStore`, by the names of its files.

    The folder of a run has a manifest too, and no totals.
    """
    return (folder / _MANIFEST).is_file() and (folder / _TOTALS).is_file()


def _by_latent(codes: Codes) -> tuple[Tensor, Tensor]:
    """Return the order that sorts entries by latent and keeps text order, and the offsets."""
    if codes.d_sae <= 2**16:  # numpy sorts 16-bit keys by radix, many times faster
        keys = codes.latents.numpy().astype(np.uint16)
        order = torch.from_numpy(np.argsort(keys, kind="stable"))
    else:
        order = torch.sort(codes.latents, stable=True).indices
    counts = torch.bincount(codes.latents, minlength=codes.d_sae)
    return order, torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _sliced(codes: Codes, begin: int, end: int) -> Codes:
    starts = codes.starts[begin : end + 1]
    a, b = int(starts[0]), int(starts[-1])
    return Codes(codes.values[a:b], codes.latents[a:b], starts - a, (end - begin,), codes.d_sae)


def _described(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _check_numbers(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse sizes of a manifest that are no numbers, or do not add up."""
    shards = manifest["shards"]
    sizes = [manifest[f"n_{key}"] for key in ("ctx", "rows", "tokens")]
    sizes += [manifest["d_sae"], manifest["first_row"], *(part["rows"] for part in shards)]
    if not all(type(n) is int and 0 <= n < 2**62 for n in sizes):
        raise FormatError(f"{folder / _MANIFEST} has sizes that are no whole numbers. Index again.")
    if sum(part["rows"] for part in shards) != manifest["n_rows"]:
        raise FormatError(f"{folder / _MANIFEST} has other rows than its shards. Index again.")
    # Shards hold each token in 4 bytes: a larger `n_ctx` would take memory for tokens that are not.
    if 4 * manifest["n_rows"] * manifest["n_ctx"] > sum(part["bytes"] for part in shards):
        raise FormatError(
            f"{folder / _MANIFEST} claims {manifest['n_rows']:,} rows of {manifest['n_ctx']:,} "
            f"tokens, more than its shards hold. Index again."
        )


def _check_size(path: Path, n_bytes: int) -> None:
    got = path.stat().st_size if path.exists() else None
    if got != n_bytes:
        came = "is missing" if got is None else f"has {got:,} bytes"
        raise FormatError(f"{path} {came}; the manifest says {n_bytes:,} bytes. Index again.")


def _check_sum(path: Path, expected: str) -> None:
    got = sha256_of(path)
    if got != expected:
        raise FormatError(f"{path} is damaged: SHA-256 {got}, not {expected}. Index again.")


# Files whose checksum was compared in this process, with size and time of change: each is read
# many times, a latent at a time.
_whole: set[tuple[str, int, int]] = set()


def _opened(path: Path, sha256: str) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        ordinary(path)
        state = path.stat()
        if (seen := (str(path), state.st_size, state.st_mtime_ns)) not in _whole:
            _check_sum(path, sha256)
            _whole.add(seen)
        return safe_open(path, framework="pt")
    except (SafetensorError, FormatError) as error:
        raise FormatError(f"{path} is missing or damaged: {error}. Index again.") from error
