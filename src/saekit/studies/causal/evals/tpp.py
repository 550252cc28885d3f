"""Targeted probe perturbation: does taking out the latents of one class hurt its probe alone?"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.core.config import setting
from saekit.core.result import Result, Score
from saekit.core.seeds import derive, generator
from saekit.core.stats.resamples import scored
from saekit.data.labelled.base import Labelled, Source, name_of, open_task
from saekit.evals.base import SharedEval, Subject, Tools, registry
from saekit.studies.causal import dictionaries, reading, resampling
from saekit.studies.causal.dictionaries import Dictionary
from saekit.studies.causal.reading import Read
from saekit.studies.faithful.coding import model_of
from saekit.studies.faithful.probing import logistic, statistics
from saekit.studies.faithful.probing.logistic import Linear
from saekit.studies.faithful.probing.statistics import Draws
from saekit.studies.faithful.sequences import shape_for

LEAST_CLASSES = 3  # of two the probes are one probe and its opposite: both fall alike
SAID = {
    "tpp": "the SAE's latents",
    "random_tpp": "random latents of like frequency",
    "untrained_tpp": "latents of an untrained SAE",
    "pca_tpp": "principal components",
}


class _Task(NamedTuple):
    """A task, and what probes of its classes know."""

    name: str
    texts: Labelled
    member: Bool[Tensor, "n classes"]  # of all texts, train first
    probes: list[Linear]
    draws: Draws  # of test texts
    seed: int

    @property
    def train(self) -> slice:
        return slice(0, len(self.texts.train))

    @property
    def test(self) -> slice:
        return slice(len(self.texts.train), None)


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class TPP(SharedEval):
    """Latents of a class are set to 0: how much further its own probe falls than those of others.

    A text is the mean activation over its tokens; each class has a linear probe of it against the
    other classes. The N latents most tied to a class (mean difference of activation times the
    probe's weight along the direction) are taken out, with what the SAE fails to reconstruct left
    in place. ``TASK/tpp_N`` is the fall of balanced accuracy of the class's own probe less the mean
    fall of the others, as a mean over classes. In the same result: as many random latents of like
    frequency, an untrained SAE as wide and as sparse, and principal components, chosen alike.

    `reach` is how much of the difference of class means the latents hold: what they do not hold
    they cannot take out. It alone has a direction. The field's audit of this score found that
    it gets worse as SAEs get better, so no SAE is called better by it.

    Args:
        tasks: names (`saekit list tasks`) or files of one's own, of three classes or more.
        source: where named tasks are read from, as of `probing`.
        latents: numbers of latents that are taken out; those above the SAE's width are left out.
        n_train: the most texts to train probes and choose latents on.
        n_test: the most to test on.
        folds: of the cross-validation of the probes' penalty.
        n_random: draws of random latents; their mean stands in the result.
        n_ctx: tokens of a text, longer ones are cut; 0: those of the SAE's rows.
        n_draws: resamples of test texts for the intervals.
        batch_rows: the most texts of a forward pass.

    Raises:
        ConfigError: a number is out of range, a task is named twice, or the SAE predicts another
            site than it reads.

    Cost:
        Each text to the site once; a probe a class.

    Reads:
        Labelled texts; of the held-out rows only how they are made.

    Source:
        Karvonen et al. 2025, arXiv:2503.09532 (TPP).
        Differs: balanced accuracy over all test texts in place of balanced samples; latents that do
        nothing for the probe are never taken out; floors; intervals.
    """

    name: ClassVar[str] = "tpp"
    version: ClassVar[int] = 2  # intervals
    needs: ClassVar[frozenset[str]] = frozenset({"lm"})
    one_site: ClassVar[bool] = True
    headline: ClassVar[tuple[str, ...]] = ("*/tpp_20", "*/reach")
    ranks: ClassVar[bool] = False

    tasks: tuple[str, ...] = ("ag_news",)
    source: Source = "auto"
    latents: tuple[int, ...] = setting((2, 5, 10, 20, 50, 100, 500), least=1)
    n_train: int = setting(1000, least=10)
    n_test: int = setting(1000, least=1)
    folds: int = setting(4, least=2)
    n_random: int = setting(3, least=1)
    n_ctx: int = setting(0, least=0)
    n_draws: int = setting(1000, least=0)
    batch_rows: int = setting(16, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [name_of(word) for word in self.tasks]
        reading.check_named("tasks", names, "latents", self.latents)

    @classmethod
    @override
    def example(cls) -> "TPP":
        return cls(
            tasks=("python_modules",),
            latents=(2, 20),
            n_train=120,
            n_test=80,
            folds=2,
            n_random=1,
            n_draws=20,
        )

    @override
    def cautions(self, subject: Subject) -> tuple[str, ...]:
        return reading.too_narrow(subject, max(self.latents))

    @override
    def run_checked(self, subjects: Sequence[Subject], tools: Tools) -> list[Result]:
        logistic.check()
        began = time.monotonic()
        lm = model_of(subjects)
        shape = shape_for(lm, tools, self.n_ctx)
        scores: list[dict[str, Score]] = [{} for _ in subjects]
        details: list[dict[str, Any]] = [{} for _ in subjects]
        for word in self.tasks:
            texts = open_task(word, self.source).read().first(self.n_train, self.n_test)
            every = [e.text for e in (*texts.train, *texts.test)]
            reads = reading.read_texts(subjects, every, shape, tools, self.batch_rows)
            known: dict[Any, _Task] = {}
            for i, (subject, read) in enumerate(zip(subjects, reads, strict=True)):
                key = (subject.read, subject.rule)
                if key not in known:
                    known[key] = self._task(name_of(word), texts, read, tools.seed)
                found, more = self._scores(known[key], read)
                scores[i] |= found
                details[i][known[key].name] = more
        results = []
        for subject, mine, tasks in zip(subjects, scores, details, strict=True):
            notes = [f"{word}: {n}" for word, t in tasks.items() for n in t["provenance"]["notes"]]
            found = mine, {"n_ctx": shape.n_ctx, "tasks": tasks}
            results.append(reading.result_of(self, subject, found, notes, tools.seed, began))
        return results

    def _task(self, name: str, texts: Labelled, read: Read, seed: int) -> _Task:
        labels = torch.tensor([e.label for e in (*texts.train, *texts.test)])
        member = torch.nn.functional.one_hot(labels, len(texts.classes)).bool()
        n = len(texts.train)
        probes = [
            logistic.linear(
                read.x[:n], member[:n, c], folds=self.folds, seed=derive(seed, "tpp", name, c)
            )
            for c in range(member.shape[1])
        ]
        draws = statistics.drawn(len(texts.test), self.n_draws, seed)
        return _Task(name, texts, member, probes, draws, seed)

    def _scores(self, task: _Task, read: Read) -> tuple[dict[str, Score], dict[str, Any]]:
        numbers = tuple(n for n in sorted(set(self.latents)) if n <= read.own.codes.shape[1])
        n_test, classes = len(task.texts.test), task.texts.classes
        test = task.member[task.test]
        before = torch.stack(
            [
                resampling.right(p.logits(read.x[task.test]), test[:, c], task.draws)
                for c, p in enumerate(task.probes)
            ],
            dim=1,
        )
        chosen = self._chosen(task, read.own, max(numbers, default=0))
        of = {"tpp": self._curve(task, read.x, read.own, chosen, numbers)}
        drawn = []
        for i in range(self.n_random):
            random = [
                dictionaries.alike(
                    read.own.of(task.train).frequency,
                    latents,
                    generator(task.seed, "tpp", "random", task.name, c, i),
                )
                for c, latents in enumerate(chosen)
            ]
            drawn.append(self._curve(task, read.x, read.own, random, numbers))
        of["random_tpp"] = {n: torch.stack([d[n] for d in drawn]).mean(0) for n in numbers}
        pca = dictionaries.components(read.x, task.train)
        for name, one in (("untrained_tpp", read.untrained), ("pca_tpp", pca)):
            best = self._chosen(task, one, max(numbers, default=0))
            of[name] = self._curve(task, read.x, one, best, numbers)
        scores: dict[str, Score] = {}
        for name, curve in of.items():
            for n, after in curve.items():
                label = f"{task.name}, {n} of {SAID[name]} taken out: own probe's fall less others'"
                scores[f"{task.name}/{name}_{n}"] = self._score(before, after, n_test, label)
        held = [
            dictionaries.held(
                read.x[task.train], read.own.of(task.train), task.member[task.train, c]
            )
            for c in range(len(classes))
        ]
        known = [h for h in held if h is not None]
        scores[f"{task.name}/reach"] = resampling.exact(
            sum(known) / len(known) if known else None,
            len(task.texts.train),
            unit="ratio",
            label=f"{task.name}: share of the difference of class means that latents hold",
            better="higher",
        )
        details = {
            "provenance": task.texts.provenance,
            "sha256": task.texts.sha256,
            "classes": list(classes),
            "n_train": len(task.texts.train),
            "n_test": n_test,
            "accuracy": before[0].tolist(),
            "converged": [p.converged for p in task.probes],
            "latents": {c: latents.tolist() for c, latents in zip(classes, chosen, strict=True)},
            "accuracy_without": {
                str(n): after[0].tolist() for n, after in of["tpp"].items()
            },  # [class whose latents went, probe]
        }
        return scores, details

    def _chosen(self, task: _Task, one: Dictionary, most: int) -> list[Int[Tensor, "k"]]:
        """Return the directions tied most to each class, on train."""
        return [
            dictionaries.tied(one.of(task.train), task.member[task.train, c], probe, most)
            for c, probe in enumerate(task.probes)
        ]

    def _curve(
        self,
        task: _Task,
        x: Tensor,
        one: Dictionary,
        chosen: Sequence[Tensor],
        numbers: tuple[int, ...],
    ) -> dict[int, Float[Tensor, "n_draws_and_one classes probes"]]:
        """Return the accuracy of every probe without the first so many latents of each class."""
        test, found = task.member[task.test], {n: [] for n in numbers}
        for latents in chosen:
            logits = dictionaries.without(
                task.probes, x[task.test], one.of(task.test), latents, numbers
            )
            for n, values in logits.items():
                probes = [
                    resampling.right(values[:, c], test[:, c], task.draws)
                    for c in range(len(task.probes))
                ]
                found[n].append(torch.stack(probes, dim=1))
        return {n: torch.stack(rows, dim=1) for n, rows in found.items()}

    def _score(self, before: Tensor, after: Tensor, n: int, label: str) -> Score:
        """Return the fall of a class's own probe less the mean fall of the others."""
        k, unit = before.shape[1], "balanced accuracy"
        if k < LEAST_CLASSES:
            why = f"{k} classes have one probe and its opposite, which fall alike; take a task of 3"
            return resampling.undefined(why, n, unit=unit, label=label)
        fell = before[:, None, :] - after
        own = fell.diagonal(dim1=1, dim2=2)
        others = (fell.sum(2) - own) / (k - 1)
        # A text of a class is one of 2 n such outcomes: it moves the mean by 1 / (2 n), if all
        # classes have as many texts.
        return scored(
            (own - others).mean(1), n, unit=unit, label=label, span=(-1.0, 1.0), trials=2 * n
        )
