"""Codes of whole documents: windows overlap, so that no token is coded without its past."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.activations.latents import LatentStore, LatentStoreWriter, is_store
from saekit.core import provenance
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, DataError
from saekit.core.finite import all_finite
from saekit.core.lock import made_whole
from saekit.core.progress import Progress
from saekit.data.base import Corpus, Split
from saekit.data.tokenise import Rows
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel
from saekit.models.sites import Site


class _Document(NamedTuple):
    index: int  # in the split
    tokens: Int[Tensor, "n"]


@dataclass(frozen=True, kw_only=True)
class DocumentIndex(Config):
    """How documents are read: windows that overlap, then one stream without BOS.

    A document goes through the model in windows of `n_ctx` tokens, BOS included where the
    SAE was trained so. The first window gives its tokens; every later one begins `overlap`
    tokens before the first that it gives, so that each token is coded with the document's
    beginning, or with `overlap` tokens or more, before it. The store's rows are the
    documents' tokens one after another, so traces of activation go on over rows.

    Args:
        n_ctx: tokens of a window.
        overlap: tokens of context that a window repeats.
        least_doc_tokens: shorter documents are left out.
        batch_rows: windows of a pass.

    Raises:
        ConfigError: a number is out of range, or the overlap leaves no new token.

    Source:
        SAE Locality dataset, feature_activation_autocorr (1024 tokens, overlap 256).
    """

    name: ClassVar[str] = "document_index"
    n_ctx: int = setting(1024, least=2, unit="tokens")
    overlap: int = setting(256, least=0, unit="tokens")
    least_doc_tokens: int = setting(64, least=1)
    batch_rows: int = setting(8, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_ctx - 1 <= self.overlap:
            raise ConfigError(
                f"`n_ctx` must be over `overlap` + 1, for windows to give new tokens; got "
                f"{self.n_ctx} and {self.overlap}."
            )

    def write(
        self,
        loaded: TrainedSAE,
        lm: LanguageModel,
        text: tuple[Corpus, Split],
        out: Path,
        *,
        tokens: int,
        shown: bool = True,
    ) -> LatentStore:
        """Write the codes of whole documents, `tokens` of them or more, as a store.

        Tokens that do not fill the last row (`n_ctx` tokens) are left out.

        Args:
            loaded: an SAE of single activations, and its card.
            lm: the model it was trained on.
            text: a corpus, and which part of it.
            out: folder to make; an earlier store in it stays until this one is whole.
            tokens: at which number no further document is begun, at least 1.
            shown: show progress on stderr.

        Raises:
            ConfigError: the SAE codes sites or positions jointly, or a setting does not go
                with the model.
            DataError: the text fills no row.
        """
        card, sae = loaded.card, loaded.sae
        if sae.cfg.event:
            raise ConfigError(
                f"`{sae.cfg.name}` codes {' and '.join(sae.cfg.event)} jointly; this reads SAEs "
                f"of single activations."
            )
        if tokens < 1 or self.n_ctx > lm.n_ctx_max:
            raise ConfigError(
                f"`tokens` must be at least 1 and `n_ctx` at most {lm.n_ctx_max}, what {lm.name} "
                f"reads; got {tokens} and {self.n_ctx}."
            )
        site = card.site
        stream = _Stream(self, loaded, lm, site)
        meta = {"card": card.to_dict(), "split": text[1], "documents": self.to_dict()}
        meta |= {"site": str(site)}  # of those the SAE reads
        with made_whole(out, "saekit locality autocorr", replaces=is_store) as part:
            writer = LatentStoreWriter(part, n_ctx=self.n_ctx, d_sae=sae.cfg.d_sae, meta=meta)
            progress = Progress("documents", tokens, shown=shown)
            n = 0
            rows = _Buffer(writer)
            for document in _documents(text, lm, self.least_doc_tokens):
                if n >= tokens:
                    break
                rows.add(document, *stream.read(document.tokens))
                n += len(document.tokens)
                progress.reach(n)
            progress.close()
            if not rows.written:
                raise DataError(
                    f"{n} tokens of documents of {self.least_doc_tokens} or more do not fill a "
                    f"row of {self.n_ctx}. Give more text, or lower `n_ctx` or `least_doc_tokens`."
                )
            short = provenance.shortfall(tokens, n, f"{text[1]} text", "tokens of whole documents")
            writer.meta |= {"notes": short}
            writer.close()
        return LatentStore.open(out)


def _documents(text: tuple[Corpus, Split], lm: LanguageModel, least: int) -> Iterator[_Document]:
    corpus, split = text
    for index, document in enumerate(corpus.documents(split)):
        ids = lm.tokenizer.encode([document.text])[0]
        if len(ids) >= least:
            yield _Document(index, torch.tensor(ids))


def spans(n: int, width: int, overlap: int) -> list[tuple[int, int, int]]:
    """Return the windows of a document: begin, end, and the first place that each gives.

    All windows but that of a short document are `width` long; the last ends with the
    document and so overlaps more.
    """
    found = [(0, min(n, width), 0)]
    while (given := found[-1][1]) < n:
        end = min(n, given - overlap + width)
        found.append((max(0, end - width), end, given))
    return found


class _Stream:
    """Documents to activations of every token, in the model's windows."""

    def __init__(self, cfg: DocumentIndex, loaded: TrainedSAE, lm: LanguageModel, site: Site):
        self.cfg, self.lm, self.site, self.sae = cfg, lm, site, loaded.sae
        self.card = loaded.card
        bos = loaded.card.bos_id(lm.tokenizer)
        self.head = torch.tensor([] if bos is None else [bos], dtype=torch.int64)

    @torch.no_grad()
    def read(self, tokens: Int[Tensor, "n"]) -> tuple[Bool[Tensor, "n"], Any]:
        """Return which tokens count, and the codes of those."""
        h = len(self.head)
        width = self.cfg.n_ctx - h
        sites = self.card.sites_of(self.site)
        parts: dict[Site, list[Float[Tensor, "m d"]]] = {site: [] for site in sites}
        windows = spans(len(tokens), width, self.cfg.overlap)
        for first in range(0, len(windows), self.cfg.batch_rows):
            part = windows[first : first + self.cfg.batch_rows]
            batch = torch.stack([torch.cat([self.head, tokens[a:b]]) for a, b, _ in part])
            for site, acts in self.lm.read(batch, sites).items():
                each = zip(acts, part, strict=True)
                parts[site] += [row[h + given - a :] for row, (a, _, given) in each]
        found = {site: torch.cat(x) for site, x in parts.items()}
        every = found[self.site]
        if not all_finite(every):
            raise DataError(f"Activations at {self.site} are not finite; use dtype float32.")
        kept = self.card.keep(self.site, tokens, found).cpu()
        return kept, self.sae.encode(every[kept.to(every.device)].float())


class _Buffer:
    """Collects documents until they fill rows, and hands full rows on."""

    def __init__(self, writer: LatentStoreWriter):
        self.writer, self.written = writer, 0
        self.parts: list[tuple[Tensor, Tensor, Tensor, Any]] = []

    def add(self, document: _Document, kept: Tensor, codes: Any) -> None:
        self.parts.append(
            (document.tokens, torch.full_like(document.tokens, document.index), kept, codes)
        )
        if sum(len(p[0]) for p in self.parts) >= self.writer.n_ctx:
            self._flush()

    def _flush(self) -> None:
        tokens, docs, kept = (torch.cat([p[i] for p in self.parts]) for i in range(3))
        codes = type(self.parts[0][3]).cat([p[3] for p in self.parts])
        width = self.writer.n_ctx
        n = len(tokens) // width
        cut = n * width
        row, pos = kept[:cut].view(n, width).nonzero(as_tuple=True)
        rows = Rows(tokens[:cut].view(n, width), docs[:cut].view(n, width), self.written)
        self.writer.add(rows, row + self.written, pos, codes.take(slice(0, len(row))))
        self.written += n
        rest = codes.take(slice(len(row), codes.n_rows))
        self.parts = [(tokens[cut:], docs[cut:], kept[cut:], rest)]
