"""Generated: text that a language model wrote, as `saekit corpus generate` keeps it: token ids."""

import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from saekit.core.border import ordinary, reading
from saekit.core.config import setting
from saekit.core.errors import DataError, FormatError
from saekit.core.files import digest, read_json, read_tensors, write_tensors
from saekit.core.sealed import read_sealed
from saekit.data.base import Corpus, Document, Split, registry
from saekit.data.split import documents_of, rule_of

MANIFEST, SHARDS, KIND = "manifest.json", "shards", "saekit generated text"


@registry.register
@dataclass(frozen=True, kw_only=True)
class Generated(Corpus):
    """A folder that `saekit corpus generate` made: each sequence is a document of token ids.

    The ids are those that the model drew, behind those of the prompt: what begins a sequence and,
    where it ended by itself, EOS are there, so that no separator is put between documents.

    Args:
        path: the folder.
        test_share: share of sequences that are test.
        validation_share: share of sequences that are for validation.

    Raises:
        ConfigError: a share is out of range.

    Source:
        None: the language model that the manifest names.
    """

    name: ClassVar[str] = "generated"

    path: str
    test_share: float = setting(0.1, least=0, below=1)
    validation_share: float = setting(0.1, least=0, below=1)

    @property
    @override
    def marks_ends(self) -> bool:
        return True

    @override
    def documents(self, split: Split) -> Iterator[Document]:
        return documents_of(split, self._every(), self.test_share, self.validation_share)

    @override
    def provenance(self) -> dict[str, Any]:
        manifest = self.manifest()
        shards = self.shards()
        if not shards:
            raise DataError(
                f"{self.path} has no finished text yet. Go on with `saekit corpus generate`."
            )
        if len(shards) < (n := manifest["counts"]["shards"]):
            raise FormatError(
                f"{self.path} has {len(shards)} of {n} files of text. Run the same `saekit corpus "
                f"generate` again, which writes the same text."
            )
        return {
            "made_by": manifest["made_by"],
            "tokenizer": manifest["tokenizer"],
            "n_shards": len(shards),
            "sha256": digest(map(_digest_of, shards)),
            "split_rule": rule_of(self.validation_share),
        }

    def manifest(self) -> dict[str, Any]:
        """Return what the text was made with, and how much there is.

        Raises:
            FormatError: the folder is of another kind, or damaged.
        """
        found = read_sealed(Path(self.path).expanduser() / MANIFEST)
        if found.get("kind") != KIND or not {"made_by", "tokenizer", "counts"} <= set(found):
            raise FormatError(
                f"{self.path} is not a folder of `saekit corpus generate`. Name one that it wrote."
            )
        return found

    def shards(self) -> list[Path]:
        """Return the files of text in order."""
        found = (Path(self.path).expanduser() / SHARDS).glob("[0-9]*.safetensors")
        ours = (p for p in found if p.stem.isdecimal() and p.name == file_of(int(p.stem)))
        return sorted(ours, key=lambda path: int(path.stem))

    def sequences(self) -> Iterator["Sequence"]:
        """Yield every sequence, in order.

        Raises:
            FormatError: a file is damaged.
        """
        for shard in self._read():
            yield from shard.sequences

    def n_written(self) -> int:
        """Return how many sequences were written, copies too."""
        return sum(shard.covered for shard in self._read())

    def _every(self) -> Iterator[Document]:
        for path, shard in zip(self.shards(), self._read(), strict=False):
            for one in shard.sequences:
                ids = " ".join(map(str, one.ids.tolist()))
                yield Document(ids, str(path), "ids", marks_end=True)

    def _read(self) -> Iterator["Shard"]:
        """Yield every file; one that holds numbers of another, as a copy of it does, is refused."""
        end = 0
        for path in self.shards():
            shard = read_shard(path)
            if shard.first < end:
                raise FormatError(
                    f"{path} holds sequences from {shard.first:,} on, which stand before it. "
                    f"Delete it and run the same `saekit corpus generate` again."
                )
            end = shard.first + shard.covered
            yield shard


class Sequence(NamedTuple):
    """A sequence that a model wrote."""

    number: int  # which decides its prompt and its draws
    n_prompt: int  # tokens that it was given
    ids: np.ndarray  # int32, those of the prompt first

    @property
    def digest(self) -> bytes:
        """By which duplicates are found: 16 bytes of the SHA-256 of the ids."""
        return hashlib.sha256(self.ids.astype("<i4").tobytes()).digest()[:16]


class Shard(NamedTuple):
    """Sequences of neighbouring numbers, each text once."""

    first: int  # number of the first sequence
    covered: int  # numbers from there on that are here or were duplicates
    sequences: list[Sequence]


def file_of(number: int) -> str:
    """Return what the file of a shard is called."""
    return f"{number:06d}.safetensors"


def is_generated(folder: Path) -> bool:
    """Tell a folder of generated text."""
    try:
        return read_json(folder / MANIFEST).get("kind") == KIND
    except (FormatError, FileNotFoundError, AttributeError):
        return False


def write_shard(path: Path, shard: Shard) -> None:
    """Write sequences as one file with a checksum of its own, atomically."""
    tensors = _tensors(shard.first, shard.covered, shard.sequences)
    write_tensors(path, tensors | {"sha256": _sum_of(tensors)})


def read_shard(path: Path) -> Shard:
    """Return what `write_shard` wrote.

    Raises:
        FormatError: the file is not what was written.
    """
    tensors = read_tensors(path)
    said = tensors.pop("sha256", None)
    with reading(path, "generated text"):
        if said is None or not torch.equal(said, _sum_of(tensors)):
            raise FormatError(
                f"{path} is damaged: its values do not match their checksum. Delete it and run the "
                f"same `saekit corpus generate` again, which writes the same text."
            )
        ids = tensors["ids"].numpy()
        ends = np.cumsum(tensors["lengths"].numpy())
        rows = zip(
            tensors["numbers"].tolist(),
            tensors["n_prompt"].tolist(),
            np.split(ids, ends[:-1]) if len(ends) else [],
            strict=True,
        )
        sequences = [Sequence(*row) for row in rows]
        return Shard(int(tensors["first"]), int(tensors["covered"]), sequences)


def _tensors(first: int, covered: int, sequences: Iterable[Sequence]) -> dict[str, Tensor]:
    rows = list(sequences)
    ids = np.concatenate([np.zeros(0, np.int32), *(row.ids for row in rows)])
    return {
        "first": torch.tensor(first),
        "covered": torch.tensor(covered),
        "numbers": torch.tensor([row.number for row in rows], dtype=torch.int64),
        "n_prompt": torch.tensor([row.n_prompt for row in rows], dtype=torch.int64),
        "lengths": torch.tensor([len(row.ids) for row in rows], dtype=torch.int64),
        "ids": torch.from_numpy(ids.astype(np.int32)),
    }


def _sum_of(tensors: dict[str, Tensor]) -> Tensor:
    parts = [part for name in sorted(tensors) for part in (name, tensors[name].numpy().tobytes())]
    return torch.frombuffer(bytearray(bytes.fromhex(digest(parts))), dtype=torch.uint8)


def _digest_of(path: Path) -> str:
    ordinary(path)
    return _digest_at(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _digest_at(path: Path, mtime_ns: int) -> str:  # the time: a file that was changed is new
    del mtime_ns
    read_shard(path)
    return read_tensors(path)["sha256"].numpy().tobytes().hex()
