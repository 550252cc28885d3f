"""Windows of a corpus: a token stream with its documents' borders, and a drawn sample of it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from saekit.core.errors import ConfigError, DataError
from saekit.core.seeds import generator
from saekit.data.base import Corpus, Split
from saekit.locality.filters.base import CROSSES, Candidate, Filter
from saekit.models.base import LanguageModel, Tokenizer

BATCH_DOCS = 64
LATE_WINDOWS = 8  # that are shown to `late` together, or more
STREAM_WINDOWS = 40  # candidates read for each window wanted, so that a sample is of all of them


class Stream(NamedTuple):
    """Text as token ids, one document after another."""

    ids: Int[Tensor, "tokens"]
    starts: Int[Tensor, "docs"]  # where each document begins
    sources: list[str]  # of each document


class Selection(NamedTuple):
    """Windows that were drawn, in the order of the stream."""

    tokens: Int[Tensor, "windows n_ctx"]
    start: Int[Tensor, "windows"]  # offset of the first token in the stream
    source: list[str]  # of the document of each window's last token
    refused: dict[str, int]  # reason to number of candidates
    candidates: int  # in the stream
    bos: bool  # whether a BOS was put before each


# from windows [windows, n_ctx] to why each is refused; None where it is not
Late = Callable[[Int[Tensor, "windows n_ctx"]], list[str | None]]


def read_stream(
    corpus: Corpus, split: Split, tokenizer: Tokenizer, rule: Filter, most_tokens: int
) -> Stream:
    """Return the beginning of a corpus as tokens; a last document that is too long is cut.

    Documents are tokenised each by itself, but where the filter joins them: then the text is
    one, in pieces of many documents.

    Raises:
        DataError: there is no text.
    """
    ids: list[int] = []
    starts: list[int] = []
    sources: list[str] = []
    texts = ((rule.prepare(d.text), d.source) for d in corpus.documents(split))
    for group in _groups(((t, s) for t, s in texts if t), BATCH_DOCS):
        if rule.joiner is not None:
            group = [(rule.joiner.join(t for t, _ in group), group[0][1])]
        encoded = tokenizer.encode([text for text, _ in group])
        for tokens, (_, source) in zip(encoded, group, strict=True):
            if tokens:
                starts.append(len(ids))
                sources.append(source)
                ids += tokens
        if len(ids) >= most_tokens:
            break
    if not ids:
        raise DataError(f"The corpus gives no text for windows (split {split}).")
    return Stream(torch.tensor(ids[:most_tokens]), torch.tensor(starts), sources)


def draw(  # noqa: PLR0913 - the text, and what of it is wanted
    stream: Stream, tokenizer: Tokenizer, rule: Filter, *, n_ctx: int, windows: int,
    seed: int = 0, bos: bool = False, late: Late | None = None,
) -> Selection:  # fmt: skip
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
        raise ConfigError("This tokenizer has no BOS to put before windows.")
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


def _tried(
    stream: Stream, tokenizer: Tokenizer, rule: Filter, offsets: Tensor, length: int
) -> Iterator[tuple[int, str | None]]:
    """Yield where windows begin, and why the filter refuses them."""
    across = crossing(stream, offsets, length) if rule.one_document else torch.zeros_like(offsets)
    for start, apart in zip(offsets.tolist(), across.tolist(), strict=True):
        # strings of a window are made only where they may decide
        one = None if apart else candidate(stream, tokenizer, start, length)
        yield start, CROSSES if one is None else rule.refuses(one)


def _taken(
    tried: Iterator[tuple[int, str | None]], windows: int,
    late: Callable[[list[int]], list[str | None]] | None,
) -> tuple[list[int], dict[str, int]]:  # fmt: skip
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


def _until(
    tried: Iterator[tuple[int, str | None]], passing: int
) -> list[tuple[int, str | None]]:
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


def from_corpus(
    corpus: Corpus, split: Split, tokenizer: Tokenizer, rule: Filter, **settings: Any
) -> Selection:
    """Read as much of a corpus as a sample of it needs, and draw from that (see `draw`)."""
    most = STREAM_WINDOWS * settings["windows"] * settings["n_ctx"]
    return draw(read_stream(corpus, split, tokenizer, rule, most), tokenizer, rule, **settings)


def _groups(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    held: list[Any] = []
    for item in items:
        held.append(item)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
