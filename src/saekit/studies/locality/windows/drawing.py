"""Windows of a corpus: a token stream with its documents' borders, and a drawn sample of it.

Windows come from the whole corpus without tokenising all of it. Every document gets a random key
from the seed; those with the smallest keys are kept until they hold enough text, so each document
is as likely as any other. Only these are tokenised, in the order of the corpus, and windows are
drawn from them. Where too few pass the filter, more documents are kept, up to all there are.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from saekit.core import provenance
from saekit.core.errors import ConfigError, DataError
from saekit.core.seeds import generator
from saekit.data.base import Corpus, Split
from saekit.models.base import LanguageModel, Tokenizer
from saekit.studies.locality.filters.base import CROSSES, Candidate, Filter

BATCH_DOCS = 64
LATE_WINDOWS = 8  # that are shown to `late` together, or more
STREAM_WINDOWS = 40  # windows of text tokenised for each that is wanted, at first
MORE = 8  # times as much text where too few windows passed
CHARS_A_TOKEN = 6  # more than text has on average, so that the text kept is enough
PIECE_WINDOWS = 20  # windows in a piece of rows that the filter joins, at least
KEYS = 4096  # random keys made together


class Stream(NamedTuple):
    """Text as token ids, one document after another."""

    ids: Int[Tensor, "tokens"]
    starts: Int[Tensor, "docs"]  # where each document begins
    sources: list[str]  # of each document


class Sample(NamedTuple):
    """Documents drawn from all those of a corpus, in its order."""

    texts: list[tuple[str, str]]  # of each: text as it enters the stream, and source
    documents: int  # in the corpus, or pieces of it where the filter joins rows
    characters: int  # in all of them
    seed: int  # of the keys
    split: Split  # that was read

    @property
    def whole(self) -> bool:
        """Tell whether nothing was left out."""
        return len(self.texts) == self.documents

    def record(self) -> dict[str, Any]:
        """Return how the text of the windows was chosen, JSON-ready."""
        return {
            "method": "documents with the smallest random keys of the whole corpus",
            "split": self.split,
            "seed": self.seed,
            "documents": self.documents,
            "characters": self.characters,
            "documents_tokenised": len(self.texts),
        }


class Selection(NamedTuple):
    """Windows that were drawn, in the order of the stream."""

    tokens: Int[Tensor, "windows n_ctx"]
    start: Int[Tensor, "windows"]  # offset of the first token in the stream
    source: list[str]  # of the document of each window's last token
    refused: dict[str, int]  # reason to number of candidates
    candidates: int  # in the stream
    bos: bool  # whether a BOS was put before each
    sample: Sample | None = None  # the text they were drawn from; None: all of the stream


# from windows [windows, n_ctx] to why each is refused; None where it is not
Late = Callable[[Int[Tensor, "windows n_ctx"]], list[str | None]]


def sample_documents(
    corpus: Corpus,
    split: Split,
    rule: Filter,
    *,
    chars: int,
    seed: int = 0,
    piece_chars: int = 1,
    most_docs: int = 0,
) -> Sample:
    """Return documents drawn from the whole corpus, as many as hold enough text.

    Rows that the filter joins belong together: there, what is drawn is a piece of rows that
    follow each other.

    Args:
        corpus: the text.
        split: of it (see `part`).
        rule: how a document enters the stream.
        chars: least text, where the corpus has it.
        seed: of the keys; more text of the same seed holds all that less text does.
        piece_chars: least characters of a piece, where rows are joined.
        most_docs: read only the first documents of the corpus; 0: all.

    Raises:
        DataError: there is no text.
    """
    split = part(corpus, split)
    documents = islice(corpus.documents(split), most_docs or None)
    texts = ((rule.prepare(d.text), d.source) for d in documents)
    units: Iterable[tuple[str, str]] = (one for one in texts if one[0])
    if rule.joiner is not None:
        units = _pieces(units, rule.joiner, piece_chars)
    keys = _keys(seed)
    kept: list[tuple[float, int, str, str]] = []  # a heap, the largest key first
    held = read = n = 0
    for n, (text, source) in enumerate(units, start=1):
        read += len(text)
        key = next(keys)
        if held >= chars and key >= -kept[0][0]:
            continue
        heapq.heappush(kept, (-key, n, text, source))
        held += len(text)
        while held - len(kept[0][2]) >= chars:
            held -= len(heapq.heappop(kept)[2])
    if not n:
        raise DataError(
            f"The corpus gives no text for windows (split {split}). Give more text, or read "
            f"another split."
        )
    ordered = sorted(kept, key=lambda one: one[1])
    return Sample([(text, source) for _, _, text, source in ordered], n, read, seed, split)


def part(corpus: Corpus, split: Split) -> Split:
    """Return the split to read: train where a corpus keeps no text from it.

    The corpora of the published runs are read whole, which is such a corpus.
    """
    return "train" if corpus.shares is not None and not corpus.shares.held_out else split


def _keys(seed: int) -> Iterator[float]:
    source = generator(seed, "locality", "documents")
    while True:
        yield from torch.rand(KEYS, generator=source, dtype=torch.float64).tolist()


def _pieces(texts: Iterable[tuple[str, str]], joiner: str, least: int) -> Iterator[tuple[str, str]]:
    """Yield rows that follow each other as one text, with the source of the first."""
    held: list[str] = []
    source, chars = "", 0
    for text, name in texts:
        source = source if held else name
        held.append(text)
        chars += len(text)
        if chars >= least:
            yield joiner.join(held), source
            held, chars = [], 0
    if held:
        yield joiner.join(held), source


def read_stream(sample: Sample, tokenizer: Tokenizer) -> Stream:
    """Return documents as tokens, one after another, each tokenised by itself.

    Raises:
        DataError: none of them has a token.
    """
    ids: list[int] = []
    starts: list[int] = []
    sources: list[str] = []
    for group in _groups(sample.texts, BATCH_DOCS):
        encoded = tokenizer.encode([text for text, _ in group])
        for tokens, (_, source) in zip(encoded, group, strict=True):
            if tokens:
                starts.append(len(ids))
                sources.append(source)
                ids += tokens
    if not ids:
        raise DataError("The text gives no token for windows. Give more text.")
    return Stream(torch.tensor(ids), torch.tensor(starts), sources)


def draw(  # noqa: PLR0913 - the text, and what of it is wanted
    stream: Stream,
    tokenizer: Tokenizer,
    rule: Filter,
    *,
    n_ctx: int,
    windows: int,
    seed: int = 0,
    bos: bool = False,
    late: Late | None = None,
) -> Selection:
    """Return a random sample of windows that a filter lets pass.

    Candidates lie one after another without overlap, or, where there are too few of them for the
    windows wanted, at every offset. They are tried in a random order until enough have passed.
    There may be fewer than wanted; none is drawn twice.

    Args:
        stream: the text.
        tokenizer: what made its ids.
        rule: which windows pass.
        n_ctx: tokens of a window, BOS included.
        windows: how many are wanted.
        seed: of the order.
        bos: put a BOS before each window.
        late: what else refuses windows, and is dear: it is shown, some together, those that the
            filter lets pass, BOS included, and tells why they are refused.

    Raises:
        ConfigError: a number is below 1, or there is no BOS.
        DataError: no window passes.
    """
    length = n_ctx - bos
    if length < 1 or windows < 1:
        raise ConfigError(f"Windows need at least one token; got n_ctx={n_ctx}, {windows} windows.")
    if bos and tokenizer.bos_id is None:
        raise ConfigError(
            "This tokenizer has no BOS to put before windows. Leave it out: --no-bos."
        )
    last = len(stream.ids) - length
    offsets = torch.arange(0, max(last + 1, 0), length)
    if len(offsets) < windows:
        offsets = torch.arange(max(last + 1, 0))
    order = torch.randperm(len(offsets), generator=generator(seed, "locality", "windows"))
    tried = _tried(stream, tokenizer, rule, offsets[order], length)

    def tokens_at(starts: list[int]) -> Tensor:
        tokens = stream.ids[torch.tensor(starts)[:, None] + torch.arange(length)]
        head = torch.full((len(tokens), 1), tokenizer.bos_id or 0)
        return torch.cat([head, tokens], dim=1) if bos else tokens

    asked = None if late is None else lambda starts: late(tokens_at(starts))
    taken, refused = _taken(tried, windows, asked)
    if not taken:
        fewer = "" if late is None else ", or ask for fewer active latents"
        why = ", ".join(f"{n} for {r}" for r, n in refused.items()) or "the text is too short"
        raise DataError(
            f"No window of {n_ctx} tokens passes the filter `{rule.name}` ({why}). Shorten the "
            f"windows, give more text or another filter{fewer}."
        )
    start = torch.tensor(sorted(taken))
    doc = torch.searchsorted(stream.starts, start + length - 1, right=True) - 1
    source = [stream.sources[i] for i in doc.tolist()]
    return Selection(tokens_at(start.tolist()), start, source, refused, len(offsets), bos)


def notes_on(drawn: Selection, windows: int) -> list[str]:
    """Return a note where fewer windows were drawn than were asked for."""
    unit = "windows that pass the filter"
    return provenance.shortfall(windows, len(drawn.tokens), "text", unit)


def _tried(
    stream: Stream, tokenizer: Tokenizer, rule: Filter, offsets: Tensor, length: int
) -> Iterator[tuple[int, str | None]]:
    """Yield where windows begin, and why the filter refuses them."""
    # Pieces of joined rows were drawn apart, so what follows one is other text.
    apart_here = rule.one_document or rule.joiner is not None
    across = crossing(stream, offsets, length) if apart_here else torch.zeros_like(offsets)
    for start, apart in zip(offsets.tolist(), across.tolist(), strict=True):
        # strings of a window are made only where they may decide
        one = None if apart else candidate(stream, tokenizer, start, length)
        yield start, CROSSES if one is None else rule.refuses(one)


def _taken(
    tried: Iterator[tuple[int, str | None]],
    windows: int,
    late: Callable[[list[int]], list[str | None]] | None,
) -> tuple[list[int], dict[str, int]]:
    """Return where the first windows that nothing refuses begin, and how many were, by reason."""
    taken: list[int] = []
    refused: dict[str, int] = {}
    while True:
        missing = windows - len(taken)
        some = _until(tried, missing if late is None else max(missing, LATE_WINDOWS))
        passed = [start for start, reason in some if reason is None]
        told = late(passed) if late and passed else [None] * len(passed)
        later = dict(zip(passed, told, strict=True))
        for start, early in some:
            reason = early or later[start]
            if reason is not None:
                refused[reason] = refused.get(reason, 0) + 1
                continue
            taken.append(start)
            if len(taken) == windows:
                return taken, refused
        if not some:
            return taken, refused


def _until(tried: Iterator[tuple[int, str | None]], passing: int) -> list[tuple[int, str | None]]:
    """Return the next windows, up to and with so many that pass."""
    some: list[tuple[int, str | None]] = []
    for start, reason in tried:
        some.append((start, reason))
        passing -= reason is None
        if not passing:
            break
    return some


def crossing(stream: Stream, offsets: Tensor, length: int) -> Tensor:
    """Return which windows lie in more than one document."""
    first, last = (
        torch.searchsorted(stream.starts, at, right=True) for at in (offsets, offsets + length - 1)
    )
    return first != last


def check_length(lm: LanguageModel, n_ctx: int, name: str) -> None:
    """Refuse windows that a model cannot read, before text is read for them.

    Raises:
        ConfigError: `n_ctx` is more than the model reads.
    """
    if n_ctx > lm.n_ctx_max:
        raise ConfigError(
            f"`{name}` must be at most {lm.n_ctx_max} tokens, which is what {lm.name} reads; got "
            f"{n_ctx}. Shorten the windows."
        )


def candidate(stream: Stream, tokenizer: Tokenizer, start: int, length: int) -> Candidate:
    """Return what a filter is told of a window."""
    ids = stream.ids[start : start + length].tolist()
    ends = torch.tensor([start, start + length - 1])
    first, last = (torch.searchsorted(stream.starts, ends, right=True) - 1).tolist()
    special = sum(i in tokenizer.special_ids for i in ids)
    before = start - int(stream.starts[first])
    return Candidate(ids, tokenizer.pieces(ids), before, last - first + 1, special)


def from_corpus(  # noqa: PLR0913 - the text, and what of it is wanted
    corpus: Corpus,
    split: Split,
    tokenizer: Tokenizer,
    rule: Filter,
    *,
    n_ctx: int,
    windows: int,
    seed: int = 0,
    most_docs: int = 0,
    bos: bool = False,
    late: Late | None = None,
) -> Selection:
    """Draw windows from a whole corpus; tokenise as much of it as they need (see `draw`).

    Args:
        corpus: the text.
        split: of it.
        tokenizer: of the model.
        rule: which windows pass.
        n_ctx: tokens of a window, BOS included.
        windows: how many are wanted.
        seed: of documents and windows.
        most_docs: use only the first documents; 0: all.
        bos: put a BOS before each window.
        late: what else refuses windows (see `draw`).

    Raises:
        ConfigError: a number is out of range, or there is no BOS.
        DataError: there is no text, or no window passes.
    """
    if most_docs < 0:
        raise ConfigError(f"`documents` must be 0 (all) or more; got {most_docs}.")
    chars = CHARS_A_TOKEN * STREAM_WINDOWS * windows * n_ctx
    while True:
        sample = sample_documents(
            corpus,
            split,
            rule,
            chars=chars,
            seed=seed,
            most_docs=most_docs,
            piece_chars=CHARS_A_TOKEN * PIECE_WINDOWS * n_ctx,
        )
        try:
            found = draw(
                read_stream(sample, tokenizer),
                tokenizer,
                rule,
                n_ctx=n_ctx,
                windows=windows,
                seed=seed,
                bos=bos,
                late=late,
            )
        except DataError:
            if sample.whole:
                raise
        else:
            if len(found.tokens) == windows or sample.whole:
                return found._replace(sample=sample)
        chars *= MORE


def _groups(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    held: list[Any] = []
    for item in items:
        held.append(item)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
