"""Documents to full rows of tokens."""

import copy
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from saekit.core.errors import ConfigError, DataError
from saekit.core.files import digest
from saekit.data.base import Corpus, Split
from saekit.data.token_cache import Shard, TextEncoder, TokenCache, template_of

Separator = Literal["eos", "none"]


class Rows(NamedTuple):
    """Full rows of tokens; consecutive rows continue each other's documents."""

    tokens: Int[Tensor, "batch n_ctx"]
    doc_ids: Int[Tensor, "batch n_ctx"]  # index of the document in its split, from 0
    first_row: int  # index of the first of these rows in the stream


class TokenStream:
    """A split of a corpus as one run of tokens, cut into full rows.

    Documents are joined with a separator between them, in the order of the corpus; the run
    is cut every `n_ctx` tokens, and what does not fill the last row is left out. A row may
    begin with BOS, which then takes one of its places. BOS belongs to the document of the
    token after it, a separator to the document that it ends.

    Token ids are kept in the cache folder (see `TokenCache`): up to 4 GB a stream, about a
    thousand million tokens. A later part is tokenised again on every use.

    Args:
        corpus: where the documents are from.
        split: which of them.
        tokenizer: anything with `encode`, `bos_id`, `eos_id` and `digest`.
        n_ctx: tokens a row, BOS included.
        bos_each_row: begin every row with BOS, if the tokenizer has one.
        separator: "eos" joins documents with EOS, if the tokenizer has one; behind those of
            generated text, which have their own, there is none.
        cache: keep token ids on disk.

    Raises:
        ConfigError: `n_ctx` leaves no place for text.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: Split,
        tokenizer: TextEncoder,
        n_ctx: int,
        *,
        bos_each_row: bool = True,
        separator: Separator = "eos",
        cache: bool = True,
    ):
        if separator not in ("eos", "none"):
            raise ConfigError(f"`separator` must be 'eos' or 'none'; got {separator!r}.")
        self.corpus, self.n_ctx = corpus, n_ctx
        self.split: Split = split
        self.bos_id = tokenizer.bos_id if bos_each_row else None
        joined = separator == "none" or corpus.marks_ends
        self.separator_id = None if joined else tokenizer.eos_id
        self.text_per_row = n_ctx - (self.bos_id is not None)
        if self.text_per_row < 1:
            raise ConfigError(
                f"`n_ctx` must be at least {1 + n_ctx - self.text_per_row} here; got {n_ctx}."
            )
        self._part, self._of = 0, 1  # which rows are this stream's: see `dealt`
        self._cache = TokenCache(corpus, split, tokenizer, **({} if cache else {"most_bytes": 0}))
        self._seen = {"n_docs": 0, "n_empty_docs": 0, "n_text_tokens": 0, "complete": False}

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the rows: text, split, tokenizer, width, special ids."""
        parts = [self._cache.key, self.n_ctx, self.bos_id, self.separator_id]
        parts += [] if self._of == 1 else [self._part, self._of]
        return digest(str(part) for part in parts)

    @property
    def seen(self) -> dict[str, Any]:
        """How much was read so far, counted from the beginning of the split; see `provenance`."""
        return dict(self._seen)

    def dealt(self, part: int, of: int) -> "TokenStream":
        """Return every `of`-th row of this stream from row `part` on, as a stream of its own.

        The parts of a stream share no row and have all of them.

        Raises:
            ConfigError: `part` is not one of them.
        """
        if not 0 <= part < of or self._of > 1:
            raise ConfigError(f"A whole stream is dealt into parts 0..{of - 1}; got part {part}.")
        twin = copy.copy(self)
        twin._part, twin._of = part, of
        return twin

    def provenance(self) -> dict[str, Any]:
        """Return what identifies the rows, and how much was read so far, JSON-ready.

        ``seen`` counts from the beginning of the split: documents, those without a token,
        tokens of text (no special ones), and whether the end was reached.
        """
        chats = {"chat_template": template_of(self._cache.tokenizer)}
        return (chats if self.corpus.holds_chats else {}) | {
            "corpus": self.corpus.to_dict(),
            "text": self.corpus.provenance(),
            "split": self.split,
            "tokenizer": self._cache.tokenizer.digest,
            "n_ctx": self.n_ctx,
            "bos_id": self.bos_id,
            "separator_id": self.separator_id,
            "digest": self.digest,
            "seen": self.seen,
        }

    def rows(
        self, batch_rows: int, first_row: int = 0, n_rows: int | None = None
    ) -> Iterator[Rows]:
        """Yield rows in order; the same rows whatever the batches and wherever it begins.

        Args:
            batch_rows: rows a batch, at least 1; the last batch may have fewer.
            first_row: where to begin, from 0.
            n_rows: at most so many rows; None for all. A split that has fewer gives what it
                has: ask `need` first where that is not enough.

        Raises:
            ConfigError: a count is out of range.
            DataError: the split does not fill one row.
        """
        if batch_rows < 1 or first_row < 0 or (n_rows is not None and n_rows < 0):
            raise ConfigError(
                f"Rows are asked for with batch_rows >= 1, first_row >= 0 and n_rows >= 0; got "
                f"{batch_rows}, {first_row}, {n_rows}."
            )
        if self._of == 1:
            return self._batches(batch_rows, first_row, n_rows)
        return self._own(batch_rows, first_row, n_rows)

    def count(self, at_most: int | None = None) -> int:
        """Return how many rows the split has, looking no further than `at_most`.

        It tokenises what it counts; an endless corpus needs `at_most`.
        """
        n_rows = self._n_text(None if at_most is None else at_most * self._of)
        return len(range(self._part, n_rows // self.text_per_row, self._of))

    def need(self, n_rows: int) -> None:
        """Make sure, before a run starts, that there are so many rows.

        Raises:
            DataError: there are fewer.
        """
        n_rows = (n_rows - 1) * self._of + self._part + 1 if n_rows else 0
        n_text = self._n_text(n_rows)
        if n_text // self.text_per_row < n_rows:
            raise self._too_short(n_text, n_rows)

    def _own(self, batch_rows: int, first_row: int, n_rows: int | None) -> Iterator[Rows]:
        """Yield own rows of a stream that was dealt, counted among themselves."""
        all_rows = None if n_rows is None else n_rows * self._of
        for rows in self._batches(batch_rows * self._of, first_row * self._of, all_rows):
            mine = slice(self._part, None, self._of)
            tokens, doc_ids = rows.tokens[mine], rows.doc_ids[mine]
            if len(tokens):
                yield Rows(tokens, doc_ids, rows.first_row // self._of)

    def _batches(self, batch_rows: int, first_row: int, n_rows: int | None) -> Iterator[Rows]:
        width, row = self.text_per_row, first_row
        end = None if n_rows is None else first_row + n_rows
        tokens, docs = np.empty(0, np.int32), np.empty(0, np.int64)
        skip, at = first_row * width, 0  # places of the run
        if n_rows == 0:
            return
        for part in self._parts():
            at += part.size
            if at <= skip:
                continue
            fresh_tokens, fresh_docs = part.laid_out(self.separator_id)
            begin = max(skip - (at - part.size), 0)
            tokens = np.concatenate([tokens, fresh_tokens[begin:]])
            docs = np.concatenate([docs, fresh_docs[begin:]])
            while len(tokens) >= batch_rows * width and (end is None or row < end):
                take = batch_rows if end is None else min(batch_rows, end - row)
                yield self._rows(tokens, docs, take, row)
                tokens, docs, row = tokens[take * width :], docs[take * width :], row + take
            if end is not None and row >= end:
                return
        left = len(tokens) // width
        take = left if end is None else min(left, end - row)
        if take > 0:
            yield self._rows(tokens, docs, take, row)
        elif at < width:
            raise self._too_short(at, 1)

    def _rows(self, tokens: np.ndarray, docs: np.ndarray, n: int, first_row: int) -> Rows:
        size = n * self.text_per_row
        text = torch.from_numpy(tokens[:size].astype(np.int64)).view(n, self.text_per_row)
        ids = torch.from_numpy(docs[:size].copy()).view(n, self.text_per_row)
        if self.bos_id is not None:
            text = torch.cat([torch.full((n, 1), self.bos_id), text], dim=1)
            ids = torch.cat([ids[:, :1], ids], dim=1)
        return Rows(text, ids, first_row)

    def _n_text(self, at_most_rows: int | None) -> int:
        enough = None if at_most_rows is None else at_most_rows * self.text_per_row
        total = 0
        for part in self._parts():
            total += part.size
            if enough is not None and total >= enough:
                return enough
        return total

    def _parts(self) -> Iterator["_Part"]:
        part: _Part | None = None
        n_docs = n_empty = n_text = 0
        for shard in self._cache.shards():
            part = _Part(shard, part, self.separator_id is not None)
            n_docs += len(shard.lengths)
            n_empty += int((shard.lengths == 0).sum())
            n_text += len(shard.tokens)
            if n_docs > self._seen["n_docs"]:
                self._seen |= {"n_docs": n_docs, "n_empty_docs": n_empty, "n_text_tokens": n_text}
            yield part
        self._seen["complete"] = True

    def _too_short(self, available: int, n_rows: int) -> DataError:
        shares = self.corpus.shares
        if shares is not None and len(set(shares.region(self.split))) == 1:
            return DataError(
                f"`{self.corpus.name}` keeps no {self.split} text: `{self.split}_share` is 0. Text "
                f"for an SAE is dealt as that of its run, and runs from before there was a "
                f"validation split keep none for it. Read another split, or train with a share "
                f"above 0."
            )
        return DataError(
            f"The {self.split} split of `{self.corpus.name}` has {available:,} tokens, with "
            f"separators; {n_rows:,} rows of {self.text_per_row:,} need "
            f"{n_rows * self.text_per_row:,}. Give more text, ask for fewer tokens, or, where "
            f"the text is one document, set `separator` so that it can be split."
        )


class _Part:
    """A shard as a stretch of the run.

    A separator goes before each document but the first, and but those behind a document that marks
    its end itself.
    """

    def __init__(self, shard: Shard, before: "_Part | None", separated: bool):
        self.shard = shard
        filled = np.flatnonzero(shard.lengths)  # [m] documents that have tokens
        self.docs, self.lengths = shard.first_doc + filled, shard.lengths[filled]
        last = None if before is None else before.last
        doc, ended = (-1, True) if last is None else last
        self.behind = np.append(doc, self.docs)[:-1]  # [m] the document before each
        joined = np.append(ended, shard.ended[filled])[:-1]
        self.gaps = (~joined & separated).astype(np.int64)
        self.size = len(shard.tokens) + int(self.gaps.sum())
        # The last document so far that has tokens, and whether it marks its end.
        self.last = (int(self.docs[-1]), bool(shard.ended[filled[-1]])) if len(filled) else last

    def laid_out(self, separator_id: int | None) -> tuple[np.ndarray, np.ndarray]:
        whole = self.lengths + self.gaps
        owners = np.repeat(self.docs, whole)
        if separator_id is None or not self.gaps.any():
            return self.shard.tokens, owners
        # The owner of a separator is the document before it.
        places = (np.cumsum(whole) - whole)[self.gaps > 0]
        owners[places] = self.behind[self.gaps > 0]
        tokens = np.full(self.size, separator_id, dtype=np.int32)
        text = np.ones(self.size, dtype=bool)
        text[places] = False
        tokens[text] = self.shard.tokens
        return tokens, owners
