"""Probing: how well classes of labelled texts can be told from an SAE's codes."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, final

import torch
from torch import Tensor
from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import ConfigError, DataError
from saekit.core.result import Result, Score
from saekit.core.seeds import derive
from saekit.core.stats.resamples import scored
from saekit.data.labelled.base import Labelled, Source, name_of, open_task
from saekit.evals.base import SharedEval, Subject, Tools, made_from, registry
from saekit.saes.base import SAE
from saekit.studies.faithful.coding import model_of
from saekit.studies.faithful.lists import written
from saekit.studies.faithful.probing import logistic, statistics
from saekit.studies.faithful.probing.features import Features, check_memory, padded, with_floors
from saekit.studies.faithful.probing.logistic import Probe
from saekit.studies.faithful.probing.statistics import LABELS, METRICS, UNITS, Draws
from saekit.studies.faithful.sequences import Shape, shape_for

UNTRAINED = "untrained"
PAIRS = (("sae", "baseline"), ("recon", "baseline"), ("sae", UNTRAINED))
COMPARED = ("baseline", "sae", "recon", UNTRAINED)
SAID = {
    "baseline": "raw activation",
    "sae": "SAE codes",
    "recon": "reconstruction",
    UNTRAINED: "codes of an untrained SAE",
    "pca": "principal components",
}


class _Read(NamedTuple):
    """A task with what probes read of it."""

    task: Labelled
    train: Features
    test: Features
    floor: SAE  # an untrained one
    floor_train: Tensor  # its codes
    floor_test: Tensor


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Probing(SharedEval):
    """How well classes of labelled texts are told from activations, codes and reconstructions.

    A text becomes one vector: the mean over its tokens, or its last token. Columns are
    standardised on train; a logistic regression with an L2 penalty, chosen by cross-validation on
    train, is fitted; accuracy and macro F1 are those on test. ``TASK/sae_K_accuracy`` is of the
    K latents that differ most between classes (F ratio, on train). Each number stands next to what
    it is worth: the class that is commonest in train (`majority`), the raw activation
    (`baseline`), an untrained SAE as wide and as sparse (`untrained`), and for K latents the best
    K principal components of the activation. Codes of random directions can be probed too, the
    better the more there are, so that the accuracy of all codes is good where it is above that of
    the untrained SAE, and ranks nothing by itself. Of K latents higher is better. A probe that
    never predicts a class says so.

    Intervals are over test texts, the same resamples for all probes of a task. Each SAE has a
    result of its own; `compare` there sets two next to each other text by text.

    Args:
        tasks: names (`saekit list tasks`), or files of one's own with text and label.
        source: where named tasks are read from: "hub", "packaged", or "auto": the hub where it
            can be reached. Which it was stands in the result.
        pooling: mean over the tokens that the SAE's rules keep, or the last of them.
        n_train: the most texts to train on.
        n_test: the most to test on.
        sparse: numbers of latents for sparse probing.
        folds: of the cross-validation.
        n_ctx: tokens of a text, longer ones are cut; 0: those of the SAE's rows.
        n_draws: resamples for the intervals.
        batch_rows: the most texts of a forward pass.

    Raises:
        ConfigError: a number is out of range, a task is named twice, or the model reads no such
            texts.

    Cost:
        Each text to the site once; 4 probes a task, and 3 for each entry of `sparse`.

    Reads:
        Labelled texts; of the held-out rows only how they are made.

    Source:
        FaithfulSAE, arXiv:2506.17673 (SAE probing); Kantamneni et al. 2025, arXiv:2502.16681.
        Differs: masked pooling, standardised, penalty by cross-validation, floors, intervals.
    """

    name: ClassVar[str] = "probing"
    version: ClassVar[int] = 3  # intervals
    needs: ClassVar[frozenset[str]] = frozenset({"lm"})
    headline: ClassVar[tuple[str, ...]] = ("*/sae_accuracy", "*/sae_5_accuracy")

    tasks: tuple[str, ...] = ("sst2", "cola", "ag_news", "yelp_polarity")
    source: Source = "auto"
    pooling: Literal["mean", "last"] = "mean"
    n_train: int = setting(1000, least=10)
    n_test: int = setting(1000, least=1)
    sparse: tuple[int, ...] = setting((1, 2, 5, 16), least=1)
    folds: int = setting(4, least=2)
    n_ctx: int = setting(0, least=0)
    n_draws: int = setting(1000, least=0)
    batch_rows: int = setting(16, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [name_of(word) for word in self.tasks]
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                f"`tasks` has at least one task, and names that differ, those of files their "
                f"stems; got {', '.join(names) or 'none'}. Leave one out, or rename a file."
            )

    @classmethod
    @override
    def example(cls) -> "Probing":
        return cls(
            tasks=("code_or_prose",), n_train=300, n_test=300, sparse=(4,), folds=2, n_draws=20
        )

    @override
    def run_checked(self, subjects: Sequence[Subject], tools: Tools) -> list[Result]:
        logistic.check()
        began = time.monotonic()
        shape = shape_for(model_of(subjects), tools, self.n_ctx)
        scores: list[dict[str, Score]] = [{} for _ in subjects]
        details: list[dict[str, Any]] = [{} for _ in subjects]
        shared: dict[Any, Probe] = {}
        for word in self.tasks:
            name = name_of(word)
            task = open_task(word, self.source).read().first(self.n_train, self.n_test)
            _check_cut(word, task, self.folds)
            check_memory(subjects, len(task.train) + len(task.test), len(task.test) * self.n_draws)
            draws = statistics.drawn(len(task.test), self.n_draws, tools.seed)
            for i, read in enumerate(self._read(subjects, task, shape, tools)):
                seed = derive(tools.seed, "probing", name)
                key = (name, subjects[i].read, subjects[i].rule, subjects[i].write_rule)
                found, probes = self._probed(read, seed, (shared, key))
                scores[i] |= self._scores(name, task, found, draws)
                details[i][name] = _details(task, read, probes, found)
        results = []
        for subject, mine, tasks in zip(subjects, scores, details, strict=True):
            notes = [n for word, task in tasks.items() for n in _notes(word, task)]
            made = made_from(subject, tools.seed, began) | {"notes": notes}
            rest = {"seed": tools.seed, "n_ctx": shape.n_ctx, "notes": notes, "tasks": tasks}
            results.append(self.result(mine, rest, made))
        return results

    def _read(
        self, subjects: Sequence[Subject], task: Labelled, shape: Shape, tools: Tools
    ) -> list[_Read]:
        """Return what probes of each SAE read of a task: one pass for all SAEs and floors."""
        texts = [e.text for e in (*task.train, *task.test)]
        rows = padded(texts, model_of(subjects), shape)
        each = with_floors(
            subjects, rows, self.pooling, tools, batch_rows=self.batch_rows, name=self.name
        )
        n, found = len(task.train), []
        for own, made, floor in each:
            train, test = (Features(*(f[part] for f in own)) for part in (slice(n), slice(n, None)))
            found.append(_Read(task, train, test, made.sae, floor.sae[:n], floor.sae[n:]))
        return found

    def _probed(
        self, read: _Read, seed: int, known: tuple[dict[Any, Probe], Any]
    ) -> tuple[dict[str, Tensor], dict[str, Probe]]:
        """Return predictions and probes by name; those of what SAEs share are fitted once."""
        shared, key = known
        labels = torch.tensor([e.label for e in read.task.train])
        n_classes = len(read.task.classes)

        def fit(train: Tensor, test: Tensor, k: int | None = None) -> Probe:
            return logistic.probe(
                train, labels, test, n_classes=n_classes, folds=self.folds, seed=seed, k=k
            )

        def once(name: Any, train: Tensor, test: Tensor, k: int | None = None) -> Probe:
            if (key, name) not in shared:
                shared[key, name] = fit(train, test, k)
            return shared[key, name]

        raw = read.train.baseline, read.test.baseline
        floor = read.floor_train, read.floor_test
        probes = {
            "baseline": once("baseline", *raw),
            "sae": fit(read.train.sae, read.test.sae),
            "recon": fit(read.train.recon, read.test.recon),
            UNTRAINED: once(read.floor, *floor),
        }
        parts = logistic.principal(*raw) if self.sparse else raw
        for k in self.sparse:
            probes[f"sae_{k}"] = fit(read.train.sae, read.test.sae, k)
            probes[f"{UNTRAINED}_{k}"] = once((read.floor, k), *floor, k)
            probes[f"pca_{k}"] = once(f"pca_{k}", *parts, k)
        commonest = int(torch.bincount(labels).argmax())
        majority = torch.full((len(read.task.test),), commonest)
        return {n: p.predicted for n, p in probes.items()} | {"majority": majority}, probes

    def _scores(
        self, word: str, task: Labelled, found: dict[str, Tensor], draws: Draws
    ) -> dict[str, Score]:
        labels = torch.tensor([e.label for e in task.test])
        n, out = len(labels), {}
        for metric in METRICS:
            of = {f: statistics.values(p, labels, metric, draws) for f, p in found.items()}
            for feature, values in of.items():
                if metric == "f1" and "_" in feature:
                    continue  # of sparse probes the accuracy is enough to read
                missing = [] if feature == "majority" else _missing(found[feature], task)
                out[f"{word}/{feature}_{metric}"] = scored(
                    values,
                    n,
                    unit=UNITS[metric],
                    label=f"{word}, {_said(feature)}: {LABELS[metric]}",
                    span=(0.0, 1.0),
                    better="higher" if feature == "recon" or feature[:4] == "sae_" else "neither",
                    reason=f"never predicts {', '.join(missing)}" if missing else "",
                )
        of = {f: statistics.values(found[f], labels, "accuracy", draws) for f in COMPARED}
        for feature, floor in PAIRS:
            label = f"{word}, {_said(feature)} less {_said(floor)}: accuracy"
            out[f"{word}/{feature}_less_{floor}"] = scored(
                of[feature] - of[floor], n, unit=UNITS["accuracy"], label=label, span=(-1.0, 1.0)
            )
        return out


def _check_cut(word: str, task: Labelled, folds: int) -> None:
    """Refuse, before any pass, a beginning of the examples that no probe can learn from."""
    train = Counter(e.label for e in task.train)
    few = [i for i in sorted(set(train) | {e.label for e in task.test}) if train[i] < folds]
    if few or len(train) < 2:  # noqa: PLR2004 - of one class there is nothing to tell
        named = ", ".join(f"{task.classes[i]} {train[i]}" for i in few or train)
        raise DataError(
            f"The {len(task.train)} train texts of {word} that are used have too few of a class "
            f"({named}): at least {folds} of each are needed, for as many folds. Raise n_train, "
            f"give more labelled text, or lower folds."
        )


def _said(feature: str) -> str:
    if feature == "majority":
        return "commonest class"
    name, _, k = feature.partition("_")
    return f"{SAID[name]}, best {k}" if k else SAID[name]


def _missing(predicted: Tensor, task: Labelled) -> list[str]:
    """Return the classes of the test texts that are never predicted."""
    there = sorted({e.label for e in task.test} - set(predicted.tolist()))
    return [task.classes[i] for i in there]


def _details(
    task: Labelled, read: _Read, probes: dict[str, Probe], found: dict[str, Tensor]
) -> dict[str, Any]:
    """Return what lies behind the scores of a task, JSON-ready."""
    return {
        "provenance": task.provenance,
        "sha256": task.sha256,
        "classes": list(task.classes),
        "n_train": len(task.train),
        "n_test": len(task.test),
        "labels": written(e.label for e in task.test),
        "majority_class": task.classes[int(found["majority"][0])],
        "without_tokens": int((torch.cat([read.train.tokens, read.test.tokens]) == 0).sum()),
        "probes": {
            name: {
                "c": probe.c,
                "converged": probe.converged,
                "columns": probe.columns,
                "counts": logistic.counts(probe.predicted, task.classes),
                "degenerate": bool(_missing(probe.predicted, task)),
                "predicted": written(probe.predicted.tolist()),
            }
            for name, probe in probes.items()
        },
    }


def _notes(word: str, task: dict[str, Any]) -> list[str]:
    """Return what a reader of the numbers of a task must know."""
    found = [f"{word}: {note}" for note in task["provenance"]["notes"]]
    if named := [_said(n) for n, probe in task["probes"].items() if probe["degenerate"]]:
        found.append(f"{word}: a class is never predicted from: {'; '.join(named)}")
    if named := [_said(n) for n, probe in task["probes"].items() if not probe["converged"]]:
        found.append(f"{word}: the fit did not converge of: {'; '.join(named)}")
    if task["without_tokens"]:
        found.append(f"{word}: {task['without_tokens']} texts have no token that the SAE reads")
    return found
