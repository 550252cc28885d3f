"""The study: examples, new texts, activations on them, and what they say, a folder each run."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, get_args

import torch

from saekit.core import provenance
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, DataError
from saekit.core.files import read_object, to_json_line, write_json, write_text
from saekit.core.lock import claimed
from saekit.core.progress import Progress
from saekit.core.result import Result, Table
from saekit.core.seeds import generator as chance_of
from saekit.data.base import Corpus, Split
from saekit.generators.asking import Answers, ask, planned
from saekit.generators.base import Generator, Reply, Request
from saekit.generators.cache import ReplyCache
from saekit.generators.journal import Journal
from saekit.generators.limits import Limits
from saekit.hub.trained import TrainedSAE, weights_digest
from saekit.models.base import LanguageModel, refuse_edits
from saekit.studies.sensitivity import (
    audit,
    legacy,
    manifest,
    parsing,
    prompts,
    published_files,
    statistics,
)
from saekit.studies.sensitivity import floors as floor_saes
from saekit.studies.sensitivity.audit import Asked
from saekit.studies.sensitivity.examples import (
    Collector,
    ExampleConfig,
    LatentExamples,
    RandomTexts,
    Snippet,
)
from saekit.studies.sensitivity.parsing import Text
from saekit.studies.sensitivity.published_examples import PublishedExamples, snippets
from saekit.studies.sensitivity.scoring import largest_acts
from saekit.studies.sensitivity.statistics import TextActs

SETTINGS, EXAMPLES, JOURNAL, TEXTS = "settings.json", "examples.json", "journal.jsonl", "texts.json"
RESULT, STATS, SUMMARY = "result.json", "feature_stats", "summary"
FLOORS = "floors"
DRAWN = 4  # latents drawn for each that is wanted: some are hardly ever on
LEAST_EXAMPLES = 4


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Config):
    """What a run of the study measures.

    Args:
        n_latents: number of latents to draw, from those that are on often enough.
        tokens: tokens of the text in which examples are looked for.
        texts: usable new texts wanted of each latent.
        rounds: how often a latent is asked for again while texts are lacking.
        check: original sensitivity from which a latent is in the mean.
        floor_latents: latents of each floor, at most `n_latents`.
        examples: which texts show what a latent responds to.
        seed: decides latents, examples and prompts.

    Source:
        Tian, Tian, Hu 2025, arXiv:2509.23717.
        Differs: see `ExampleConfig`; base rates, intervals and thresholds beside the published
        share; unusable texts are counted and asked for again.
    """

    name: ClassVar[str] = "sensitivity"
    version: ClassVar[int] = 1
    n_latents: int = setting(50, least=1)
    tokens: int = setting(300_000, least=1)
    texts: int = setting(10, least=1)
    rounds: int = setting(3, least=1)
    check: float = setting(statistics.CHECK, least=0, most=1)
    floor_latents: int = setting(10, least=1)
    examples: ExampleConfig = dataclasses.field(default_factory=ExampleConfig)
    seed: int = 0


class Collected(NamedTuple):
    """What the corpus gave."""

    latents: dict[int, LatentExamples]
    random: list[Snippet]
    n_tokens: int
    l0: float  # latents on at a token, on average
    left_out: dict[int, str]  # latents that were drawn and not measured: why

    def notes_on(self, tokens: int) -> list[str]:
        """Return a note where the text has fewer tokens than were asked for."""
        return provenance.shortfall(tokens, self.n_tokens, "text", "tokens that count")


@dataclass(frozen=True)
class SensitivityRun:
    """What a run gave. `print` shows it.

    Args:
        folder: where it is.
        result: scores of the SAE, with intervals.
        latents: a row a latent.
        texts: every text that was written, by latent, with its verdict.
        stopped: "budget" or "refused" where not all was asked; "" otherwise.
    """

    folder: Path
    result: Result
    latents: Table
    texts: dict[int, list[Text]]
    stopped: str = ""

    def __str__(self) -> str:
        return str(self.result)

    def columns(self) -> Table:
        """Return what a table of latents shows: ``latent`` and the shares, by their names."""
        names = {"feature_index": "latent"} | {
            name: name for name in ("generated_sensitivity", "random_rate", "excess")
        }
        columns = {new: self.latents.columns[old] for old, new in names.items()}
        return Table(
            columns=columns, units={k: v for k, v in self.latents.units.items() if k in columns}
        )


def measure(  # noqa: PLR0913 - the words of `saekit sensitivity run`
    sae: TrainedSAE,
    lm: LanguageModel,
    generator: Generator,
    out: Path | str,
    cfg: Sensitivity | None = None,
    *,
    text: tuple[Corpus, Split],
    latents: Sequence[int] | None = None,
    limits: Limits | None = None,
    cache: ReplyCache | None = None,
    floors: Mapping[str, TrainedSAE | None] | None = None,
    published: PublishedExamples | None = None,
    shown: bool = True,
) -> SensitivityRun:
    """Measure whether latents fire on newly written text of the same meaning.

    Every stage is kept in the folder and not done again: run the same once more to go on after an
    interruption, a spent budget or an endpoint that was down. Replies are kept as they come, and
    none is asked for twice.

    Args:
        sae: the SAE, with its rules (see `saekit.hub.opening`).
        lm: its language model.
        generator: who writes.
        out: the folder.
        cfg: what is measured.
        text: a corpus and which part of it.
        latents: which; None: some are drawn.
        limits: what may be spent, and how fast.
        cache: replies of other runs; None: none are used.
        floors: what else is measured, in ``floors/NAME``, with examples and texts of its own: what
            a score is worth is what it has above. ``shuffled_model``: this SAE on the model with
            shuffled weights; ``random_encoder``: latents of random directions, made here, or a
            trained SAE whose encoder was frozen; ``random_decoder``: an SAE that was trained on a
            frozen random decoder. None in place of an SAE: it is made here, where that is possible.
        published: examples that are shown in place of the corpus's own; see `collect`. Floors have
            those of the corpus.
        shown: show progress on stderr.

    Raises:
        ConfigError: the folder holds a run with other settings, or the SAE codes sites or windows
            jointly.
        DataError: the text holds no example of any latent.
    """
    cfg = cfg or Sensitivity()
    refuse_edits(lm)
    for name in floors or ():
        floor_saes.known(name)
    if sae.cfg.event:
        raise ConfigError(
            f"`{sae.cfg.name}` codes {' and '.join(sae.cfg.event)} jointly; sensitivity is "
            f"measured of SAEs of single tokens."
        )
    folder = Path(out)
    kept = f"Run the same command again to go on with {folder}."
    with claimed(folder, "saekit sensitivity run", kept):
        settings = settings_of(
            sae, lm, generator, cfg, text, latents, version=cfg.version, wording=prompts.VERSION
        )
        if published is not None:
            settings["published_examples"] = published.digest
        same_settings(folder, settings)
        collected = _examples(folder, sae, lm, cfg, text, latents, shown, published)
        journal = Journal(folder / JOURNAL)
        writing = _Writing(generator, lm, cfg, collected, journal, limits, cache, shown)
        texts, answers = writing.run()
        acts = _activations(sae, lm, cfg, collected, texts, shown)
        found = {}
        for name, other in (floors or {}).items() if not (answers and answers.stopped) else ():
            found[name] = _floor(
                name,
                other,
                (sae, lm),
                generator,
                folder,
                cfg,
                l0=collected.l0,
                text=text,
                limits=limits,
                cache=cache,
                shown=shown,
            )
        return _finish(folder, settings, cfg, writing, texts, acts, answers, found)


def _floor(  # noqa: PLR0913 - the words of `measure`
    name: str,
    other: TrainedSAE | None,
    trained: tuple[TrainedSAE, LanguageModel],
    generator: Generator,
    folder: Path,
    cfg: Sensitivity,
    *,
    l0: float,
    text: tuple[Corpus, Split],
    **how: Any,
) -> dict[str, Any]:
    """Return the scores of a floor, or the reason why it has none."""
    sae, lm = trained
    if name == floor_saes.SHUFFLED:
        lm = lm.shuffled(cfg.seed)
        other = floor_saes.without_norms(sae, lm)
    elif other is None and name == floor_saes.ENCODER:
        other = floor_saes.random_encoder(sae, lm, text, l0, cfg.seed)
    if other is None:
        return {"reason": floor_saes.NEEDS_A_RUN}
    place = folder / FLOORS / name
    less = dataclasses.replace(cfg, n_latents=min(cfg.n_latents, cfg.floor_latents))
    try:
        found = measure(other, lm, generator, place, less, text=text, **how)
    except DataError as error:  # that hardly any latent is on is a result too
        return {"reason": str(error)}
    scores = {key: dataclasses.asdict(score) for key, score in found.result.scores.items()}
    details = found.result.details
    return {"reason": "", "latents": details["latents"], "l0": details["l0"], **scores}


def estimate(  # noqa: PLR0913 - the words of `saekit sensitivity plan`
    sae: TrainedSAE,
    lm: LanguageModel,
    generator: Generator,
    out: Path | str,
    cfg: Sensitivity | None = None,
    *,
    text: tuple[Corpus, Split],
    latents: Sequence[int] | None = None,
    limits: Limits | None = None,
    published: PublishedExamples | None = None,
    shown: bool = True,
) -> dict[str, Any]:
    """Return what the first round of a run would ask, and cost at most. Nothing is sent.

    The examples are collected, since prompts are made of them, and are kept for the run.

    Args: as `measure`.

    Returns:
        ``latents``, ``requests``, ``tokens_read`` and ``tokens_written`` (at most), ``usd`` (None
        where no prices are known), ``known`` (requests that the journal answers already).
    """
    cfg = cfg or Sensitivity()
    folder = Path(out)
    with claimed(folder, "saekit sensitivity plan"):
        settings = settings_of(
            sae, lm, generator, cfg, text, latents, version=cfg.version, wording=prompts.VERSION
        )
        if published is not None:
            settings["published_examples"] = published.digest
        same_settings(folder, settings)
        collected = _examples(folder, sae, lm, cfg, text, latents, shown, published)
        writing = _Writing(
            generator, lm, cfg, collected, Journal(folder / JOURNAL), limits, None, False
        )
        asked = [request for _, request in writing.first_round()]
        found = planned(generator, asked, writing.journal, limits or Limits())
        return {"latents": len(collected.latents)} | found


def settings_of(  # noqa: PLR0913 - all that decides a run
    sae: TrainedSAE,
    lm: LanguageModel,
    generator: Generator,
    cfg: Config,
    text: tuple[Corpus, Split],
    latents: Sequence[int] | None,
    *,
    version: int,
    wording: int,
) -> dict[str, Any]:
    """Return all that decides the numbers of a run that asks a generator, JSON-ready.

    Args:
        sae: the SAE.
        lm: its language model.
        generator: who is asked.
        cfg: of the study; its name is the key of its settings.
        text: a corpus and which part of it.
        latents: which were asked for; None: some are drawn.
        version: of the study.
        wording: version of its prompts.

    Raises:
        ConfigError: the latents are not distinct numbers of the SAE's.
    """
    if latents is not None:
        wrong = [i for i in latents if not 0 <= i < sae.d_sae]
        if wrong or len(set(latents)) < len(latents) or not latents:
            raise ConfigError(
                f"Latents are distinct numbers in 0..{sae.d_sae - 1}, at least one; got "
                f"{', '.join(map(str, (wrong or list(latents))[:8]))}."
            )
    corpus, split = text
    found = {
        cfg.name: cfg.to_dict(),
        "version": version,
        "prompts": wording,
        "weights": weights_digest(sae.sae),
        "d_sae": sae.d_sae,
        "site": str(sae.site),
        "rules": {site: rule.to_dict() for site, rule in sae.card.rules.items()},
        "model": lm.provenance(),
        "n_ctx": sae.card.n_ctx,
        "corpus": corpus.to_dict(),
        "split": split,
        "generator": generator.identity(),
        "latents": None if latents is None else list(latents),
    }
    return json.loads(json.dumps(found))


def same_settings(folder: Path, settings: Mapping[str, Any], other: str = "--out") -> None:
    """Write the settings of a new run, or refuse those that differ from the folder's.

    Args:
        folder: of the run.
        settings: JSON-ready.
        other: what to choose another of.

    Raises:
        ConfigError: they differ.
    """
    path, wanted = folder / SETTINGS, json.loads(json.dumps(settings))
    if not path.exists():
        write_json(path, wanted)
        return
    before = read_object(path)
    if differ := [
        _named(k, before.get(k), wanted[k]) for k in wanted if before.get(k) != wanted[k]
    ]:
        raise ConfigError(
            f"{folder} holds a run with another {', '.join(differ)}. Choose another {other}, or "
            f"give the settings it was begun with ({path})."
        )


def _named(name: str, before: Any, wanted: Any) -> str:
    """Return the name of a setting that differs, with the parts of it that do."""
    if not (isinstance(before, dict) and isinstance(wanted, dict)):
        return name
    parts = [k for k in {**before, **wanted} if before.get(k) != wanted.get(k)]
    return f"{name} ({', '.join(parts)})"


def _examples(  # noqa: PLR0913 - what a pass over a corpus needs
    folder: Path,
    sae: TrainedSAE,
    lm: LanguageModel,
    cfg: Sensitivity,
    text: tuple[Corpus, Split],
    latents: Sequence[int] | None,
    shown: bool,
    published: PublishedExamples | None,
) -> Collected:
    path = folder / EXAMPLES
    if not path.exists():
        found = collect(sae, lm, cfg, text, latents, shown, published)
        write_text(path, to_json_line(record_of(found)))
    return collected_from(read_object(path))


@torch.no_grad()
def collect(  # noqa: PLR0913 - what a pass over a corpus needs
    sae: TrainedSAE,
    lm: LanguageModel,
    cfg: Sensitivity,
    text: tuple[Corpus, Split],
    latents: Sequence[int] | None = None,
    shown: bool = True,
    published: PublishedExamples | None = None,
) -> Collected:
    """Return examples of some latents, from one pass over a corpus.

    Args:
        sae: the SAE.
        lm: its language model.
        cfg: which examples, of how many latents.
        text: a corpus and which part of it.
        latents: which; None: `n_latents` that are on often enough, drawn without regard to
            anything else.
        shown: show progress on stderr.
        published: examples that stand in place of the corpus's own as those that are shown; latents
            are drawn among theirs, and what the corpus gives is held out.

    Raises:
        DataError: no latent has enough examples.
    """
    if cfg.examples.way == "published":
        return _published_way(sae, lm, cfg, text, latents, shown)
    stream, harvest = floor_saes.stream_of(sae, lm, text)
    among = None if published is None else [i for i in published.latents if i < sae.d_sae]
    order = list(latents) if latents is not None else _drawn(sae.d_sae, cfg, among)
    collector = Collector(cfg.examples, order, sae.d_sae, cfg.seed)
    anywhere = RandomTexts(cfg.examples, cfg.seed)
    bar = Progress("examples", cfg.tokens, shown=shown)
    for rows in stream.rows(harvest.batch_rows):
        acts = harvest.select(rows, harvest.read(rows))
        collector.add(rows, acts.row, acts.pos, sae.encode(acts.x.float()))
        anywhere.add(rows, lm.tokenizer.special_ids)
        bar.reach(collector.n_tokens)
        if collector.n_tokens >= cfg.tokens:
            break
    bar.close()
    found, left_out = {}, {}
    measured = set(collector.measured())
    for latent in order:
        if latents is None and len(found) == cfg.n_latents:
            break
        if latent not in measured:
            left_out[latent] = (
                f"on at {int(collector.counts[order.index(latent)])} tokens, at most "
                f"{cfg.examples.least_count}"
            )
            continue
        of_latent = collector.of(latent)
        if len(of_latent.shown) < LEAST_EXAMPLES:
            left_out[latent] = f"only {len(of_latent.shown)} examples lie whole in a document"
            continue
        found[latent] = of_latent
    if not found:
        raise DataError(
            f"None of {len(order)} latents has {LEAST_EXAMPLES} examples in "
            f"{collector.n_tokens:,} tokens. Give more text: --tokens, --corpus."
        )
    if published is not None:
        found = _with_published(sae, lm, found, published)
    n = collector.n_tokens
    l0 = collector.n_entries / n
    return Collected(dict(sorted(found.items())), anywhere.texts(), n, l0, left_out)


def _drawn(d_sae: int, cfg: Sensitivity, among: Sequence[int] | None = None) -> list[int]:
    order = torch.randperm(d_sae, generator=chance_of(cfg.seed, "latents")).tolist()
    if among is not None:
        order = [i for i in order if i in set(among)]
    return order[: DRAWN * cfg.n_latents]


def _with_published(
    sae: TrainedSAE,
    lm: LanguageModel,
    found: Mapping[int, LatentExamples],
    published: PublishedExamples,
) -> dict[int, LatentExamples]:
    """Return examples whose shown texts are published ones; the corpus's own are held out."""
    if lacking := found.keys() - published.latents.keys():
        raise DataError(
            f"The published examples have none of latent {min(lacking)}; they are of "
            f"{', '.join(map(str, list(published.latents)[:8]))} and so on."
        )
    theirs = snippets(sae, lm, {latent: published.latents[latent] for latent in found})
    return {
        latent: one._replace(
            shown=sorted(theirs[latent], key=lambda s: -s.largest),
            held_out=[*one.shown, *one.held_out],
        )
        for latent, one in found.items()
    }


def _published_way(  # noqa: PLR0913 - what a pass over a corpus needs
    sae: TrainedSAE,
    lm: LanguageModel,
    cfg: Sensitivity,
    text: tuple[Corpus, Split],
    latents: Sequence[int] | None,
    shown: bool,
) -> Collected:
    """Return examples by the draws of the published pipeline, from a corpus that fits in memory."""
    stream, harvest = floor_saes.stream_of(sae, lm, text)
    anywhere = RandomTexts(cfg.examples, cfg.seed)
    tokens, docs, entries, n_kept, first = [], [], [], 0, 0
    bar = Progress("examples", cfg.tokens, shown=shown)
    for rows in stream.rows(harvest.batch_rows):
        first = rows.first_row if not tokens else first
        acts = harvest.select(rows, harvest.read(rows))
        live = sae.encode(acts.x.float()).detach().live()
        at = live.rows().cpu()
        columns = (acts.row.cpu()[at] - first, acts.pos.cpu()[at], live.latents.cpu())
        entries.append((*columns, live.values.float().cpu()))
        tokens.append(rows.tokens)
        docs.append(rows.doc_ids)
        anywhere.add(rows, lm.tokenizer.special_ids)
        n_kept += len(acts.row)
        bar.reach(n_kept)
        if n_kept >= cfg.tokens:
            break
    bar.close()
    row, pos, latent, value = (torch.cat(column) for column in zip(*entries, strict=True))
    ids, doc = torch.cat(tokens), torch.cat(docs)
    counts = torch.bincount(latent[value > 0], minlength=sae.d_sae)
    order = legacy.drawn(counts, n_kept, cfg.tokens, cfg.n_latents)
    order = order if latents is None else list(latents)
    dense = torch.zeros(*ids.shape, len(order))
    place = torch.full((sae.d_sae,), -1, dtype=torch.int64)
    place[torch.tensor(order, dtype=torch.int64)] = torch.arange(len(order))
    mine = place[latent] >= 0
    dense[row[mine], pos[mine], place[latent[mine]]] = value[mine]
    special = torch.isin(ids, torch.tensor(sorted(lm.tokenizer.special_ids)))
    windows = legacy.examples(
        dense, special, order, top=cfg.examples.top, weighted=cfg.examples.weighted
    )
    found = {}
    for number, some in windows.items():
        cut = [
            Snippet(
                ids[w.row, w.first : w.first + len(w.acts)].tolist(),
                w.acts,
                legacy.EDGE,
                first + w.row,
                w.first,
                int(doc[w.row, w.first + legacy.EDGE]),
            )
            for w in some
        ]
        largest = float(dense[:, :, order.index(number)].max())
        found[number] = LatentExamples(cut, [], [], int(counts[number]), largest)
    if not found:
        raise DataError(
            f"No latent is on at over {legacy.DEAD} of {n_kept:,} tokens. Give more text: --tokens."
        )
    left_out = {i: "every window is without an activation" for i in order if i not in found}
    l0 = len(value) / n_kept
    return Collected(dict(sorted(found.items())), anywhere.texts(), n_kept, l0, left_out)


class _Writing:
    """New texts of every latent: asked for, parsed, judged, and asked for again."""

    def __init__(  # noqa: PLR0913 - what writing needs
        self,
        generator: Generator,
        lm: LanguageModel,
        cfg: Sensitivity,
        collected: Collected,
        journal: Journal,
        limits: Limits | None,
        cache: ReplyCache | None,
        shown: bool,
    ):
        self.generator, self.lm, self.cfg, self.journal = generator, lm, cfg, journal
        self.limits, self.cache, self.shown = limits, cache, shown
        self.collected = collected
        self.pieces = {
            latent: [_words(lm, s.tokens) for s in one.shown]
            for latent, one in collected.latents.items()
        }
        self.asked = dict.fromkeys(collected.latents, 0)
        self.everything: list[Asked] = []

    def first_round(self) -> list[tuple[int, Request]]:
        """Return the requests of the first round, with the latent of each."""
        return [
            (latent, request)
            for latent in self.collected.latents
            for request in self._requests(latent, self.cfg.texts)
        ]

    def _requests(self, latent: int, n: int) -> list[Request]:
        found = prompts.requests(
            self.generator,
            latent,
            self.collected.latents[latent].shown,
            self.pieces[latent],
            n,
            seed=self.cfg.seed,
            asked_before=self.asked[latent],
        )
        self.asked[latent] += len(found)
        return found

    def run(self) -> tuple[dict[int, list[Text]], Answers | None]:
        """Return every text with its verdict, by latent, and how asking ended."""
        texts: dict[int, list[Text]] = {latent: [] for latent in self.collected.latents}
        answers = None
        for number in range(self.cfg.rounds):
            asked = (
                self.first_round()
                if not number
                else [
                    (latent, request)
                    for latent in texts
                    if (lacking := self.cfg.texts - _usable(texts[latent]))
                    for request in self._requests(latent, lacking)
                ]
            )
            if not asked:
                break
            bar = Progress("texts", len(asked), "requests", shown=self.shown)
            answers = ask(
                self.generator,
                [request for _, request in asked],
                self.journal,
                cache=self.cache,
                limits=self.limits,
                told=bar.add,
            )
            bar.close()
            for i, (latent, request) in enumerate(asked):
                reply = answers.replies.get(i)
                new = [] if reply is None else self._texts(texts[latent], latent, request, reply)
                texts[latent] += new
                self.everything.append(Asked(latent, request, reply, new))
            if answers.stopped:
                break
        return texts, answers

    def _texts(
        self, before: Sequence[Text], latent: int, request: Request, reply: Reply
    ) -> list[Text]:
        one = self.generator.is_small or not request.messages
        parts = [parsing.single(reply.text)] if one else parsing.split(reply.text)
        examples = ["".join(tokens) for tokens in self.pieces[latent]]
        return parsing.judged(parts or [""], examples, self.cfg.texts, before)


def _words(lm: LanguageModel, tokens: Sequence[int]) -> list[str]:
    """Return what a writer sees of tokens: of special ones nothing, as they may end a prompt."""
    special = lm.tokenizer.special_ids
    pieces = lm.tokenizer.pieces(tokens)
    return ["" if i in special else piece for i, piece in zip(tokens, pieces, strict=True)]


def _usable(texts: Sequence[Text]) -> int:
    return sum(text.verdict == "usable" for text in texts)


def _activations(
    sae: TrainedSAE,
    lm: LanguageModel,
    cfg: Sensitivity,
    collected: Collected,
    texts: Mapping[int, Sequence[Text]],
    shown: bool,
) -> dict[int, TextActs]:
    """Return the largest activation of each latent on its texts of every kind."""
    latents = list(collected.latents)
    ids: list[list[int]] = []
    places: dict[int, dict[str, range]] = {}

    def put(more: Sequence[Sequence[int]]) -> range:
        first = len(ids)
        ids.extend(list(one) for one in more)
        return range(first, len(ids))

    for latent, one in collected.latents.items():
        usable = [t.text for t in texts[latent] if t.verdict == "usable"]
        places[latent] = {
            "generated": put(lm.tokenizer.encode(usable) if usable else []),
            "original": put([s.tokens for s in one.shown]),
            "held_out": put([s.tokens for s in one.held_out]),
            "matched": put([s.tokens for s in one.negatives]),
        }
    anywhere = put([s.tokens for s in collected.random])
    acts = largest_acts(sae, lm, ids, latents, shown=shown)
    return {
        latent: TextActs(
            **{kind: acts[list(at), i] for kind, at in places[latent].items()},
            random=acts[list(anywhere), i],
        )
        for i, latent in enumerate(latents)
    }


def _finish(  # noqa: PLR0913 - all that a run gave
    folder: Path,
    settings: Mapping[str, Any],
    cfg: Sensitivity,
    writing: "_Writing",
    texts: dict[int, list[Text]],
    acts: Mapping[int, TextActs],
    answers: Answers | None,
    floors: Mapping[str, Any],
) -> SensitivityRun:
    collected = writing.collected
    rows = []
    for latent, one in collected.latents.items():
        line = statistics.row(
            latent, acts[latent], count=one.count, largest=one.largest, n_tokens=collected.n_tokens
        )
        line |= {f"n_{v.replace(' ', '_')}": n for v, n in _verdicts(texts[latent]).items()}
        line["status"] = "ok" if line["n_generated"] else "no usable text"
        rows.append(line)
    table = statistics.table(rows)
    ordered = [acts[latent] for latent in collected.latents]
    scores = statistics.summary(rows, ordered, check=cfg.check, seed=cfg.seed)
    verdicts = [v for some in texts.values() for v in some]
    details = {
        "latents": len(rows),
        "left_out": {str(k): v for k, v in collected.left_out.items()},
        "texts": _verdicts(verdicts),
        "stopped": answers.stopped if answers else "",
        "reason": answers.reason if answers else "",
        "failures": len(answers.failures) if answers else 0,
        "n_tokens": collected.n_tokens,
        "l0": collected.l0,
        "d_sae": settings["d_sae"],
        "floors": dict(floors),
    }
    result = Result(
        name=cfg.name,
        version=cfg.version,
        config=dict(settings),
        scores=scores,
        details=details,
        provenance=provenance.collect(cfg.seed) | {"notes": collected.notes_on(cfg.tokens)},
    )
    write_json(
        folder / TEXTS, {str(latent): [t._asdict() for t in some] for latent, some in texts.items()}
    )
    files = published_files.tables(collected.latents, texts, acts, writing.lm.tokenizer.pieces)
    asked = published_files.queries(writing.everything, str(folder))
    pieces = writing.lm.tokenizer.pieces
    seen = audit.record(collected.latents, writing.everything, acts, pieces)
    write_text(folder / audit.FILE, to_json_line(seen))
    files |= {"generation_queries_with_responses": asked, STATS: table}
    files[SUMMARY] = summary_table(result)
    made = manifest.write_tables(folder, {name: one for name, one in files.items() if len(one)})
    result.write(folder / RESULT)
    manifest.write(folder, result, made, writing.everything, writing.limits)
    return SensitivityRun(folder, result, table, texts, answers.stopped if answers else "")


def summary_table(result: Result) -> Table:
    """Return a row for the SAE and one for each floor, with every score and its interval."""
    arms = {"this SAE": {"reason": "", "latents": result.details["latents"]}}
    arms["this SAE"] |= {key: dataclasses.asdict(one) for key, one in result.scores.items()}
    arms |= {name.replace("_", " "): one for name, one in result.details["floors"].items()}
    columns: dict[str, list[Any]] = {"of": list(arms)}
    columns["latents"] = [one.get("latents") for one in arms.values()]
    for key in result.scores:
        for end, column in (("value", key), ("low", f"{key}_low"), ("high", f"{key}_high")):
            columns[column] = [one[key][end] if key in one else None for one in arms.values()]
    columns["reason"] = [one["reason"] for one in arms.values()]
    return Table(columns=columns, units={k: s.unit for k, s in result.scores.items() if s.unit})


def _verdicts(texts: Sequence[Text]) -> dict[str, int]:
    kinds = get_args(parsing.Verdict)
    return {kind: sum(t.verdict == kind for t in texts) for kind in kinds}


def record_of(found: Collected) -> dict[str, Any]:
    """Return what a corpus gave as a JSON-ready record, from which `collected_from` makes it."""
    return {
        "n_tokens": found.n_tokens,
        "l0": found.l0,
        "left_out": {str(k): v for k, v in found.left_out.items()},
        "random": [s._asdict() for s in found.random],
        "latents": {
            str(latent): {
                "shown": [s._asdict() for s in one.shown],
                "held_out": [s._asdict() for s in one.held_out],
                "negatives": [s._asdict() for s in one.negatives],
                "count": one.count,
                "largest": one.largest,
            }
            for latent, one in found.latents.items()
        },
    }


def collected_from(raw: Mapping[str, Any]) -> Collected:
    """Return what a corpus gave from its record (`record_of`)."""

    def snippets(listed: Sequence[Mapping[str, Any]]) -> list[Snippet]:
        return [Snippet(**one) for one in listed]

    return Collected(
        {
            int(latent): LatentExamples(
                snippets(one["shown"]),
                snippets(one["held_out"]),
                snippets(one["negatives"]),
                one["count"],
                one["largest"],
            )
            for latent, one in raw["latents"].items()
        },
        snippets(raw["random"]),
        raw["n_tokens"],
        raw["l0"],
        {int(k): v for k, v in raw["left_out"].items()},
    )


def texts_of(folder: Path) -> Iterator[tuple[int, list[Text]]]:
    """Yield the texts of a finished run by latent."""
    for latent, some in read_object(folder / TEXTS).items():
        yield int(latent), [Text(**one) for one in some]
