"""Scoring: every scorer on every explanation, with the controls that a score is read against."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from saekit.core import provenance
from saekit.core.errors import ConfigError, DataError
from saekit.core.files import read_object, to_json_line, write_text
from saekit.core.lock import claimed
from saekit.core.result import Result, Score, Table
from saekit.core.seeds import generator as chance_of
from saekit.core.stats.agreement import kappa
from saekit.core.stats.ranks import pearson
from saekit.data import table_files
from saekit.data.base import Corpus, Split
from saekit.generators.asker import NOTHING as NOTHING_SPENT
from saekit.generators.asker import Asker
from saekit.generators.asking import planned
from saekit.generators.base import Generator, Request
from saekit.generators.cache import ReplyCache
from saekit.generators.limits import Limits, Spent
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel
from saekit.studies.explain import statistics, study
from saekit.studies.explain.material import Case
from saekit.studies.explain.scorers.base import Embed, Judging, Question, Scorer, registry
from saekit.studies.explain.statistics import Answer, measured
from saekit.studies.sensitivity.study import SETTINGS, same_settings

VERSION = 1  # raised when the same replies give other numbers
SCORES, ANSWERS, RESULT, STATS = "scores", "answers.json", "result.json", "explanations"
DEFAULT = ("detection", "fuzzing", "intruder", "embedding", "steering")
LABEL, RANDOM, TOKENS, AGAIN = "label", "random", "tokens", "again"
VARIANTS = (LABEL, RANDOM, TOKENS, AGAIN)
INVALID = "invalid"
NOTHING = Request(text="-")  # stands for the request of a scorer that asks nobody
UNITS = {"yes_no": "share of texts", "choice": "share of choices", "amount": "correlation"}


class Said(NamedTuple):
    """An answer of the judge, kept with what it is about."""

    about: str
    truth: float
    said: float | None
    grade: float | None
    options: int
    verdict: str  # in words, comparable between two times of asking; "invalid" where it is none

    @property
    def answer(self) -> Answer:
        """What is measured."""
        return Answer(self.truth, self.said, self.grade, self.options)


# By scorer, then variant, then latent.
Everything = dict[str, dict[str, dict[int, list[Said]]]]


@dataclass(frozen=True)
class Scored:
    """What judges made of explanations. `print` shows it.

    Args:
        folder: where it is.
        result: scores of the SAE, with intervals and controls.
        latents: a row a latent.
        answers: every answer, by scorer, variant and latent.
        stopped: "budget" or "refused" where not all was asked; "" otherwise.
        reason: why, in words.
    """

    folder: Path
    result: Result
    latents: Table
    answers: Everything
    stopped: str = ""
    reason: str = ""

    def __str__(self) -> str:
        return str(self.result)

    def columns(self) -> Table:
        """Return what a table of latents shows: the explanation, and a column for each scorer."""
        names = ["latent", "explanation", *self.result.details["scorers"]]
        return Table(
            columns={
                name: self.latents.columns[name] for name in names if name in self.latents.columns
            },
            units={k: v for k, v in self.latents.units.items() if k in names},
        )


def score(  # noqa: PLR0913 - the words of `saekit explain score`
    explained: study.Explained,
    judge: Generator,
    name: str = "",
    *,
    scorers: Sequence[Scorer] = (),
    labels: Mapping[int, str] | None = None,
    again: bool = True,
    seed: int = 0,
    limits: Limits | None = None,
    cache: ReplyCache | None = None,
    spent: Spent = NOTHING_SPENT,
    embed: Embed | None = None,
    shown: bool = True,
) -> Scored:
    """Score explanations on texts that they were not made from. Run it once more to go on.

    Next to each score stand the explanation of another latent (``random``), the one that no
    language model wrote (``tokens``), the truths dealt out at random (``shuffled``), and how far
    the judge agrees with itself when it is asked again (``again``).

    Args:
        explained: explanations and texts (`study.explain`, `study.read`).
        judge: the generator that judges.
        name: of the folder in ``scores``; "": the judge's.
        scorers: which; (): detection, fuzzing, intruder, embedding, steering.
        labels: other explanations by latent, as people wrote them; None: those of the folder.
        again: ask the judge a second time, in another order.
        seed: of every draw.
        limits: what may be spent, and how fast.
        cache: replies of other runs; None: none are used.
        spent: of the limits before, on explaining.
        embed: makes sentence embeddings; None: the embedded model does.
        shown: show progress on stderr.

    Raises:
        ConfigError: the folder holds scores with other settings, a scorer is given twice, or one
            needs log-probabilities that the judge does not tell.
        DataError: there is no explanation to score.
    """
    used = list(scorers) or [registry.get(one)() for one in DEFAULT]
    _check(used, judge)
    known = explained.labels if labels is None else dict(labels)
    if unknown := sorted(known.keys() - explained.cases.keys()):
        raise DataError(
            f"Latents {', '.join(map(str, unknown[:8]))} have no texts in {explained.folder}; it "
            f"has {', '.join(map(str, list(explained.cases)[:8]))}. Run `saekit explain run` with "
            f"--latent for each."
        )
    if not known:
        raise DataError(
            f"No latent in {explained.folder} has a usable explanation: "
            f"{', '.join(f'{n} {v}' for v, n in explained.verdicts.items() if n) or 'none came'}. "
            f"Name a better generator: --by, --by-model."
        )
    cases = {latent: explained.cases[latent] for latent in sorted(known)}
    folder = explained.folder / SCORES / (name or judge.name)
    with claimed(folder, "saekit explain score", "Run the same command again to go on."):
        settings = {
            "version": VERSION,
            "scorers": [one.to_dict() | {"version": one.version} for one in used],
            "judge": judge.identity(),
            "of": study.digest_of(cases, known),
            "again": again,
            "seed": seed,
            "embedding": "given" if embed else "all-minilm-l6-v2",
        }
        same_settings(folder, settings, "folder")
        asker = Asker(judge, folder / study.JOURNAL, limits, cache, shown, spent)
        bench = _Bench(asker, cases, known, seed, embed)
        answers = bench.answers(used, again)
        return _finish(folder, settings, explained, known, used, answers, asker, seed)


def estimate(  # noqa: PLR0913 - the words of `saekit explain plan`
    sae: TrainedSAE,
    lm: LanguageModel,
    by: Generator,
    out: Path | str,
    cfg: study.Explain | None = None,
    *,
    text: tuple[Corpus, Split],
    latents: Sequence[int] | None = None,
    scorers: Sequence[Scorer] = (),
    again: bool = True,
    limits: Limits | None = None,
    shown: bool = True,
) -> dict[str, Any]:
    """Return what explaining latents, each once, and scoring the lines would ask, and cost at most.

    Nothing is sent. Texts are collected and kept for the run. Lines that nobody wrote yet are taken
    to be as long as they may be.

    Args: as `study.explain` and `score`.

    Returns:
        ``latents``, ``explaining`` and ``judging`` (requests), and what `asking.planned` returns of
        both together.
    """
    cfg = cfg or study.Explain()
    used = list(scorers) or [registry.get(one)() for one in DEFAULT]
    _check(used, by)
    folder = Path(out)
    found = study.prepared(sae, lm, by, folder, cfg, text, latents, shown)
    labels = {one.latent: f"{one.latent} " + "word " * (cfg.most_words - 1) for one in found}
    first = study.questions(by, found, cfg)
    bench = _Bench(
        Asker(by, folder / study.JOURNAL), {c.latent: c for c in found}, labels, cfg.seed, None
    )
    judged = {bench.asker.key(q.request): q.request for *_, q in bench.questions(used, again)}
    every = [*first, *judged.values()]
    numbers = planned(by, every, bench.asker.journal, limits or Limits())
    return {"latents": len(found), "explaining": len(first), "judging": len(judged)} | numbers


def _check(used: Sequence[Scorer], judge: Generator) -> None:
    names = [one.name for one in used]
    if len(set(names)) < len(names):
        raise ConfigError(f"Each scorer is given once; got {', '.join(names)}.")
    for one in used:
        if one.needs_logprobs and not judge.tells_logprobs:
            raise ConfigError(
                f"`{one.name}` needs log-probabilities, which the judge `{judge.name}` does not "
                f"tell. Leave it out, or name another judge: --by local, --by endpoint."
            )


class _Bench:
    """Explanations, their controls, and the judge."""

    def __init__(
        self,
        asker: Asker,
        cases: Mapping[int, Case],
        labels: Mapping[int, str],
        seed: int,
        embed: Embed | None,
    ):
        self.asker, self.cases, self.seed, self.embed = asker, cases, seed, embed
        self.labels = labels_by_maker(labels, cases, seed) | {AGAIN: dict(labels)}

    def variants(self, scorer: Scorer, again: bool) -> list[str]:
        """Return for what a scorer is asked: the explanation and its controls."""
        twice = again and scorer.asks
        return [v for v in VARIANTS if twice or v != AGAIN] + list(scorer.controls)

    def questions(
        self, scorers: Sequence[Scorer], again: bool
    ) -> list[tuple[Scorer, str, int, Question]]:
        """Return every question to the judge, with its scorer, variant and latent."""
        return [
            (scorer, variant, latent, question)
            for scorer in scorers
            if scorer.asks
            for variant in self.variants(scorer, again)
            for latent, case in self.cases.items()
            if (label := self._label(variant, latent)) is not None
            for question in scorer.questions(case, label, self._how(variant))
        ]

    def answers(self, scorers: Sequence[Scorer], again: bool) -> Everything:
        """Return every answer; all questions are asked in one go, each once."""
        found: Everything = {
            scorer.name: {
                v: {latent: [] for latent in self.cases} for v in self.variants(scorer, again)
            }
            for scorer in scorers
        }
        for scorer in scorers:
            for variant, some in found[scorer.name].items() if not scorer.asks else ():
                for latent, case in self.cases.items():
                    if (label := self._label(variant, latent)) is None:
                        continue
                    said = scorer.directly(case, label, self._how(variant))
                    some[latent] = [
                        _kept(Question(NOTHING, [a.truth], about=(s.text,)), 0, a)
                        for s, a in zip(case.tests, said, strict=False)
                    ]
        asked = self.questions(scorers, again)
        replies = self.asker.replies([q.request for *_, q in asked], "judge")
        for scorer, variant, latent, question in asked:
            reply = replies.get(self.asker.key(question.request))
            if reply is not None:
                found[scorer.name][variant][latent] += [
                    _kept(question, i, answer)
                    for i, answer in enumerate(scorer.read(question, reply))
                ]
        return found

    def _label(self, variant: str, latent: int) -> str | None:
        return self.labels.get(variant, self.labels[LABEL]).get(latent)

    def _how(self, variant: str) -> Judging:
        pool = self.labels[TOKENS] if variant == TOKENS else self.labels[LABEL]
        embed = self.embed
        if embed is None:
            embed = _embedded
        return Judging(self.asker.generator, self.seed, variant == AGAIN, pool, variant, embed)


def _embedded(texts: Sequence[str]) -> torch.Tensor:
    from saekit.models.embedded.sentences import sentence_model

    return sentence_model().embed(list(texts))


def labels_by_maker(
    labels: Mapping[int, str], cases: Mapping[int, Case], seed: int
) -> dict[str, dict[int, str]]:
    """Return explanations by who made them: given, of another latent, without a model.

    Args:
        labels: by latent.
        cases: their texts.
        seed: of the draw of other latents.
    """
    return {
        LABEL: dict(labels),
        RANDOM: _others(labels, seed),
        TOKENS: {latent: study.without_model(cases[latent]) for latent in labels},
    }


def _others(labels: Mapping[int, str], seed: int) -> dict[int, str]:
    """Return for each latent the explanation of another, where one has another text."""
    found = {}
    for latent, own in labels.items():
        others = sorted({text for text in labels.values() if text != own})
        if others:
            at = torch.randint(len(others), (1,), generator=chance_of(seed, "random label", latent))
            found[latent] = others[int(at)]
    return found


def _kept(question: Question, i: int, answer: Answer) -> Said:
    about = question.about[i] if i < len(question.about) else str(i)
    if answer.said is None:
        verdict = INVALID
    elif question.offered:
        verdict = question.offered[int(answer.said)]
    else:
        verdict = f"{answer.said:g}"
    return Said(about, answer.truth, answer.said, answer.grade, answer.options, verdict)


def _finish(  # noqa: PLR0913 - all that scoring gave
    folder: Path,
    settings: Mapping[str, Any],
    explained: study.Explained,
    labels: Mapping[int, str],
    scorers: Sequence[Scorer],
    answers: Everything,
    asker: Asker,
    seed: int,
) -> Scored:
    rows = [
        {
            "latent": latent,
            "explanation": label,
            "without_model": study.without_model(explained.cases[latent]),
            "tested": len(explained.cases[latent].tests),
            "tested_on": len(explained.cases[latent].on),
        }
        for latent, label in labels.items()
    ]
    rows.sort(key=lambda row: row["latent"])
    scores: dict[str, Score] = {}
    units: dict[str, str] = {"tested": "texts", "tested_on": "texts"}
    for scorer in scorers:
        by_variant = answers[scorer.name]
        units |= _columns(scorer, by_variant, rows, seed)
        scores |= _scores(scorer, by_variant, rows, seed)
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(
        columns={name: [row.get(name) for row in rows] for name in names},
        units={k: v for k, v in units.items() if k in names},
    )
    details = {
        "latents": len(rows),
        "without_label": sorted(explained.cases.keys() - labels.keys()),
        "left_out": {str(k): v for k, v in explained.left_out.items()},
        "explanations": explained.verdicts,
        "scorers": [one.name for one in scorers],
        "graded": {one.name: _graded(answers[one.name]) for one in scorers},
        "failures": asker.failures,
        "requests_sent": asker.sent,
        "requests_known": asker.known,
        "stopped": asker.stopped,
        "reason": asker.reason,
    }
    made = json.loads(json.dumps(settings))
    explaining = read_object(explained.folder / SETTINGS)
    result = Result(
        name="explain",
        version=VERSION,
        config={"scoring": made, "explaining": explaining},
        scores=scores,
        details=details,
        provenance=provenance.collect(seed) | {"notes": list(explained.notes)},
    )
    record = {
        scorer: {
            variant: {str(latent): [s._asdict() for s in said] for latent, said in some.items()}
            for variant, some in by_variant.items()
        }
        for scorer, by_variant in answers.items()
    }
    write_text(folder / ANSWERS, to_json_line(record))
    table_files.write(table, folder / STATS, "csv")
    result.write(folder / RESULT)
    return Scored(folder, result, table, answers, asker.stopped, asker.reason)


def answers_of(folder: Path) -> Everything:
    """Return the answers that a folder of scores holds."""
    return {
        scorer: {
            variant: {int(latent): [Said(**s) for s in said] for latent, said in some.items()}
            for variant, some in by_variant.items()
        }
        for scorer, by_variant in read_object(folder / ANSWERS).items()
    }


def _graded(by_variant: Mapping[str, Mapping[int, Sequence[Said]]]) -> bool:
    return any(
        s.grade is not None for some in by_variant.values() for x in some.values() for s in x
    )


def _columns(
    scorer: Scorer,
    by_variant: Mapping[str, Mapping[int, Sequence[Said]]],
    rows: Sequence[dict[str, Any]],
    seed: int,
) -> dict[str, str]:
    """Add a scorer's numbers to the rows of latents; return their units."""
    graded, name = _graded(by_variant), scorer.name
    units: dict[str, str] = {}
    for row in rows:
        latent = row["latent"]
        own = [s.answer for s in by_variant[LABEL][latent]]
        found = measured(scorer.kind, own)
        row[name] = found.main(scorer.kind, graded)
        unit = "probability" if scorer.kind == "yes_no" and graded else UNITS[scorer.kind]
        units[name] = unit
        if scorer.kind != "amount":
            row[f"{name}_accuracy"] = found.accuracy
            row[f"{name}_low"], row[f"{name}_high"] = found.low, found.high
            units |= {f"{name}_{part}": UNITS[scorer.kind] for part in ("accuracy", "low", "high")}
        if scorer.kind == "yes_no" and graded:
            row[f"{name}_auroc"] = found.auroc
            units[f"{name}_auroc"] = "probability"
        for variant in by_variant:
            if variant not in (LABEL, AGAIN):
                other = measured(scorer.kind, [s.answer for s in by_variant[variant][latent]])
                row[f"{name}_{variant}"] = other.main(scorer.kind, graded)
                units[f"{name}_{variant}"] = unit
        row[f"{name}_shuffled"] = statistics.shuffled(scorer.kind, own, seed, name, latent)
        row[f"{name}_invalid"], row[f"{name}_n"] = found.invalid, found.n
        row[f"{name}_reason"] = found.reason
        units |= {f"{name}_shuffled": unit, f"{name}_invalid": "share of answers"}
        if AGAIN in by_variant:
            row[f"{name}_again"] = _same(by_variant[LABEL][latent], by_variant[AGAIN][latent])
            units[f"{name}_again"] = "share of answers"
    return units


def _same(one: Sequence[Said], other: Sequence[Said]) -> float | None:
    """Return the share of things that the judge said the same of both times."""
    pairs = _pairs(one, other)
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else None


def _pairs(one: Sequence[Said], other: Sequence[Said]) -> list[tuple[str, str]]:
    then = {s.about: s.verdict for s in other}
    return [(s.verdict, then[s.about]) for s in one if s.about in then]


def _scores(
    scorer: Scorer,
    by_variant: Mapping[str, Mapping[int, Sequence[Said]]],
    rows: Sequence[Mapping[str, Any]],
    seed: int,
) -> dict[str, Score]:
    """Return the scores of the SAE by one scorer: means over latents, and against the controls."""
    graded, name = _graded(by_variant), scorer.name
    unit = "probability" if scorer.kind == "yes_no" and graded else UNITS[scorer.kind]
    what = {"yes_no": "AUROC" if graded else "balanced accuracy", "choice": "share right"}
    said = f"{name}, {what.get(scorer.kind, 'correlation')}"

    def mean(
        label: str, values: Sequence[float | None], unit: str, better: str = "higher"
    ) -> Score:
        return statistics.mean_over_latents(label, values, unit, seed, better)

    own = [row[name] for row in rows]
    found = {name: mean(said, own, unit)}
    if scorer.kind == "yes_no" and graded:
        values = [row[f"{name}_accuracy"] for row in rows]
        found[f"{name}_accuracy"] = mean(f"{name}, balanced accuracy", values, UNITS["yes_no"])
    words = {
        RANDOM: "explanation of another latent",
        TOKENS: "explanation without a language model",
        "shuffled": "shuffled truths",
    }
    for control in (RANDOM, TOKENS, "shuffled", *scorer.controls):
        values = [row.get(f"{name}_{control}") for row in rows]
        label = f"{name}, {words.get(control, control)}"
        found[f"{name}_{control}"] = mean(label, values, unit, "neither")
        if control in (RANDOM, TOKENS):
            above = [
                None if a is None or b is None else a - b for a, b in zip(own, values, strict=True)
            ]
            found[f"{name}_above_{control}"] = mean(f"{name}, above {words[control]}", above, unit)
    if AGAIN in by_variant:
        found[f"{name}_again"] = _agreement(scorer, by_variant)
    values = [row[f"{name}_invalid"] for row in rows]
    found[f"{name}_invalid"] = mean(f"{name}, no answer", values, "share of answers", "lower")
    return found


def _agreement(scorer: Scorer, by_variant: Mapping[str, Mapping[int, Sequence[Said]]]) -> Score:
    """Return how far the judge agrees with itself over all latents."""
    label = f"{scorer.name}, judge against itself"
    first, second = by_variant[LABEL], by_variant[AGAIN]
    if scorer.kind == "amount":
        pairs = [
            (s.said or 0.0, then[s.about].said or 0.0)
            for latent in first
            for then in [{s.about: s for s in second[latent]}]
            for s in first[latent]
            if s.about in then
        ]
        value = pearson(*torch.tensor(pairs).T) if len(pairs) > 1 else math.nan
        return Score(
            value=None if math.isnan(value) else value,
            n=len(pairs),
            unit="correlation",
            better="higher",
            label=label,
            reason="" if not math.isnan(value) else "its answers do not differ",
        )
    pairs = [pair for latent in first for pair in _pairs(first[latent], second[latent])]
    if scorer.kind == "choice":
        # Options differ from set to set, so that chance agreement is that of their number.
        n = len(pairs)
        share = sum(a == b for a, b in pairs) / n if n else None
        low, high = statistics.wilson(share, n) if share is not None else (None, None)
        return Score(
            value=share,
            low=low,
            high=high,
            n=n,
            unit="share of answers",
            better="higher",
            label=label,
            reason="" if n else "nothing was asked twice",
        )
    found = kappa([a for a, _ in pairs], [b for _, b in pairs])
    return Score(
        value=found.value,
        low=found.low,
        high=found.high,
        n=found.n,
        unit="kappa",
        better="higher",
        label=label,
        reason=found.reason,
    )
