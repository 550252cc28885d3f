"""Steering: does adding the latent of a class make the model write texts of that class?"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import ConfigError, DataError
from saekit.core.progress import Progress
from saekit.core.result import Result, Score
from saekit.core.seeds import derive, generator
from saekit.core.stats.plain import mean
from saekit.core.stats.proportions import wilson
from saekit.core.stats.resamples import Better, scored
from saekit.data.labelled.base import Labelled, Source, name_of, open_task
from saekit.evals.base import SharedEval, Subject, Tools, registry
from saekit.models.base import LanguageModel
from saekit.studies.causal import dictionaries, edits, lm_judge, reading, resampling, writing
from saekit.studies.causal.edits import Change, Placed
from saekit.studies.causal.lm_judge import MOST, RATING, LMJudge, Rated
from saekit.studies.causal.reading import Read
from saekit.studies.causal.writing import Judge, Said
from saekit.studies.faithful.coding import coded, model_of
from saekit.studies.faithful.probing import logistic, statistics
from saekit.studies.faithful.probing.features import padded
from saekit.studies.faithful.sequences import Shape, held_out, shape_for

LARGE = 0.99  # quantile of a latent's activations where it is on: its own large activation
MOST_TEXTS = 64  # of a class, on which that is taken; and on which the model's loss is
UNIT = "share of prompts"
CLASSIFIER, PLAIN = "classifier", "unsteered"
SHOWN = 2  # texts of each kind in the details; of a language model that judges, all
SAID = {
    "": "the class's best latent added",
    "random_": "a random latent of like frequency added",
    "direction_": "the difference of class means added",
}
Add = Callable[[float], Change]  # by strength


class _Task(NamedTuple):
    """A task, its judge, and the prompts with what is written after them without any change."""

    name: str
    texts: Labelled
    judge: Judge
    judged: Int[Tensor, "n_test"]  # what it says of the task's own test texts
    prompts: dict[str, Int[Tensor, "n p"]]
    plain: dict[str, Said]
    why: str  # why nothing can be steered; "" where it can
    blind: str  # why what the classifier says counts for nothing; "" where it counts
    right: Float[Tensor, "k"] | None  # of labelled texts, whether a model tells their class


class _Marks(NamedTuple):
    """What the judge makes of texts that were written for a class."""

    values: Float[Tensor, "n"]  # 0 to 1
    rated: list[Rated]  # of a language model; of the classifier none


class _Arm(NamedTuple):
    """One thing that is added, at the strength that validation chose, and what was written."""

    strength: float
    tried: list[dict[str, float]]
    said: Said


class _Class(NamedTuple):
    """What steering towards a class gave, by what is added."""

    scores: dict[str, Score]
    shown: dict[str, Any]
    rises: dict[str, Float[Tensor, "n_draws_and_one"]]
    costs: dict[str, Float[Tensor, "n_draws_and_one"]]
    pairs: list[tuple[Rated, bool | None]]  # ratings, and whether the classifier says so


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Steering(SharedEval):
    """The latent of a class is added while the model writes: is the text of that class more often?

    Of each class of labelled texts the latent most tied to it (as in `tpp`) is added at every token
    while the model continues neutral prompts, the beginnings of held-out rows. What it writes is
    read by the untouched model and judged by a classifier, trained on the labelled texts at another
    layer and cut to as many tokens as are written; it never saw a written text, and its accuracy on
    held-out labelled texts stands in the result (`TASK/judge_accuracy`). `steering` is the share of
    texts judged to be of the class less that without any change, as a mean over classes;
    ``TASK/CLASS/success`` and ``TASK/CLASS/unsteered`` are the two shares. `cost` is how much the
    loss of the untouched model on what was written rises: text that the model finds strange.

    Strengths are in units of a latent's own large activation (99 % of those where it is on are
    below). The strength is chosen on validation prompts: the most successful one whose cost stays
    within `most_cost`, none where no one does. Floors in the same result: a random latent of like
    frequency, and, as what a linear direction can do, the difference of class means.

    It is undefined where the model's loss on the labelled texts is no better than guessing any
    token, or the judge no better than the commonest class. A language model as judge says how much
    a text is about the class, and how fluent it is; scores then go from 0 to 2, the harmonic mean
    of both. It is undefined where the judge does not tell labelled texts, and where over a fifth of
    the texts has no usable rating; others without one count as 0. `judge_agreement` is how far it
    agrees with the classifier. `reach` is how much of the difference of
    class means the latents hold.

    Args:
        tasks: names (`saekit list tasks`) or files of one's own.
        source: where named tasks are read from, as of `probing`.
        strengths: multiples of a latent's own large activation, or of the difference of means.
        most_cost: the largest rise of the loss on what is written, nats/token.
        n_train: the most texts to train the judge and choose latents on.
        n_test: the most to test the judge on.
        n_prompts: prompts to choose the strength on, and as many to test on.
        prompt_tokens: tokens of a prompt, BOS included.
        n_new: tokens to write after each.
        temperature: of what is written; 0 takes the likeliest token.
        folds: of the cross-validation of probes.
        n_draws: resamples of prompts for the intervals.
        batch_rows: the most texts of a forward pass.
        judge: who says of which class a text is: `classifier`, or a language model that rates texts
            from 0 to 2, by the name of a generator (`saekit list generators`), as local.
        judge_model: its language model; empty: the generator's own.
        judge_url: address of an endpoint.
        judge_set: further settings of the generator, as ``small=false``.
        limits: what it may cost, as ``usd=2``; see `saekit explain`.

    Raises:
        ConfigError: a number is out of range, a task is named twice, or the SAE predicts another
            site than it reads.
        UnknownNameError: there is no such generator.
        DataError: there are fewer held-out rows than prompts.
        BudgetError: a limit was reached; what was asked is kept.

    Cost:
        `n_new` tokens after each prompt: 3 things a class, at each strength on validation and at
        one on test; the labelled texts to the site and to the classifier's layer. A language model
        that judges is asked two questions a text.

    Reads:
        Labelled texts; the beginnings of held-out rows.

    Source:
        Ours; as concept sets with a judge: Wu et al. 2025, arXiv:2501.17148 (AxBench).
        Differs: a classifier in place of a language model unless one is named, and then two ratings
        and no instruction; costs bounded; floors.
    """

    name: ClassVar[str] = "steering"
    version: ClassVar[int] = 2  # intervals
    needs: ClassVar[frozenset[str]] = frozenset({"lm"})
    one_site: ClassVar[bool] = True
    headline: ClassVar[tuple[str, ...]] = ("steering", "random_steering", "direction_steering")

    tasks: tuple[str, ...] = ("ag_news",)
    source: Source = "auto"
    strengths: tuple[float, ...] = setting((1.0, 2.0, 4.0), above=0)
    most_cost: float = setting(1.0, above=0)
    n_train: int = setting(400, least=10)
    n_test: int = setting(200, least=1)
    n_prompts: int = setting(16, least=1)
    prompt_tokens: int = setting(8, least=1)
    n_new: int = setting(24, least=1)
    temperature: float = setting(0.7, least=0)
    folds: int = setting(4, least=2)
    n_draws: int = setting(1000, least=0)
    batch_rows: int = setting(16, least=1)
    judge: str = CLASSIFIER
    judge_model: str = ""
    judge_url: str = ""
    judge_set: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [name_of(word) for word in self.tasks]
        reading.check_named("tasks", names, "strengths", self.strengths)
        of_model = (self.judge_model, self.judge_url, self.judge_set, self.limits)
        if self.judge != CLASSIFIER:
            self._lm_judge()
        elif any(of_model):
            raise ConfigError(
                "`judge_model`, `judge_url`, `judge_set` and `limits` are of a language model that "
                "judges; got no such judge. Name one, as judge=local or judge=endpoint."
            )

    def _lm_judge(self) -> LMJudge | None:
        """Return the language model that judges; None where the classifier does."""
        if self.judge == CLASSIFIER:
            return None
        from saekit.terminal.generator_options import generator_of, limits_of

        model, url = self.judge_model or None, self.judge_url or None
        by = generator_of(self.judge, model, url, list(self.judge_set))
        return LMJudge(by, limits_of(list(self.limits)))

    @classmethod
    @override
    def example(cls) -> "Steering":
        return cls(
            tasks=("code_or_prose",),
            strengths=(1.0,),
            n_train=60,
            n_test=40,
            n_prompts=8,
            n_new=8,
            folds=2,
            n_draws=20,
        )

    @override
    def cautions(self, subject: Subject) -> tuple[str, ...]:
        return reading.too_small(subject, "keep to a subject while it writes")

    @override
    def run_checked(self, subjects: Sequence[Subject], tools: Tools) -> list[Result]:
        """Measure SAEs with the same prompts; what is written without a change is written once."""
        logistic.check()
        began = time.monotonic()
        shape = shape_for(model_of(subjects), tools, 0)
        bar = Progress(self.name, None, shown=tools.shown)
        shared: dict[Any, Any] = {}
        asked = self._lm_judge()
        each: list[dict[str, tuple[_Task, Read]]] = [{} for _ in subjects]
        for word in self.tasks:
            texts = open_task(word, self.source).read().first(self.n_train, self.n_test)
            every = [e.text for e in texts.train]
            reads = reading.read_texts(subjects, every, shape, tools, self.batch_rows)
            for subject, read, mine in zip(subjects, reads, each, strict=True):
                key = name_of(word), writing.judge_site(model_of([subject]), subject.read)
                if key not in shared:
                    shared[key] = self._task(key[0], texts, subject, tools, (bar, shape, asked))
                mine[key[0]] = shared[key], read
        results = []
        for subject, mine in zip(subjects, each, strict=True):
            scores, details = self._measured(subject, mine, tools.seed, (shared, bar, asked))
            found = scores, {"tasks": details}
            if asked is not None:
                found[1]["judge"] = asked.record()
            notes = [
                f"{name}: {note}"
                for name, (task, _) in mine.items()
                for note in task.texts.provenance["notes"]
            ]
            results.append(reading.result_of(self, subject, found, notes, tools.seed, began))
        bar.close()
        return results

    def _task(
        self,
        name: str,
        texts: Labelled,
        subject: Subject,
        tools: Tools,
        more: tuple[Progress, Shape, LMJudge | None],
    ) -> _Task:
        lm = model_of([subject])
        bar, shape, asked = more
        shape = shape._replace(n_ctx=min(self.n_new + (shape.bos_id is not None), lm.n_ctx_max))
        site = writing.judge_site(lm, subject.read)
        blank = Judge(lm, site, shape, [], self.batch_rows, bar)
        judge, judged = writing.trained_judge(
            blank, texts, self.folds, derive(tools.seed, "steering", "judge", name)
        )
        held = held_out(tools, 2 * self.n_prompts).tokens[:, : self.prompt_tokens]
        if len(held) < 2 * self.n_prompts:
            raise DataError(
                f"There are {len(held)} rows of held-out text, and {2 * self.n_prompts} prompts "
                f"are wanted. Give more text, or set n_prompts."
            )
        prompts = {"validation": held[: self.n_prompts], "test": held[self.n_prompts :]}
        why, blind, right = self._no_text(texts, subject, bar), _blind(texts, judged), None
        if asked is None:
            why = why or blind
        elif not why:
            right = self._told(asked, texts, lm, tools.seed)
            why = lm_judge.why_none(right)
        plain = (
            {}
            if why
            else {
                part: writing.written(judge, p, None, self._how(tools.seed, part))
                for part, p in prompts.items()
            }
        )
        return _Task(name, texts, judge, judged, prompts, plain, why, blind, right)

    def _no_text(self, texts: Labelled, subject: Subject, bar: Progress) -> str:
        """Return why the model cannot be steered; "" where it writes text."""
        lm = model_of([subject])
        some = [e.text for e in texts.test[:MOST_TEXTS]]
        rows = padded(some, lm, Shape(min(64, lm.n_ctx_max), lm.tokenizer.bos_id))
        special = subject.rule.special_ids
        loss = float(edits.losses(lm, rows, None, special, self.batch_rows, bar).nanmean())
        if loss < math.log(lm.vocab_size):
            return ""
        return (
            f"the model writes no text: its loss on labelled texts is {loss:.2f} nats/token, "
            f"that of guessing among {lm.vocab_size:,} tokens {math.log(lm.vocab_size):.2f}"
        )

    def _told(
        self, asked: LMJudge, texts: Labelled, lm: LanguageModel, seed: int
    ) -> Float[Tensor, "k"]:
        """Return of labelled texts, cut to what is written, whether a model tells their class.

        1 where it rates the text to be more about its own class than about another, which is drawn;
        a half where it rates both alike or gives no rating.
        """
        some, n = texts.test[: lm_judge.CHECKED], len(texts.classes)
        cut = [lm.tokenizer.decode(lm.tokenizer.encode(e.text)[0][: self.n_new]) for e in some]
        turn = torch.randint(1, n, (len(some),), generator=generator(seed, "steering", "told"))
        others = [(e.label + int(t)) % n for e, t in zip(some, turn, strict=True)]
        own = asked.about(cut, [lm_judge.concept(texts, e.label) for e in some])
        other = asked.about(cut, [lm_judge.concept(texts, c) for c in others])
        return torch.tensor(
            [lm_judge.nearer(a, b) for a, b in zip(own, other, strict=True)], dtype=torch.float64
        )

    def _marks(self, task: _Task, c: int, said: Said, asked: LMJudge | None) -> _Marks:
        if asked is None:
            return _Marks((said.judged == c).double(), [])
        rated = asked.rate(said.texts, lm_judge.concept(task.texts, c))
        return _Marks(torch.tensor([r.value / MOST for r in rated]).double(), rated)

    def _how(self, seed: int, part: str) -> tuple[int, float, int]:
        return self.n_new, self.temperature, derive(seed, "steering", part)

    def _measured(
        self,
        subject: Subject,
        mine: dict[str, tuple[_Task, Read]],
        seed: int,
        more: tuple[dict[Any, Any], Progress, LMJudge | None],
    ) -> tuple[dict[str, Score], dict[str, Any]]:
        placed, asked = Placed.of(subject), more[2]
        draws = statistics.drawn(self.n_prompts, self.n_draws, seed)
        scores: dict[str, Score] = {}
        details: dict[str, Any] = {}
        each: list[_Class] = []
        reached: list[float] = []
        for name, (task, read) in mine.items():
            scores |= _accuracies(task, self.judge)
            classes: dict[str, Any] = {}
            for c, said in enumerate(task.texts.classes):
                labels = torch.tensor([e.label for e in task.texts.train]) == c
                held = dictionaries.held(read.x, read.own, labels)
                reached += [] if held is None else [held]
                if not task.why:
                    each.append(self._class(placed, (task, c, read, labels), draws, seed, more))
                    scores |= each[-1].scores
                    classes[said] = each[-1].shown
            details[name] = _said(task) | {"classes": classes}
        why = "; ".join(f"{name}: {task.why}" for name, (task, _) in mine.items() if task.why)
        unit = UNIT if asked is None else RATING
        for kind in SAID:
            better = "neither" if kind else "higher"
            rises, costs = (
                [of[kind] for of in part if kind in of]
                for part in ([one.rises for one in each], [one.costs for one in each])
            )
            scores |= self._mean(f"{kind}steering", rises, unit, why, better)
            scores |= self._mean(f"{kind}cost", costs, "nats/token", why, "neither")
        scores["reach"] = resampling.exact(
            mean(reached) if reached else None,
            sum(len(t.texts.train) for t, _ in mine.values()),
            unit="ratio",
            better="higher",
            label="share of the difference of class means that latents hold",
        )
        if asked is not None:
            scores = lm_judge.with_judge(scores, [pair for one in each for pair in one.pairs])
        return scores, details

    def _class(
        self,
        placed: Placed,
        on: tuple[_Task, int, Read, Tensor],
        draws: statistics.Draws,
        seed: int,
        more: tuple[dict[Any, Any], Progress, LMJudge | None],
    ) -> _Class:
        """Steer towards a class, and judge what is written with each thing added and without."""
        (task, c, _, _), (shared, bar, asked) = on, more
        arms: dict[str, _Arm] = {}
        for kind, (known, add) in self._adds(placed, on, seed, bar).items():
            key = (task.name, c, known)
            if known is None:
                arms[kind] = self._arm(task, c, add, seed, asked)
            else:
                if key not in shared:
                    shared[key] = self._arm(task, c, add, seed, asked)
                arms[kind] = shared[key]
        head, nothing = f"{task.name}/{task.texts.classes[c]}", task.plain["test"]
        written = {PLAIN: nothing} | {kind: arm.said for kind, arm in arms.items()}
        marks = {kind: self._marks(task, c, one, asked) for kind, one in written.items()}
        unit, most = (UNIT, 1) if asked is None else (RATING, MOST)
        rates = {kind: most * resampling.means(m.values, draws) for kind, m in marks.items()}
        verb = "judged so" if asked is None else "rated by the judge"
        words = f"{task.name}, {task.texts.classes[c]}: {verb}"
        names = {PLAIN: PLAIN} | {kind: f"{kind}success" for kind in arms}
        added = {PLAIN: "nothing added"} | {kind: SAID[kind] for kind in arms}
        scores = {
            f"{head}/{name}": scored(
                rates[kind],
                self.n_prompts,
                unit=unit,
                label=f"{words}, {added[kind]}",
                span=(0.0, most),
            )
            for kind, name in names.items()
        }
        rises = {kind: rates[kind] - rates[PLAIN] for kind in arms}
        costs = {kind: arm.said.loss - nothing.loss for kind, arm in arms.items()}
        shown: dict[str, Any] = {
            kind.rstrip("_") or "latent": {
                "strength": arm.strength,
                "validation": arm.tried,
                **_shown(arm.said, marks[kind]),
            }
            for kind, arm in arms.items()
        }
        if asked is not None:
            shown[PLAIN] = _shown(nothing, marks[PLAIN])
        pairs = [
            (rated, None if task.blind else bool(hit))
            for kind, one in written.items()
            for rated, hit in zip(marks[kind].rated, one.judged == c, strict=asked is not None)
        ]
        return _Class(scores, shown, rises, costs, pairs)

    def _mean(
        self, name: str, each: list[Tensor], unit: str, why: str, better: Better
    ) -> dict[str, Score]:
        kind = name.removesuffix("steering").removesuffix("cost")
        what = "rise of the loss on what is written"
        if "steering" in name:
            what = "rise of the share judged of the class"
            what = "rise of the judge's rating" if unit == RATING else what
        label = f"{SAID[kind]}: {what}"
        if not each:
            why = why or "no latent is tied to a class"
            return {name: resampling.undefined(why, 0, unit=unit, label=label)}
        found = torch.stack(each).mean(0)
        if "cost" in name:
            score = resampling.of_units(found, unit=unit, label=label, better=better)
            return {name: replace(score, reason="; ".join(filter(None, (why, score.reason))))}
        most = 1.0 if unit == UNIT else MOST
        return {
            name: scored(
                found,
                self.n_prompts,
                unit=unit,
                label=label,
                better=better,
                reason=why,
                span=(-most, most),
                trials=self.n_prompts * len(each),
            )
        }

    def _adds(
        self, placed: Placed, on: tuple[_Task, int, Read, Tensor], seed: int, bar: Progress
    ) -> dict[str, tuple[Any, Add]]:
        """Return what is added for a class, by strength, with a key where it is no SAE's own."""
        task, c, read, labels = on
        rule = placed.subject.rule
        probe = logistic.linear(
            read.x, labels, folds=self.folds, seed=derive(seed, "steering", task.name, c)
        )
        gap = (read.x[labels].double().mean(0) - read.x[~labels].double().mean(0)).float()
        found: dict[str, tuple[Any, Add]] = {}
        best = dictionaries.tied(read.own, labels, probe, 1)
        if len(best):
            chance = generator(seed, "steering", "random", task.name, c)
            random = dictionaries.alike(read.own.frequency, best, chance)
            both = torch.cat([best, random])
            texts = [e.text for e in task.texts.train if e.label == c][:MOST_TEXTS]
            large = self._large(placed, texts, both, bar)
            for kind, latent, size in zip(SAID, both, large, strict=False):
                vector = placed.directions[latent] * size
                found[kind] = None, _adding(placed, vector)
        found["direction_"] = (
            ("direction", placed.subject.read, rule),
            _adding(placed, gap.to(placed.directions)),
        )
        return found

    def _large(
        self, placed: Placed, texts: list[str], latents: Tensor, bar: Progress
    ) -> list[float]:
        """Return the own large activation of some latents; of one that is never on there 0."""
        lm = model_of([placed.subject])
        shape = Shape(min(64, lm.n_ctx_max), lm.tokenizer.bos_id)
        rows = padded(texts, lm, shape)
        acts = [
            one.codes.columns(latents.to(one.codes.latents.device)).cpu()
            for _, (one,) in coded([placed.subject], rows, self.batch_rows, bar)
        ]
        every = torch.cat(acts)
        on = [column[column != 0] for column in every.T]
        return [float(torch.quantile(v.abs(), LARGE)) if len(v) else 0.0 for v in on]

    def _arm(self, task: _Task, c: int, add: Add, seed: int, asked: LMJudge | None) -> _Arm:
        """Choose a strength on validation prompts and write with it after the test prompts."""
        tried, best, success = [], 0.0, -1.0
        for strength in sorted(self.strengths):
            said = writing.written(
                task.judge, task.prompts["validation"], add(strength), self._how(seed, "validation")
            )
            rate = float(self._marks(task, c, said, asked).values.mean())
            rate *= 1 if asked is None else MOST
            cost = float((said.loss - task.plain["validation"].loss).mean())
            tried.append({"strength": strength, "success": rate, "cost": cost})
            if cost <= self.most_cost and rate > success:
                best, success = strength, rate
        if not best:  # each costs too much: nothing is added
            return _Arm(0.0, tried, task.plain["test"])
        said = writing.written(task.judge, task.prompts["test"], add(best), self._how(seed, "test"))
        return _Arm(best, tried, said)


def _adding(placed: Placed, vector: Float[Tensor, "d"]) -> Add:
    return lambda strength: placed.change(lambda x: x + strength * vector)


def _blind(texts: Labelled, judged: Tensor) -> str:
    """Return why what the classifier says counts for nothing; "" where it counts."""
    labels = torch.tensor([e.label for e in texts.test])
    right, n = float((judged == labels).double().mean()), len(labels)
    commonest = float(torch.bincount(labels).max()) / n
    if wilson(right, n)[0] > commonest:
        return ""
    return (
        f"the judge is right on {right:.0%} of {n} held-out texts, and the commonest class is "
        f"{commonest:.0%} of them"
    )


def _accuracies(task: _Task, judge: str) -> dict[str, Score]:
    labels = torch.tensor([e.label for e in task.texts.test])
    who = "judge" if judge == CLASSIFIER else CLASSIFIER
    label = f"accuracy of the {who} on held-out labelled texts"
    of = {f"{who}_accuracy": ((task.judged == labels).double(), label)}
    if task.right is not None:
        of["judge_accuracy"] = (
            task.right,
            "labelled texts that the judge rates nearer to their class",
        )
    found = {}
    for name, (hits, said) in of.items():
        share = float(hits.mean())
        low, high = wilson(share, len(hits))
        found[f"{task.name}/{name}"] = Score(
            value=share,
            low=low,
            high=high,
            n=len(hits),
            unit="share of texts",
            better="neither",
            label=f"{task.name}: {said}",
        )
    return found


def _shown(said: Said, marks: _Marks) -> dict[str, Any]:
    if not marks.rated:
        return {"texts": said.texts[:SHOWN]}
    return {"texts": said.texts, "about_and_fluent": [list(one) for one in marks.rated]}


def _said(task: _Task) -> dict[str, Any]:
    labels = torch.tensor([e.label for e in task.texts.test])
    return {
        "provenance": task.texts.provenance,
        "sha256": task.texts.sha256,
        "judge_site": str(task.judge.site),
        "commonest_share": int(torch.bincount(labels).max()) / len(labels),
        "unsteered": task.plain["test"].texts[:SHOWN] if task.plain else [],
        "unsteered_loss": float(task.plain["test"].loss.mean()) if task.plain else None,
        "why_not": task.why,
    }
