"""Steering: does adding the latent of a class make the model write texts of that class?"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import DataError
from saekit.core.progress import Progress
from saekit.core.result import Result, Score
from saekit.core.seeds import derive, generator
from saekit.core.stats.plain import mean
from saekit.core.stats.proportions import wilson
from saekit.core.stats.resamples import Better, scored
from saekit.data.labelled.base import Labelled, Source, name_of, open_task
from saekit.evals.base import SharedEval, Subject, Tools, registry
from saekit.studies.causal import dictionaries, edits, reading, resampling, writing
from saekit.studies.causal.edits import Change, Placed
from saekit.studies.causal.reading import Read
from saekit.studies.causal.writing import Judge, Said
from saekit.studies.faithful.coding import coded, model_of
from saekit.studies.faithful.probing import logistic, statistics
from saekit.studies.faithful.probing.features import padded
from saekit.studies.faithful.sequences import Shape, held_out, shape_for

LARGE = 0.99  # quantile of a latent's activations where it is on: its own large activation
MOST_TEXTS = 64  # of a class, on which that is taken; and on which the model's loss is
UNIT = "share of prompts"
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


class _Arm(NamedTuple):
    """One thing that is added, at the strength that validation chose, and what was written."""

    strength: float
    tried: list[dict[str, float]]
    said: Said


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Steering(SharedEval):
    """The latent of a class is added while the model writes: how often is the text of that class?

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
    token, or the judge no better than the commonest class. `reach` is how much of the difference of
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

    Raises:
        ConfigError: a number is out of range, a task is named twice, or the SAE predicts another
            site than it reads.
        DataError: there are fewer held-out rows than prompts.

    Cost:
        `n_new` tokens after each prompt: 3 things a class, at each strength on validation and at
        one on test; the labelled texts to the site and to the judge's layer.

    Reads:
        Labelled texts; the beginnings of held-out rows.

    Source:
        Ours; as concept sets with a judge: Wu et al. 2025, arXiv:2501.17148 (AxBench).
        Differs: a classifier in place of a language model that judges; costs bounded; floors.
    """

    name: ClassVar[str] = "steering"
    version: ClassVar[int] = 1
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

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [name_of(word) for word in self.tasks]
        reading.check_named("tasks", names, "strengths", self.strengths)

    @classmethod
    @override
    def example(cls) -> "Steering":
        return cls(
            tasks=("code_or_prose",), strengths=(1.0,), n_train=60, n_test=40, n_prompts=8, n_new=8,
            folds=2, n_draws=20,
        )  # fmt: skip

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
        each: list[dict[str, tuple[_Task, Read]]] = [{} for _ in subjects]
        for word in self.tasks:
            texts = open_task(word, self.source).read().first(self.n_train, self.n_test)
            every = [e.text for e in texts.train]
            reads = reading.read_texts(subjects, every, shape, tools, self.batch_rows)
            for subject, read, mine in zip(subjects, reads, each, strict=True):
                key = name_of(word), writing.judge_site(model_of([subject]), subject.read)
                if key not in shared:
                    shared[key] = self._task(key[0], texts, subject, tools, bar, shape)
                mine[key[0]] = shared[key], read
        results = []
        for subject, mine in zip(subjects, each, strict=True):
            scores, details = self._measured(subject, mine, tools.seed, (shared, bar))
            found = scores, {"tasks": details}
            notes = [
                f"{name}: {note}"
                for name, (task, _) in mine.items() for note in task.texts.provenance["notes"]
            ]  # fmt: skip
            results.append(reading.result_of(self, subject, found, notes, tools.seed, began))
        bar.close()
        return results

    def _task(
        self,
        name: str,
        texts: Labelled,
        subject: Subject,
        tools: Tools,
        bar: Progress,
        shape: Shape,
    ) -> _Task:
        lm = model_of([subject])
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
        why = self._why_not(texts, judged, subject, bar)
        plain = {} if why else {
            part: writing.written(judge, p, None, self._how(tools.seed, part))
            for part, p in prompts.items()
        }  # fmt: skip
        return _Task(name, texts, judge, judged, prompts, plain, why)

    def _why_not(self, texts: Labelled, judged: Tensor, subject: Subject, bar: Progress) -> str:
        """Return why the model cannot be steered or its text not be judged; "" where both can."""
        lm = model_of([subject])
        some = [e.text for e in texts.test[:MOST_TEXTS]]
        rows = padded(some, lm, Shape(min(64, lm.n_ctx_max), lm.tokenizer.bos_id))
        special = subject.rule.special_ids
        loss = float(edits.losses(lm, rows, None, special, self.batch_rows, bar).nanmean())
        if not loss < math.log(lm.vocab_size):
            return (
                f"the model writes no text: its loss on labelled texts is {loss:.2f} nats/token, "
                f"that of guessing among {lm.vocab_size:,} tokens {math.log(lm.vocab_size):.2f}"
            )
        labels = torch.tensor([e.label for e in texts.test])
        right, n = float((judged == labels).double().mean()), len(labels)
        commonest = float(torch.bincount(labels).max()) / n
        if wilson(right, n)[0] <= commonest:
            return (
                f"the judge is right on {right:.0%} of {n} held-out texts, and the commonest class "
                f"is {commonest:.0%} of them"
            )
        return ""

    def _how(self, seed: int, part: str) -> tuple[int, float, int]:
        return self.n_new, self.temperature, derive(seed, "steering", part)

    def _measured(
        self,
        subject: Subject,
        mine: dict[str, tuple[_Task, Read]],
        seed: int,
        more: tuple[dict[Any, Any], Progress],
    ) -> tuple[dict[str, Score], dict[str, Any]]:
        shared, bar = more
        placed = Placed.of(subject)
        draws = statistics.drawn(self.n_prompts, self.n_draws, seed)
        scores: dict[str, Score] = {}
        details: dict[str, Any] = {}
        drawn: dict[str, list[Tensor]] = {kind: [] for kind in SAID}
        costs: dict[str, list[Tensor]] = {kind: [] for kind in SAID}
        reached: list[float] = []
        for name, (task, read) in mine.items():
            scores[f"{name}/judge_accuracy"] = _accuracy(task)
            classes: dict[str, Any] = {}
            for c, said in enumerate(task.texts.classes):
                labels = torch.tensor([e.label for e in task.texts.train]) == c
                held = dictionaries.held(read.x, read.own, labels)
                reached += [] if held is None else [held]
                if task.why:
                    continue
                adds = self._adds(placed, (task, c, read, labels), seed, bar)
                arms: dict[str, _Arm] = {}
                for kind, (known, add) in adds.items():
                    key = (name, c, known)
                    if known is None:
                        arms[kind] = self._arm(task, c, add, seed)
                    else:
                        if key not in shared:
                            shared[key] = self._arm(task, c, add, seed)
                        arms[kind] = shared[key]
                chance = generator(seed, "steering", "alike", name, c)
                plain = resampling.rates(task.plain["test"].judged == c, draws, chance)
                head = f"{name}, {said}"
                scores[f"{name}/{said}/unsteered"] = scored(
                    plain, self.n_prompts, unit=UNIT, label=f"{head}: judged so, nothing added"
                )
                for kind, arm in arms.items():
                    rate = resampling.rates(arm.said.judged == c, draws, chance)
                    scores[f"{name}/{said}/{kind}success"] = scored(
                        rate, self.n_prompts, unit=UNIT, label=f"{head}: judged so, {SAID[kind]}"
                    )
                    drawn[kind].append(rate - plain)
                    rise = arm.said.loss - task.plain["test"].loss
                    costs[kind].append(draws.weights @ rise / draws.weights.sum(1))
                classes[said] = {
                    kind.rstrip("_") or "latent": {
                        "strength": arm.strength, "validation": arm.tried, "texts": arm.said.texts,
                    }
                    for kind, arm in arms.items()
                }  # fmt: skip
            details[name] = _said(task) | {"classes": classes}
        why = "; ".join(f"{name}: {task.why}" for name, (task, _) in mine.items() if task.why)
        for kind in SAID:
            better = "neither" if kind else "higher"
            scores |= self._mean(f"{kind}steering", drawn[kind], UNIT, why, better)
            scores |= self._mean(f"{kind}cost", costs[kind], "nats/token", why, "neither")
        scores["reach"] = resampling.exact(
            mean(reached) if reached else None, sum(len(t.texts.train) for t, _ in mine.values()),
            unit="ratio", better="higher",
            label="share of the difference of class means that latents hold",
        )  # fmt: skip
        return scores, details

    def _mean(
        self, name: str, each: list[Tensor], unit: str, why: str, better: Better
    ) -> dict[str, Score]:
        kind = name.removesuffix("steering").removesuffix("cost")
        what = "rise of the share judged of the class" if "steering" in name else (
            "rise of the loss on what is written"
        )  # fmt: skip
        label = f"{SAID[kind]}: {what}"
        if not each:
            why = why or "no latent is tied to a class"
            return {name: resampling.undefined(why, 0, unit=unit, label=label)}
        found = torch.stack(each).mean(0)
        return {
            name: scored(found, self.n_prompts, unit=unit, label=label, better=better, reason=why)
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

    def _arm(self, task: _Task, c: int, add: Add, seed: int) -> _Arm:
        """Choose a strength on validation prompts and write with it after the test prompts."""
        tried, best, success = [], 0.0, -1.0
        for strength in sorted(self.strengths):
            said = writing.written(
                task.judge, task.prompts["validation"], add(strength), self._how(seed, "validation")
            )
            rate = float((said.judged == c).double().mean())
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


def _accuracy(task: _Task) -> Score:
    labels = torch.tensor([e.label for e in task.texts.test])
    hits, n = (task.judged == labels).double(), len(labels)
    low, high = wilson(float(hits.mean()), n)
    return Score(
        value=float(hits.mean()), low=low, high=high, n=n, unit="share of texts", better="neither",
        label=f"{task.name}: accuracy of the judge on held-out labelled texts",
    )  # fmt: skip


def _said(task: _Task) -> dict[str, Any]:
    labels = torch.tensor([e.label for e in task.texts.test])
    return {
        "provenance": task.texts.provenance,
        "sha256": task.texts.sha256,
        "judge_site": str(task.judge.site),
        "commonest_share": int(torch.bincount(labels).max()) / len(labels),
        "unsteered": task.plain["test"].texts if task.plain else [],
        "unsteered_loss": float(task.plain["test"].loss.mean()) if task.plain else None,
        "why_not": task.why,
    }
