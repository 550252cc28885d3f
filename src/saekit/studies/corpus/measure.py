"""Measure: corpora side by side, as a model sees them, with intervals over documents."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from saekit.core import provenance
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, DataError
from saekit.core.progress import Progress
from saekit.core.result import Result, Score, Table
from saekit.core.seeds import generator
from saekit.core.stats.jackknife import jackknife
from saekit.core.stats.means import FEW, LEAST_UNITS
from saekit.core.stats.resamples import percentiles
from saekit.data.base import SPLITS, Corpus, Split
from saekit.data.corpora.generated import Generated
from saekit.data.token_cache import check_tokenizer
from saekit.models.base import LanguageModel, default_site
from saekit.studies.corpus import statistics
from saekit.studies.corpus.planes import Way

BLOCKS = 40  # of documents, each left out in turn
NGRAM = 13
_REFERENCE_TOKENS = 1_000_000
_NULL_DRAWS = 200
_SHUFFLES = 40
_TAKEN = ("model", "id", "token")  # columns of the table of first tokens


@dataclass(frozen=True, kw_only=True)
class Measurement(Config):
    """How corpora are measured.

    Args:
        tokens: most tokens to read of each corpus; all are cut to the size of the smallest, because
            tokens and n-grams that were not seen depend on it.
        split: part of each corpus.
        embedded_docs: documents of each whose embedding is read.
        embedded_tokens: of each of these, the first ones.
        site: where embeddings are read; null: a third of the way up.
        plane: how the figure places documents: "pca", "tsne" or "umap" (extra `umap`).
        clusters: of k-means in the figure.
        seed: of shuffles and clusters.

    Source:
        FaithfulSAE (arXiv:2506.17673), measure_dataset. Differs: the first token is the first
        that was generated, or the first of a text, where the published one is the second of
        tokenizers that put no BOS; the Jensen-Shannon divergence is one; the vocabulary is whole.
    """

    tokens: int = setting(200_000, least=100)
    split: Split = "train"
    embedded_docs: int = setting(200, least=2)
    embedded_tokens: int = setting(128, least=1)
    site: str | None = None
    plane: Way = "pca"
    clusters: int = setting(5, least=2)
    seed: int = 0


class Texts(NamedTuple):
    """A corpus as token ids, without special ones."""

    ids: list[Tensor]  # of each document
    first: Tensor  # first generated token, or first token of a text; -1 of none
    blocks: Tensor  # of each document
    counts: Tensor  # [blocks, vocab]
    duplicates: float | None  # share of what was generated
    ended: float | None  # share of documents that ended with EOS

    @property
    def n_tokens(self) -> int:
        """Tokens of all documents."""
        return sum(map(len, self.ids))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured.

    Args:
        result: scores named CORPUS/MEASURE and A|B/MEASURE.
        texts: by name of the corpus.
        first_shares: the model's shares of a first token.
        embeddings: of documents, by name of the corpus.
    """

    result: Result
    texts: Mapping[str, Texts] = field(repr=False)
    first_shares: Tensor = field(repr=False)
    embeddings: Mapping[str, Tensor] = field(repr=False)

    def table(self) -> Table:
        """Return a row a score."""
        rows = [(*name.rsplit("/", 1), s) for name, s in self.result.scores.items()]
        columns: dict[str, list[Any]] = {
            "corpus": [one for one, _, _ in rows],
            "measure": [what for _, what, _ in rows],
        }
        for part in ("value", "low", "high", "n", "unit", "reason"):
            columns[part] = [getattr(s, part) for _, _, s in rows]
        return Table(columns=columns)

    def __str__(self) -> str:
        names = list(self.texts)
        pairs = [f"{a}|{b}" for a, b in itertools.combinations(names, 2)]
        lines = []
        for heads in (names, pairs):
            found = [
                n.rsplit("/", 1)[1] for n in self.result.scores if n.rsplit("/", 1)[0] in heads
            ]
            if found:
                lines.append(f"{'':<22}" + "".join(f"{head:>26}" for head in heads))
            for what in dict.fromkeys(found):
                cells = [_cell(self.result.scores.get(f"{head}/{what}")) for head in heads]
                lines.append(f"{what:<22}" + "".join(f"{cell:>26}" for cell in cells))
        lines += [f"note     {note}" for note in self.result.provenance["notes"]]
        return "\n".join(lines)


def _cell(score: Score | None) -> str:
    if score is None or score.value is None:
        return "-"
    if score.low is None or score.high is None:
        return f"{score.value:.4g}"
    return f"{score.value:.3g} [{score.low:.3g}, {score.high:.3g}]"


def measure(
    corpora: Mapping[str, Corpus],
    lm: LanguageModel,
    how: Measurement | None = None,
    *,
    reference: Corpus | None = None,
    shown: bool = True,
) -> Measured:
    """Measure corpora side by side.

    Intervals are jackknife ones over 40 blocks of documents: a bootstrap draws some documents
    twice, and what counts distinct tokens and n-grams then comes out too low. Divergences have a
    floor next to them: what documents shuffled between both, or tokens drawn from the model, give.

    Args:
        corpora: by a short name.
        lm: the model; tokens are those of its tokenizer.
        how: see `Measurement`.
        reference: text that shared 13-token runs are looked for in, a million tokens of it, the
            held-out part last.
        shown: show progress.

    Raises:
        ConfigError: a name has a `/` or `|`.
        DataError: a corpus has no text, or ids of another tokenizer.
    """
    how = how or Measurement()
    if not corpora:
        raise ConfigError("There is no corpus to measure. Name one or more.")
    if wrong := [n for n in corpora if not n or set(n) & set("/|") or n in _TAKEN]:
        raise ConfigError(
            f"A corpus may not be called {wrong[0]!r}: no / and no |, nor {', '.join(_TAKEN)}. "
            f"Name it: NAME=CORPUS."
        )
    read = {name: _read(corpus, lm, (how.split,), how.tokens) for name, corpus in corpora.items()}
    least = min(sum(map(len, ids)) for ids, *_ in read.values())
    texts = {name: _texts(found, least, lm.vocab_size) for name, found in read.items()}
    known = None
    if reference is not None:
        ids, *_ = _read(reference, lm, SPLITS, _REFERENCE_TOKENS)
        known = torch.cat([statistics.ngrams(one, NGRAM) for one in ids]).unique()
    first_shares = _first_shares(lm)
    scores: dict[str, Score] = {}
    for name, one in texts.items():
        found = _of_one(one, lm, first_shares, known, how.seed)
        scores |= {f"{name}/{what}": score for what, score in found.items()}
    embeddings = _embeddings(texts, lm, how, shown)
    for name, rows in embeddings.items():
        scores[f"{name}/embedding_spread"] = _spread(rows)
    for a, b in itertools.combinations(texts, 2):
        for what, score in _of_two(texts[a], texts[b], how.seed).items():
            scores[f"{a}|{b}/{what}"] = score
        scores[f"{a}|{b}/mean_embedding_cosine"] = _cosine(embeddings[a], embeddings[b])
    made = {n: c.provenance() | {"corpus": c.to_dict()} for n, c in corpora.items()}
    notes = []
    for name, (ids, *_) in read.items():
        of = f"{how.split} text of {name}"
        notes += provenance.shortfall(how.tokens, sum(map(len, ids)), of)
    result = Result(
        name="corpus",
        version=2,
        config=how.to_dict(),
        scores=scores,
        provenance=provenance.collect(how.seed)
        | {"model": lm.provenance(), "corpora": made, "notes": notes},
    )
    return Measured(result=result, texts=texts, first_shares=first_shares, embeddings=embeddings)


_Read = tuple[list[Tensor], list[int], float | None, float | None]


def _read(corpus: Corpus, lm: LanguageModel, splits: Sequence[Split], tokens: int) -> _Read:
    """Return documents as ids without special ones, first tokens, duplicates and endings."""
    tokenizer = lm.tokenizer
    begins: dict[str, int] = {}
    duplicates = ended = None
    check_tokenizer(corpus, corpus.provenance(), tokenizer)
    if isinstance(corpus, Generated):
        written, kept = corpus.n_written(), list(corpus.sequences())
        duplicates = (written - len(kept)) / max(written, 1)
        ends = [bool(len(s.ids)) and s.ids[-1] == tokenizer.eos_id for s in kept]
        ended = sum(ends) / max(len(ends), 1)
        begins = {" ".join(map(str, s.ids.tolist())): s.n_prompt for s in kept}
    special = torch.tensor(sorted(tokenizer.special_ids), dtype=torch.int64)
    ids, first, total = [], [], 0
    for document in itertools.chain.from_iterable(map(corpus.documents, splits)):
        if document.kind == "ids":
            whole = torch.tensor([int(word) for word in document.text.split()])
        else:
            whole = torch.tensor(tokenizer.encode(document.text)[0], dtype=torch.int64)
        if len(whole) and int(whole.max()) >= lm.vocab_size:
            raise DataError(
                f"{document.source} has the token id {int(whole.max())}; {lm.name} has "
                f"0..{lm.vocab_size - 1}. Measure ids with the model whose tokenizer made them."
            )
        begin = begins.get(document.text, 0)
        if document.kind == "ids" and not begins:  # ids of elsewhere: what stands behind BOS
            begin = int(len(whole) > 0 and int(whole[0]) == tokenizer.bos_id)
        plain = whole[begin:][~torch.isin(whole[begin:], special)]
        first.append(int(whole[begin]) if len(whole) > begin else -1)
        ids.append(plain)
        total += len(plain)
        if total >= tokens:
            break
    if not total:
        raise DataError(
            f"The {' and '.join(splits)} part of the corpus `{corpus.name}` has no token. Give "
            f"more text, or read another split."
        )
    return ids, first, duplicates, ended


def _texts(found: _Read, most: int, vocab_size: int) -> Texts:
    ids, first, duplicates, ended = found
    sizes = torch.tensor([len(one) for one in ids])
    n = int((sizes.cumsum(0) < most).sum()) + 1
    ids, first = ids[:n], first[:n]
    n_blocks = min(BLOCKS, len(ids))
    blocks = torch.arange(len(ids)) % n_blocks
    counts = torch.zeros(n_blocks, vocab_size)
    for one, block in zip(ids, blocks.tolist(), strict=True):
        counts[block] += torch.bincount(one, minlength=vocab_size)
    return Texts(ids, torch.tensor(first), blocks, counts, duplicates, ended)


def _first_shares(lm: LanguageModel) -> Tensor:
    """Return the model's shares of the token that begins a text."""
    begin = lm.tokenizer.bos_id if lm.tokenizer.bos_id is not None else lm.tokenizer.eos_id
    if begin is None:
        raise DataError(
            f"{lm.name} has neither BOS nor EOS, behind which a text begins. Name a model with one."
        )
    with torch.no_grad():
        shares = lm.logits(torch.tensor([[begin]]))[0, -1].double().softmax(-1).cpu()
    if not bool(shares.isfinite().all()):
        raise DataError(
            f"The logits of {lm.name} are not numbers (NaN). Use dtype float32, or another model."
        )
    return shares


def _of_one(
    one: Texts, lm: LanguageModel, model: Tensor, known: Tensor | None, seed: int
) -> dict[str, Score]:
    n, total = len(one.ids), one.counts.sum(0)
    without = total - one.counts

    def of_counts(statistic: Callable[[Tensor], float], unit: str, **how: Any) -> Score:
        # Without its only document a text has no token, and no statistic.
        some = [statistic(row) for row in without if bool(row.any())]
        others = torch.tensor(some, dtype=torch.float64)
        return _score(statistic(total), others, n, unit, **how)

    scores = {
        "documents": Score(value=n, n=n, unit="documents", better="neither"),
        "tokens": Score(value=one.n_tokens, n=n, unit="tokens", better="neither"),
        "coverage": of_counts(
            lambda c: float((c > 0).sum()) / lm.vocab_size, "share of vocabulary", better="higher"
        ),
        "entropy": of_counts(statistics.entropy, "bits/token"),
        "entropy_corrected": of_counts(statistics.chao_shen, "bits/token"),
    }
    seen_once = "a corpus gives each text once; how many copies there were is not known"
    scores["duplicates"] = _share_of(one.duplicates, n, seen_once, better="lower")
    scores["ended"] = _share_of(one.ended, n, "only generated text says whether it ended")
    for size in (1, 2, 3):
        grams = [statistics.ngrams(ids, size) for ids in one.ids]
        owners = torch.repeat_interleave(one.blocks, torch.tensor(list(map(len, grams))))
        name = f"distinct_{size}"
        if not len(owners):
            scores[name] = _undefined(n, f"no document has {size} tokens")
            continue
        value, rest = statistics.distinct(torch.cat(grams), owners, len(one.counts))
        scores[name] = _score(value, rest, n, "share of n-grams", better="higher")
    lengths = torch.tensor([float(len(ids)) for ids in one.ids], dtype=torch.float64)
    scores["length"] = _ratio(lengths, torch.ones(n), one, "tokens/document")
    for name, value in (
        ("length_std", float(lengths.std()) if n > 1 else None),
        ("length_least", float(lengths.min())),
        ("length_most", float(lengths.max())),
    ):
        scores[name] = Score(value=value, n=n, unit="tokens", better="neither")
    scores |= _first_token(one, model, seed)
    if known is not None:
        hits, all_runs = [], []
        for ids in one.ids:
            grams = statistics.ngrams(ids, NGRAM)
            hits.append(float(torch.isin(grams, known).sum()))
            all_runs.append(float(len(grams)))
        scores["contamination"] = (
            _ratio(torch.tensor(hits), torch.tensor(all_runs), one, "share of 13-grams", "lower")
            if sum(all_runs)
            else _undefined(n, f"no document has {NGRAM} tokens")
        )
    return scores


def _first_token(one: Texts, model: Tensor, seed: int) -> dict[str, Score]:
    """Return how far first tokens are from the model's own, and how far its own draws would be."""
    first, n_blocks = one.first[one.first >= 0], len(one.counts)
    n = len(first)
    if n < 2:
        return {"first_token_js": _undefined(n, "fewer than two documents have a token")}
    blocks = one.blocks[one.first >= 0]
    counts = torch.zeros(n_blocks, len(model)).index_put_(
        (blocks, first), torch.ones(n), accumulate=True
    )
    total = counts.sum(0)
    chance = generator(seed, "first tokens")
    draws = torch.multinomial(model, _NULL_DRAWS * n, replacement=True, generator=chance)
    null = torch.stack(
        [
            statistics.jensen_shannon(
                model, statistics.shares(torch.bincount(row, minlength=len(model)))
            )
            for row in draws.view(_NULL_DRAWS, n)
        ]
    )

    def score(statistic: Callable[[Tensor], float], unit: str) -> Score:
        kept = [total - row for row in counts if bool((total - row).any())]
        others = torch.tensor([statistic(statistics.shares(c)) for c in kept])
        return _score(statistic(statistics.shares(total)), others.double(), n, unit)

    js = score(lambda q: float(statistics.jensen_shannon(model, q)), "bits")
    low, high = percentiles(null)
    p = (1 + float((null >= (js.value or 0) - 1e-12).sum())) / (1 + _NULL_DRAWS)
    return {
        "first_token_unique": Score(
            value=float((total > 0).sum()), n=n, unit="tokens", better="neither"
        ),
        "first_token_js": js,
        "first_token_js_floor": Score(
            value=float(null.mean()),
            low=low,
            high=high,
            n=n,
            unit="bits",
            better="neither",
            label=f"of {n} first tokens that the model draws",
        ),
        "first_token_p": Score(
            value=p,
            n=n,
            unit="p-value",
            better="neither",
            label="share of the model's own draws that are as far",
        ),
        "first_token_kl_to": score(lambda q: statistics.kl(model, q), "nats"),
        "first_token_kl_from": score(lambda q: statistics.kl(q, model), "nats"),
    }


def _of_two(a: Texts, b: Texts, seed: int) -> dict[str, Score]:
    """Return the divergence of token shares, and what shuffled documents would have."""
    n = len(a.ids) + len(b.ids)
    blocks = torch.cat([a.counts, b.counts])
    strata = torch.tensor([0] * len(a.counts) + [1] * len(b.counts))
    sums = [a.counts.sum(0), b.counts.sum(0)]

    def js(first: Tensor, second: Tensor) -> float:
        return float(statistics.jensen_shannon(statistics.shares(first), statistics.shares(second)))

    others = torch.tensor(
        [
            js(sums[0] - row, sums[1]) if side == 0 else js(sums[0], sums[1] - row)
            for row, side in zip(blocks, strata.tolist(), strict=True)
            if min(len(a.counts), len(b.counts)) > 1
        ],
        dtype=torch.float64,
    )
    chance = generator(seed, "shuffled documents")
    every = [ids for ids in (*a.ids, *b.ids) if len(ids)]
    sizes = torch.tensor([len(ids) for ids in every])
    vocab = blocks.shape[1]
    null = []
    for _ in range(_SHUFFLES):
        order = torch.randperm(len(every), generator=chance)
        # As many tokens on a side as the first corpus has: of uneven sides the floor is higher.
        n_mine = max(1, int((sizes[order].cumsum(0) <= a.n_tokens).sum()))
        mine = torch.bincount(torch.cat([every[i] for i in order[:n_mine]]), minlength=vocab)
        null.append(js(mine.to(blocks), blocks.sum(0) - mine))
    p, q = (statistics.shares(s + 0.5) for s in sums)
    return {
        "unigram_js": _score(js(*sums), others, n, "bits", strata=strata),
        "unigram_js_floor": Score(
            value=sum(null) / len(null),
            n=n,
            unit="bits",
            better="neither",
            label="documents shuffled between both",
        ),
        "unigram_kl": Score(
            value=statistics.kl(p, q), n=n, unit="nats", better="neither", label="half added"
        ),
        "unigram_kl_reverse": Score(
            value=statistics.kl(q, p), n=n, unit="nats", better="neither", label="half added"
        ),
    }


def _embeddings(
    texts: Mapping[str, Texts], lm: LanguageModel, how: Measurement, shown: bool
) -> dict[str, Tensor]:
    """Return mean-pooled hidden states of documents; BOS in front is read and left out."""
    site = lm.site(how.site or default_site(lm))
    front = [] if lm.tokenizer.bos_id is None else [lm.tokenizer.bos_id]
    found = {}
    progress = Progress("embedding", len(texts) * how.embedded_docs, "documents", shown=shown)
    for name, one in texts.items():
        rows = []
        for ids in itertools.islice((i for i in one.ids if len(i)), how.embedded_docs):
            tokens = torch.tensor([[*front, *ids[: how.embedded_tokens].tolist()]])
            with torch.no_grad():
                rows.append(lm.read(tokens, site)[0, len(front) :].double().mean(0).cpu())
            progress.add(1)
        found[name] = torch.stack(rows)
    progress.close()
    return found


def _spread(rows: Tensor) -> Score:
    """Return the mean cosine distance between two documents."""
    n, unit = len(rows), rows / rows.norm(dim=-1, keepdim=True)
    if n < 2:
        return _undefined(n, "one document has no distance to another")
    total = unit.sum(0)

    def distance(mean: Tensor, m: int) -> Tensor:
        return 1 - (mean.square().sum(-1) - m) / (m * (m - 1))

    if n < LEAST_UNITS:
        value = float(distance(total, n))
        return Score(value=value, n=n, unit="1 - cosine", better="higher", reason=FEW)
    without = distance(total - unit, n - 1)
    return _score(float(distance(total, n)), without, n, "1 - cosine", better="higher")


def _cosine(a: Tensor, b: Tensor) -> Score:
    def cosine(x: Tensor, y: Tensor) -> float:
        return float(torch.nn.functional.cosine_similarity(x, y, dim=-1))

    n, means = len(a) + len(b), (a.mean(0), b.mean(0))
    value = cosine(*means)
    if min(len(a), len(b)) < LEAST_UNITS:
        return Score(value=value, n=n, unit="cosine", better="neither", reason=FEW)
    rest = [cosine((means[0] * len(a) - row) / (len(a) - 1), means[1]) for row in a]
    rest += [cosine(means[0], (means[1] * len(b) - row) / (len(b) - 1)) for row in b]
    strata = torch.tensor([0] * len(a) + [1] * len(b))
    return _score(value, torch.tensor(rest).double(), n, "cosine", strata=strata)


def _ratio(
    top: Tensor,
    bottom: Tensor,
    one: Texts,
    unit: str,
    better: Literal["lower", "neither"] = "neither",
) -> Score:
    n_blocks = len(one.counts)
    sums = [
        torch.zeros(n_blocks).double().index_add_(0, one.blocks, x.double()) for x in (top, bottom)
    ]
    rest = (sums[0].sum() - sums[0]) / (sums[1].sum() - sums[1])
    return _score(float(sums[0].sum() / sums[1].sum()), rest, len(one.ids), unit, better=better)


def _score(
    value: float,
    without: Tensor,
    n: int,
    unit: str,
    *,
    better: Literal["lower", "higher", "neither"] = "neither",
    strata: Tensor | None = None,
) -> Score:
    few = len(without) < LEAST_UNITS or not bool(without.isfinite().all())
    if few or not math.isfinite(value):
        return Score(value=value, n=n, unit=unit, better=better, reason=FEW)
    low, high = jackknife(value, without, strata=strata)
    if unit.startswith("share of"):  # of few documents the ends may lie where no share is
        low, high = max(low, 0.0), min(high, 1.0)
    return Score(value=value, low=low, high=high, n=n, unit=unit, better=better)


def _share_of(
    value: float | None, n: int, why: str, better: Literal["lower", "neither"] = "neither"
) -> Score:
    if value is None:
        return Score(value=None, n=n, unit="share", better=better, reason=why)
    return Score(value=value, n=n, unit="share", better=better)


def _undefined(n: int, why: str) -> Score:
    return Score(value=None, n=n, unit="share", better="neither", reason=why)


def write(found: Measured, out: Path, lm: LanguageModel, suffix: str = ".svg") -> list[Path]:
    """Write scores, their table and figures into a folder; return the files.

    Raises:
        MissingExtraError: matplotlib or scikit-learn is not installed.
    """
    from saekit.studies.corpus.figure_folder import draw_all

    found.result.write(out / "measures.json")
    found.table().write_csv(out / "measures.csv")
    return [out / "measures.json", out / "measures.csv", *draw_all(found, out, lm, suffix)]
