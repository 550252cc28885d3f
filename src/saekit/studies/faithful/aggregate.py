"""Aggregate: results of SAEs over models, data sets and tasks, compared cell by cell."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from saekit.core.errors import ConfigError, DataError
from saekit.core.files import read_object
from saekit.core.result import Table
from saekit.core.seeds import generator
from saekit.core.stats.plain import mean
from saekit.core.stats.resamples import percentiles
from saekit.studies.faithful.names import parse_pair, same_model

OWN = "faithful"  # data sets that a model wrote, whichever they are called
KIND = "saekit faithful cells"
RESAMPLES = 10_000
NEAR = 1e-12  # means of equal numbers differ by a rounding
MOST = 1e300  # of a score


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Scores of the SAEs of one model and data set on one task.

    Args:
        model: which the SAEs read.
        data: name of the data set they were trained on.
        task: what was measured on.
        scores: by metric.
        written_by: the model whose own text the data is; None: no model's.
    """

    model: str
    data: str
    task: str
    scores: Mapping[str, float]
    written_by: str | None = None

    @property
    def foreign(self) -> bool:
        """Whether the SAEs were trained on the text of another model than they read."""
        return self.written_by is not None and not same_model(self.written_by, self.model)

    @property
    def arm(self) -> str:
        """What the data set is called where models are compared: own text has one name."""
        return OWN if self.data.startswith(f"{OWN}-") or self.data == OWN else self.data


@dataclass(frozen=True, kw_only=True)
class Pairwise:
    """One arm against another in the cells that both have.

    Args:
        first: an arm.
        second: the other.
        metric: what is compared.
        difference: mean of first - second.
        low: lower end of its 95 % interval, by bootstrap over cells.
        high: upper end.
        wins: cells in which the first is strictly larger.
        ties: cells in which both are equal.
        n: cells.
        p_sign: two-sided sign test; ties count for neither.
        p_bootstrap: two-sided, from resampled cells.
    """

    first: str
    second: str
    metric: str
    difference: float
    low: float
    high: float
    wins: int
    ties: int
    n: int
    p_sign: float
    p_bootstrap: float


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """What the cells say together. `print` shows it.

    Args:
        arms: that are compared.
        averages: a row an arm: mean of every metric over its cells.
        by_model: a row a model and arm.
        pairs: every arm against every other, for each metric that is compared.
        missing: cells that some arm lacks, which are left out of all of it.
        foreign: cells whose SAEs were trained on the text of another model.
        note: what was done about them.
        corrected: the same without foreign cells: the model's own text in their place where
            there is some. None: there are none.
    """

    arms: tuple[str, ...]
    averages: Table
    by_model: Table
    pairs: tuple[Pairwise, ...]
    missing: tuple[str, ...]
    foreign: tuple[str, ...]
    note: str = ""
    corrected: "Aggregate | None" = field(default=None)

    def pair(self, first: str, second: str, metric: str) -> Pairwise:
        """Return one comparison."""
        return next(
            p for p in self.pairs if (p.first, p.second, p.metric) == (first, second, metric)
        )

    def __str__(self) -> str:
        return "\n".join(said(self, list(dict.fromkeys(pair.metric for pair in self.pairs))))

    def record(self) -> dict[str, Any]:
        """Return all of it, JSON-ready."""
        return {
            "arms": list(self.arms),
            "averages": self.averages.rows(),
            "by_model": self.by_model.rows(),
            "pairs": [vars(p) for p in self.pairs],
            "missing": list(self.missing),
            "foreign": list(self.foreign),
            "note": self.note,
            "corrected": None if self.corrected is None else self.corrected.record(),
        }


def read_cells(path: Path | str) -> list[Cell]:
    """Read results: the published layout (``downstream``), or a list of cells.

    Ours is ``{"kind": "saekit faithful cells", "cells": [{"model", "data", "task", "scores",
    "written_by"}]}``; cells of one model, data set and task, as of several seeds, are averaged.

    Raises:
        DataError: the file is of neither layout, or a cell is not of names and numbers.
    """
    raw = read_object(Path(path))
    try:
        if raw.get("kind") == KIND:
            cells = [Cell(**cell) for cell in raw["cells"]]
        else:
            cells = _published(raw["downstream"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} has neither `downstream` of the published layout nor `cells` of ours: {error}."
        ) from error
    for cell in cells:
        _check(cell, Path(path))
    return _averaged(cells, Path(path))


def _check(cell: Cell, path: Path) -> None:
    names = (cell.model, cell.data, cell.task, cell.written_by or "")
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: model, data, task and written_by are names; got {names!r:.200}.")
    if not isinstance(cell.scores, dict) or not cell.scores:
        raise DataError(
            f"{path}: the scores of {_named(cell)} must be an object, a number for each name; got "
            f"{cell.scores!r:.80}."
        )
    for name, value in cell.scores.items():
        # A whole number may be beyond what a float holds.
        if type(value) not in (int, float) or not -MOST <= value <= MOST:
            raise DataError(f"{path}: {name} of {_named(cell)} is {value!r:.80}, not a number.")


def _published(downstream: Mapping[str, Any]) -> list[Cell]:
    cells = []
    for model, runs in downstream.items():
        for key, tasks in runs.items():
            first, _ = parse_pair(key)
            if first.model != model:
                raise DataError(
                    f"A run of {first.model} is listed under {model}: {key!r}. Move it to its "
                    f"model."
                )
            cells += [
                Cell(
                    model=model,
                    data=first.data,
                    task=task.rpartition("/")[2],
                    scores=scores,
                    written_by=first.written_by,
                )
                for task, scores in tasks.items()
            ]
    return cells


def _averaged(cells: Sequence[Cell], path: Path) -> list[Cell]:
    alike: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        some = alike.setdefault((cell.model, cell.data, cell.task, cell.written_by), [])
        some.append(cell)
        if set(cell.scores) != set(some[0].scores):
            both = (", ".join(sorted(one.scores)) for one in (some[0], cell))
            raise DataError(
                f"{path}: {_named(cell)} stands there twice, with {' and with '.join(both)}. Give "
                f"each the same scores."
            )
    return [
        Cell(
            model=model,
            data=data,
            task=task,
            scores={n: mean([c.scores[n] for c in some]) for n in some[0].scores},
            written_by=by,
        )
        for (model, data, task, by), some in alike.items()
    ]


def aggregate(
    cells: Sequence[Cell],
    arms: Sequence[str] | None = None,
    *,
    without: Sequence[str] = (),
    metrics: Sequence[str] = ("sae_acc", "sae_f1"),
    seed: int = 0,
) -> Aggregate:
    """Compare data sets over the models and tasks that all of them have.

    Args:
        cells: results.
        arms: data sets to compare, "faithful" for a model's own text; None: those of more than
            half the models that the most frequent one has.
        without: tasks or models to leave out.
        metrics: that are compared pair by pair; all are averaged.
        seed: of the bootstrap.

    Raises:
        ConfigError: fewer than two arms, one that no cell has, or a metric that cells lack.
        DataError: no model and task has all arms.

    Source:
        FaithfulSAE's lab notes: unweighted means over cells, strict wins. Differs: cells that an
        arm lacks are named, ties counted, and differences have a sign test and a bootstrap over
        cells (cells of one model are alike, so its intervals are rather too narrow).
    """
    there = sorted({c.task for c in cells} | {c.model for c in cells})
    if unknown := sorted(set(without) - set(there)):
        raise ConfigError(
            f"No task or model is called {', '.join(unknown)}; there are {', '.join(there)}."
        )
    used = [c for c in cells if c.task not in without and c.model not in without]
    chosen = tuple(arms) if arms is not None else _usual_arms(used)
    found = _aggregated(used, chosen, metrics, seed)
    strange = [c for c in used if c.foreign and c.arm in chosen]
    if not strange:
        return found
    replaced, note = _own_instead(used, strange)
    corrected = _aggregated(replaced, chosen, metrics, seed)
    names = tuple(f"{_named(c)}: SAEs trained on text of {c.written_by}" for c in strange)
    return Aggregate(**vars(found) | {"foreign": names, "note": note, "corrected": corrected})


def _usual_arms(cells: Sequence[Cell]) -> tuple[str, ...]:
    models: dict[str, set[str]] = {}
    for cell in cells:
        models.setdefault(cell.arm, set()).add(cell.model)
    most = max(map(len, models.values()), default=0)
    return tuple(sorted(arm for arm, some in models.items() if len(some) > most / 2))


def _own_instead(used: Sequence[Cell], strange: Sequence[Cell]) -> tuple[list[Cell], str]:
    """Return cells without foreign ones, with SAEs of the model's own text in their places."""
    own = {(c.model, c.task): c for c in used if c.written_by and not c.foreign}
    kept = [c for c in used if c not in strange]
    put = 0
    for cell in strange:
        mine = own.get((cell.model, cell.task))
        if mine is not None and mine.arm != cell.arm:
            kept.append(
                Cell(
                    model=cell.model,
                    data=f"{OWN}-{cell.model}",
                    task=cell.task,
                    scores=mine.scores,
                    written_by=mine.written_by,
                )
            )
            put += 1
    return kept, (
        f"{len(strange)} cells are of SAEs that were trained on another model's text. Without "
        f"them, {put} have SAEs of the model's own text in their places and {len(strange) - put} "
        f"are missing."
    )


def _aggregated(
    cells: Sequence[Cell], arms: tuple[str, ...], metrics: Sequence[str], seed: int
) -> Aggregate:
    table: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in cells:
        if cell.arm in arms:
            place = table.setdefault((cell.model, cell.task), {})
            if cell.arm in place:
                raise DataError(
                    f"Two results stand for {_named(cell)} as `{cell.arm}`. Leave one out of the "
                    f"file."
                )
            place[cell.arm] = cell
    known = {cell.arm for cell in cells}
    if len(set(arms)) < max(len(arms), 2) or not set(arms) <= known:
        raise ConfigError(
            f"Name two or more data sets to compare, each once, of "
            f"{', '.join(sorted(known)) or 'none that the cells have'}; got "
            f"{', '.join(arms) or 'none'}."
        )
    whole = [place for place in table.values() if set(place) == set(arms)]
    if not whole:
        raise DataError(
            f"No model and task has all of {', '.join(arms)}. Compare fewer of them: --data."
        )
    missing = tuple(
        f"{model} {task}: no {', '.join(arm for arm in arms if arm not in place)}"
        for (model, task), place in table.items()
        if set(place) != set(arms)
    )
    every = sorted(set.intersection(*(set(c.scores) for p in whole for c in p.values())))
    if absent := [m for m in metrics if m not in every]:
        raise ConfigError(f"No cell has {', '.join(absent)}; there are {', '.join(every)}.")
    models = list(dict.fromkeys(p[arms[0]].model for p in whole))

    def row(arm: str, model: str | None) -> dict[str, Any]:
        some = [p[arm].scores for p in whole if model in (None, p[arm].model)]
        return {"cells": len(some)} | {m: mean([s[m] for s in some]) for m in every}

    return Aggregate(
        arms=arms,
        averages=_table([{"data": arm} | row(arm, None) for arm in arms]),
        by_model=_table([{"model": m, "data": a} | row(a, m) for m in models for a in arms]),
        pairs=tuple(
            _compared(whole, first, second, metric, seed)
            for first in arms
            for second in arms
            if first != second
            for metric in metrics
        ),
        missing=missing,
        foreign=(),
    )


def _compared(
    whole: Sequence[Mapping[str, Cell]], first: str, second: str, metric: str, seed: int
) -> Pairwise:
    gaps = [p[first].scores[metric] - p[second].scores[metric] for p in whole]
    wins = sum(gap > NEAR for gap in gaps)
    ties = sum(abs(gap) <= NEAR for gap in gaps)
    low, high, p = bootstrap(gaps, seed)
    return Pairwise(
        first=first,
        second=second,
        metric=metric,
        difference=mean(gaps),
        low=low,
        high=high,
        wins=wins,
        ties=ties,
        n=len(gaps),
        p_sign=sign_test(wins, len(gaps) - ties),
        p_bootstrap=p,
    )


def sign_test(wins: int, n: int) -> float:
    """Return the two-sided p-value of wins among n cells that are no ties; 1 of none."""
    most = max(wins, n - wins)
    tail = sum(math.comb(n, i) for i in range(most, n + 1)) / 2**n
    return min(1.0, 2 * tail)


def bootstrap(gaps: Sequence[float], seed: int) -> tuple[float, float, float]:
    """Return the 95 % interval of a mean difference over cells, and its two-sided p-value.

    Source:
        Davison and Hinkley 1997, Bootstrap Methods and their Application, section 4.2: 1 is added
        to the count of resamples on the other side and to their number.
    """
    values = torch.tensor(gaps, dtype=torch.float64)
    chance = generator(seed, "bootstrap over cells")
    draws = torch.randint(len(values), (RESAMPLES, len(values)), generator=chance)
    means = values[draws].mean(1)
    beyond = min(int((means <= NEAR).sum()), int((means >= -NEAR).sum()))
    return *percentiles(means), min(1.0, 2 * (1 + beyond) / (RESAMPLES + 1))


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(columns={name: [row[name] for row in rows] for name in rows[0]})


def _named(cell: Cell) -> str:
    return f"{cell.model} {cell.data} {cell.task}"


def said(found: Aggregate, metrics: Sequence[str]) -> list[str]:
    """Return lines for a reader: averages, models, pairs, what is missing and what is foreign."""
    width = max(len(arm) for arm in found.arms)

    def shown(row: dict[str, Any]) -> str:
        return "  ".join(f"{row[metric]:.4f}" for metric in metrics)

    lines = [f"averages over {found.averages.columns['cells'][0]} cells: {', '.join(metrics)}"]
    lines += [f"  {row['data']:<{width}}  {shown(row)}" for row in found.averages.rows()]
    lines += ["models"]
    lines += [
        f"  {row['model']:<14} {row['data']:<{width}}  {shown(row)}"
        for row in found.by_model.rows()
    ]
    lines += ["pairs: difference [95 %], wins, p of a sign test, p of a bootstrap over cells"]
    for one in found.pairs:
        if found.arms.index(one.first) < found.arms.index(one.second):
            ties = f" ({one.ties} {'tie' if one.ties == 1 else 'ties'})" if one.ties else ""
            lines.append(
                f"  {one.first} - {one.second}, {one.metric}: {one.difference:+.4f} "
                f"[{one.low:+.4f}, {one.high:+.4f}], {one.wins}/{one.n}{ties}, "
                f"p = {one.p_sign:.2f}, p = {one.p_bootstrap:.2f}"
            )
    lines += [f"missing  {line}" for line in found.missing]
    lines += [f"FOREIGN  {line}" for line in found.foreign]
    if found.corrected is not None:
        lines += [f"note     {found.note}", "", *said(found.corrected, metrics)]
    return lines
