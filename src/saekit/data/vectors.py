"""Vectors: rows of floats from wherever, in memory or in files, read by row."""

import glob
import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.errors import DataError, ShapeError, nearest
from saekit.core.files import digest, sha256_of
from saekit.core.finite import all_finite
from saekit.data.vector_files import FLOATS, READERS, Held, Shard, open_shard

WHOLE_BYTES = 2**30  # of a file whose SHA-256 is taken of all of it
END_BYTES = 2**20  # of a larger one, at its beginning and at its end
CHUNK = 2**14  # rows that are looked at together

Source = Tensor | np.ndarray | Path | str | Sequence[Path | str]


@final
class Vectors:
    """Rows of one width and one float type, in a fixed order.

    Args:
        shards: where they lie, at least one, each with rows.
        folder: that the names of files are taken within; None: they are in memory.

    Raises:
        DataError: widths or types differ.
    """

    def __init__(self, shards: Sequence[Shard], folder: Path | None = None):
        first = shards[0]
        for shard in shards:
            if shard.width != first.width:
                raise DataError(
                    f"{shard.name} has vectors of width {shard.width}; those of {first.name} have "
                    f"{first.width}. Give files of one width."
                )
            if shard.dtype != first.dtype:
                raise DataError(
                    f"{shard.name} holds {shard.dtype}; {first.name} holds {first.dtype}. Write "
                    f"all in one type."
                )
        self.shards, self.folder = list(shards), folder
        self.width, self.dtype = first.width, first.dtype
        self._ends = torch.tensor([s.n for s in shards]).cumsum(0)
        self.n = int(self._ends[-1])
        self._files: dict[str, dict[str, Any]] = {}  # once they were looked at

    def __repr__(self) -> str:
        where = "in memory" if self.folder is None else f"in {len(self.shards):,} files"
        return f"Vectors({self.n:,} of width {self.width}, {self.dtype}, {where})"

    def take(self, rows: Int[Tensor, "m"]) -> Float[Tensor, "m width"]:
        """Return some rows in float32; only they are read.

        Args:
            rows: ascending, each in 0..n - 1.

        Raises:
            DataError: a number is not finite, or is not in float32.
        """
        which = torch.searchsorted(self._ends, rows, right=True)
        out = torch.empty(len(rows), self.width)
        done = 0
        for i, m in zip(
            *(t.tolist() for t in which.unique_consecutive(return_counts=True)), strict=True
        ):
            shard, begin = self.shards[i], int(self._ends[i]) - self.shards[i].n
            own = rows[done : done + m] - begin
            out[done : done + m] = shard.take(own)
            _check_finite(out[done : done + m], own, shard)
            done += m
        return out

    def files(self) -> dict[str, dict[str, Any]]:
        """Return size and checksum of each file, by its name within the folder.

        ``sha256`` is of the whole file up to 1 GiB; of a larger one ``ends_sha256`` is of its
        first and last MiB.
        """
        if self.folder is None:
            return {}
        if self._files:
            return self._files
        paths = [shard.path for shard in self.shards if shard.path is not None]
        self._files = {p.relative_to(self.folder).as_posix(): _file_record(p) for p in paths}
        return self._files

    def provenance(self) -> dict[str, Any]:
        """Return what identifies the vectors, JSON-ready: shape, type, SHA-256.

        Of files it is a digest of `files`, in their order, without their names.
        """
        about = {"shape": [self.n, self.width], "dtype": self.dtype}
        if self.folder is None:
            return about | {"sha256": self._digest()}
        files = self.files()
        sums = [f"{v['bytes']} {v.get('sha256') or v['ends_sha256']}" for v in files.values()]
        size = sum(v["bytes"] for v in files.values())
        keys = sorted({shard.key for shard in self.shards if shard.key})
        about |= {"n_files": len(files), "n_bytes": size, "keys": keys}
        return about | {"sha256": digest(sums), "folder": str(self.folder)}

    def _digest(self) -> str:
        out = hashlib.sha256(f"{self.dtype} {self.n} {self.width}".encode())
        for shard in self.shards:
            for begin in range(0, shard.n, CHUNK):
                rows = torch.arange(begin, min(begin + CHUNK, shard.n))
                out.update(shard.take(rows).contiguous().view(torch.uint8).numpy().data)
        return out.hexdigest()


def open_vectors(source: Source, key: str | None = None) -> Vectors:
    """Return the vectors that somebody means.

    Args:
        source: a tensor or array ``[n, width]`` of any float type; or a file, a folder, a pattern,
            or several of them: .npy, .safetensors, .npz, .parquet, .tar of .npy members. Files of
            a folder come in the order of their names.
        key: the tensor, array, column or kind of member, where a file has several.

    Raises:
        ShapeError: an array has another shape.
        DataError: there is nothing to read; files are of several kinds, widths or types; a file
            is empty; or numbers in memory are not finite.
        FormatError: a file is damaged.
    """
    if isinstance(source, Tensor | np.ndarray):
        return Vectors([_in_memory(source)])
    named = [source] if isinstance(source, str | Path) else list(source)
    paths = [f for one in named for f in _files_at(Path(one))]
    kinds = sorted({p.suffix.lower() for p in paths})
    if len(kinds) > 1:
        raise DataError(
            f"{source} has files of several kinds, {' and '.join(kinds)}. Name those that hold the "
            f"vectors, as {Path(paths[0]).parent}/*{kinds[0]}."
        )
    if doubled := [str(p) for p, n in Counter(paths).items() if n > 1]:
        raise DataError(f"{doubled[0]} is named twice. Name each file once.")
    folder = paths[0].parent
    while not all(p.is_relative_to(folder) for p in paths):
        folder = folder.parent
    return Vectors([open_shard(p, key) for p in paths], folder)


def _in_memory(values: Tensor | np.ndarray) -> Held:
    kind = str(values.dtype).removeprefix("torch.")
    if values.ndim != 2 or not math.prod(values.shape):
        raise ShapeError(
            f"Vectors must have the shape [n, width], with a row at least; got "
            f"{list(values.shape)}. Flatten what lies between."
        )
    if isinstance(values, np.ndarray):
        if values.dtype.kind != "f" or values.dtype.itemsize > 8:
            raise ShapeError(f"Vectors must be floats; got {kind}. Convert them to float32.")
        # A copy only where torch cannot have it as it is.
        plain = values.astype(values.dtype.newbyteorder("="), copy=False)
        values = torch.from_numpy(plain if plain.flags.writeable else plain.copy())
    if values.dtype not in FLOATS:
        raise ShapeError(f"Vectors must be floats; got {kind}. Convert them to float32.")
    shard = Held(values.detach().cpu())
    for begin in range(0, shard.n, CHUNK):
        rows = torch.arange(begin, min(begin + CHUNK, shard.n))
        _check_finite(shard.take(rows).float(), rows, shard)
    return shard


def _check_finite(values: Float[Tensor, "m width"], rows: Int[Tensor, "m"], shard: Shard) -> None:
    if all_finite(values):
        return
    bad = int(rows[int((~values.isfinite()).any(-1).int().argmax())])
    raise DataError(
        f"Row {bad:,} of {shard.name} is not finite in float32. Leave out rows with NaN or "
        f"infinity, or scale them."
    )


def _files_at(path: Path) -> list[Path]:
    path = path.expanduser().absolute()
    if path.is_file():
        if path.suffix.lower() not in READERS:
            raise DataError(f"{path} must end in one of {', '.join(READERS)}. Convert the file.")
        return [path]
    inside = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path refuses absolute ones
    files = sorted(
        p
        for p in inside
        if p.is_file() and p.suffix.lower() in READERS and not p.name.startswith(".")
    )
    if files:
        return files
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    what = "has no file" if path.is_dir() else "is no file, folder or match"
    raise DataError(
        f"{path} {what} of vectors; looked for {', '.join(READERS)}."
        f"{'' if path.is_dir() else nearest(path.name, names)}"
    )


def _file_record(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size <= WHOLE_BYTES:
        return {"bytes": size, "sha256": sha256_of(path)}
    with path.open("rb") as file:
        head = file.read(END_BYTES)
        file.seek(-END_BYTES, 2)
        return {"bytes": size, "ends_sha256": digest([head, file.read(END_BYTES)])}
