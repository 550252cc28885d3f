"""Token ids of a corpus, in shards on disk, so that a text is tokenised once."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from saekit.core.embedded_ids import beyond_embedding
from saekit.core.errors import DataError, FormatError
from saekit.core.files import cache_folder, digest, read_tensors, write_tensors
from saekit.core.sealed import read_sealed, write_sealed
from saekit.data.base import Corpus, Document, Split

_FORMAT = 2  # raised when shards are laid out otherwise: older ones are not read
SHARD_TOKENS = 1 << 18
_BATCH_DOCS = 256
_BATCH_CHARS = 1_000_000


@runtime_checkable
class TextEncoder(Protocol):
    """What is needed of a tokenizer to make rows."""

    @property
    def bos_id(self) -> int | None:
        """Id of the token that begins a text, if there is one."""
        ...

    @property
    def eos_id(self) -> int | None:
        """Id of the token that ends a text, if there is one."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of what defines the tokenizer."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return token ids per text, without any special token added."""
        ...


class Shard(NamedTuple):
    """Consecutive documents of a split, without special tokens."""

    first_doc: int  # index in the split
    lengths: np.ndarray  # [n_docs] int64, tokens a document; 0 where it is empty
    tokens: np.ndarray  # [sum of lengths] int32
    ended: np.ndarray  # [n_docs] bool, documents that mark their end themselves


class TokenCache:
    """The token ids of one split of a corpus, made as they are asked for and kept.

    A shard is a run of whole documents of at least `SHARD_TOKENS` tokens (4 bytes each); it
    is written when it is full, so that a stream read in part is kept in part. Each has a checksum,
    and one that does not match is made again. The folder is
    named after the corpus, its provenance, the split and the tokenizer: where any of them
    changes, nothing of it is read.

    Args:
        corpus: what to tokenise.
        split: which part of it.
        tokenizer: gives ids and a digest.
        most_bytes: shards past this size are used but not kept; 0 keeps none.
    """

    def __init__(
        self, corpus: Corpus, split: Split, tokenizer: TextEncoder, most_bytes: int = 4_000_000_000
    ):
        self.corpus, self.tokenizer = corpus, tokenizer
        self.split: Split = split
        self.most_bytes = most_bytes
        text = corpus.provenance()
        check_tokenizer(corpus, text, tokenizer)
        identity = [corpus.to_dict(), text, split, tokenizer.digest, _FORMAT]
        if corpus.mixes_ends:
            identity.append("ends are marked by document")
        if corpus.holds_chats:
            identity.append(template_of(tokenizer))
        self.key = digest(json.dumps(part, sort_keys=True) for part in identity)
        self.folder: Path = cache_folder() / "tokens" / self.key[:24]

    def shards(self) -> Iterator[Shard]:
        """Yield all shards in order: what is kept is read, the rest is made."""
        count, next_doc, n_bytes = 0, 0, 0
        while (shard := self._kept(count)) is not None:
            self._check_embedded(shard)
            yield shard
            count += 1
            next_doc = shard.first_doc + len(shard.lengths)
            n_bytes += shard.tokens.nbytes
        if self._n_shards() == count:
            return
        for shard in self._made(next_doc):
            n_bytes += shard.tokens.nbytes
            if n_bytes <= self.most_bytes:
                self._keep(count, shard)
            self._check_embedded(shard)
            yield shard
            count += 1
        if n_bytes <= self.most_bytes:
            write_sealed(self.folder / "end.json", {"n_shards": count})

    def _check_embedded(self, shard: Shard) -> None:
        """Refuse a token that the model has no row for, with the document it is in.

        A kept shard is checked too: models of one tokenizer may have embeddings of other sizes.
        """
        n_rows = getattr(self.tokenizer, "n_embedded", None)
        if n_rows is None or not len(shard.tokens) or shard.tokens.max() < n_rows:
            return
        at = int((shard.tokens >= n_rows).argmax())
        number = int(np.searchsorted(shard.lengths.cumsum(), at, side="right")) + shard.first_doc
        document = next(itertools.islice(self.corpus.documents(self.split), number, None))
        where = (
            f"in document {number:,} of the {self.split} split ({document.source}, which begins "
            f"{document.text[:40]!r})"
        )
        raise beyond_embedding(self.tokenizer, int(shard.tokens[at]), n_rows, where)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.safetensors"

    def _n_shards(self) -> int | None:
        path = self.folder / "end.json"
        try:
            return read_sealed(path)["n_shards"] if path.exists() else None
        except FormatError:  # damaged: the end of the text is looked for again
            return None

    def _kept(self, index: int) -> Shard | None:
        path = self._path(index)
        if self.most_bytes == 0 or not path.exists():
            return None
        try:
            read_sealed(_sums(path))
            found = read_tensors(path)
        except FormatError:  # damaged since it was written, or half kept: made again, the same
            path.unlink(missing_ok=True)
            return None
        lengths = found["lengths"].numpy()
        ended = found["ended"].numpy() if "ended" in found else np.zeros(len(lengths), dtype=bool)
        return Shard(int(found["first_doc"]), lengths, found["tokens"].numpy(), ended)

    def _keep(self, index: int, shard: Shard) -> None:
        tensors = {
            "first_doc": torch.tensor(shard.first_doc),
            "lengths": torch.from_numpy(shard.lengths),
            "tokens": torch.from_numpy(shard.tokens),
        }
        if self.corpus.mixes_ends:  # else all documents are alike in it
            tensors["ended"] = torch.from_numpy(shard.ended)
        path = self._path(index)
        write_tensors(path, tensors)
        write_sealed(_sums(path), {"first_doc": shard.first_doc}, [path])

    def _made(self, first_doc: int) -> Iterator[Shard]:
        documents = itertools.islice(self.corpus.documents(self.split), first_doc, None)
        lengths: list[int] = []
        ids: list[int] = []
        ended: list[bool] = []
        for document, encoded in self._encoded(documents):
            lengths.append(len(encoded))
            ids += encoded
            ended.append(document.marks_end)
            if len(ids) >= SHARD_TOKENS:
                yield _shard(first_doc, lengths, ids, ended)
                first_doc += len(lengths)
                lengths, ids, ended = [], [], []
        if lengths:
            yield _shard(first_doc, lengths, ids, ended)

    def _encoded(self, documents: Iterator[Document]) -> Iterator[tuple[Document, list[int]]]:
        batch: list[Document] = []
        n_chars = 0
        for document in documents:
            batch.append(document)
            n_chars += len(document.text)
            if len(batch) == _BATCH_DOCS or n_chars >= _BATCH_CHARS:
                yield from zip(batch, self._ids(batch), strict=True)
                batch, n_chars = [], 0
        if batch:
            yield from zip(batch, self._ids(batch), strict=True)

    def _ids(self, batch: list[Document]) -> list[list[int]]:
        """Return the token ids of some documents, of whichever kind they are."""
        texts = [self._chat(d) if d.kind == "chat" else d.text for d in batch if d.kind != "ids"]
        encoded = iter(self.tokenizer.encode(texts) if texts else [])
        return [
            self._checked(d) if d.kind == "ids" else self._begun(next(encoded), d) for d in batch
        ]

    def _chat(self, document: Document) -> str:
        chat = getattr(self.tokenizer, "chat", None)
        if chat is None:
            raise DataError(
                f"{document.source} holds chats, and this tokenizer has no chat template. Use a "
                f"model tuned for chat, or write the chats out as text."
            )
        return chat(json.loads(document.text))

    def _begun(self, ids: list[int], document: Document) -> list[int]:
        """Leave out the BOS that a template puts in front: rows have one of their own."""
        bos = self.tokenizer.bos_id
        begins = document.kind == "chat" and bos is not None and ids[:1] == [bos]
        return ids[1:] if begins else ids

    def _checked(self, document: Document) -> list[int]:
        """Return the ids of a document of ids, after refusing those that no token has."""
        ids = list(map(int, document.text.split()))
        # Some models have rows for more ids than their tokenizer has tokens.
        sizes = (getattr(self.tokenizer, name, None) for name in ("vocab_size", "n_embedded"))
        size = max((n for n in sizes if n is not None), default=None)
        if wrong := [i for i in ids if i < 0 or (size is not None and i >= size)]:
            raise DataError(
                f"{document.source} has the token id {wrong[0]}; the tokenizer has "
                f"{'only ids from 0' if size is None else f'{size:,} tokens'}. Were these ids made "
                f"by another tokenizer?"
            )
        return ids


def check_tokenizer(corpus: Corpus, text: Mapping[str, Any], tokenizer: TextEncoder) -> None:
    """Refuse a corpus that holds, or of which a part holds, ids of another tokenizer.

    Args:
        corpus: for the message.
        text: its provenance.
        tokenizer: of the model that is to read it.

    Raises:
        DataError: it does.
    """
    if any(
        part.get("tokenizer") not in (None, tokenizer.digest)
        for part in (text, *text.get("parts", ()))
    ):
        raise DataError(
            f"The corpus `{corpus.name}` holds ids of another tokenizer than this model's. Use "
            f"the model that wrote them, or one of the same tokenizer."
        )


def template_of(tokenizer: TextEncoder) -> str | None:
    """Return the SHA-256 of a tokenizer's chat template; None: it has none."""
    template = getattr(tokenizer, "chat_template", None)
    return None if template is None else digest([template])


def _sums(path: Path) -> Path:
    """Return the file with the checksum of a shard; it is written after the shard."""
    return path.with_suffix(".json")


def _shard(first_doc: int, lengths: list[int], ids: list[int], ended: list[bool]) -> Shard:
    tokens = np.array(ids, dtype=np.int32)
    return Shard(first_doc, np.array(lengths, dtype=np.int64), tokens, np.array(ended, dtype=bool))
