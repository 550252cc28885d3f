"""Probing: bars of accuracy or macro F1 a task, with the commonest class and the raw activation."""

from collections.abc import Mapping
from pathlib import Path

from saekit.core.result import Result, Table
from saekit.report import style
from saekit.studies.faithful.probing.statistics import LABELS, Metric

COLUMNS = ("sae", "task", "source", "probe", "value", "low", "high", "n_test", "degenerate")
LINES = {"baseline": "-", "majority": ":", "untrained": "--"}


def table(results: Mapping[str, Result], metric: Metric = "accuracy") -> Table:
    """Return a row an SAE, task and probe.

    Args:
        results: of `probing`, by name of the SAE.
        metric: which.
    """
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    for sae, result in results.items():
        for task, found in result.details["tasks"].items():
            for probe in (*found["probes"], "majority"):
                score = result.scores.get(f"{task}/{probe}_{metric}")
                if score is None:  # sparse probes have an accuracy alone
                    continue
                flat = found["probes"].get(probe, {"degenerate": False})["degenerate"]
                source = found["provenance"]["source"]
                line = (sae, task, source, probe, score.value, score.low, score.high, score.n, flat)
                for name, value in zip(COLUMNS, line, strict=True):
                    columns[name].append(value)
    return Table(columns=columns)


def draw(results: Mapping[str, Result], path: Path, metric: Metric = "accuracy") -> None:
    """Draw codes and, lighter, reconstruction of each SAE as bars; floors and ceiling as lines.

    The lines are those of the first SAE: the raw activation, the commonest class, and an untrained
    SAE. A hatched bar is of a probe that never predicts some class.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = table(results, metric)
    rows = drawn.rows()
    tasks = list(dict.fromkeys(drawn.columns["task"]))
    bars = [(sae, probe) for sae in results for probe in ("sae", "recon")]
    width = 0.8 / max(len(bars), 1)
    figure, axes = style.new(2.4 + (0.9 + 0.25 * len(bars)) * max(len(tasks), 2), 3.8)
    at = axes[0][0]
    for i, (sae, probe) in enumerate(bars):
        mine = [r for r in rows if r["sae"] == sae and r["probe"] == probe]
        x = [tasks.index(r["task"]) + (i - (len(bars) - 1) / 2) * width for r in mine]
        said, alpha = ("codes", 1.0) if probe == "sae" else ("reconstruction", 0.45)
        colour = style.COLOURS[list(results).index(sae) % len(style.COLOURS)]
        drawn_bars = at.bar(
            x,
            [r["value"] for r in mine],
            0.9 * width,
            label=f"{sae}, {said}",
            color=colour,
            alpha=alpha,
        )
        for bar, r in zip(drawn_bars, mine, strict=True):
            bar.set_hatch("//" if r["degenerate"] else "")
        known = [(a, r) for a, r in zip(x, mine, strict=True) if r["low"] is not None]
        if known:
            ends = [[r["value"] - r["low"] for _, r in known]]
            ends.append([r["high"] - r["value"] for _, r in known])
            at.errorbar(
                [a for a, _ in known],
                [r["value"] for _, r in known],
                yerr=ends,
                fmt="none",
                ecolor="black",
                capsize=2,
                linewidth=0.8,
            )
    first = next(iter(results), None)
    said = {
        "baseline": "raw activation",
        "majority": "commonest class",
        "untrained": "untrained SAE",
    }
    for name, line in LINES.items():
        mine = [r for r in rows if r["sae"] == first and r["probe"] == name]
        x = [tasks.index(r["task"]) for r in mine]
        at.hlines(
            [r["value"] for r in mine],
            [a - 0.45 for a in x],
            [a + 0.45 for a in x],
            color="black",
            linestyle=line,
            linewidth=1.1,
            label=said[name],
        )
    sources = {r["task"]: r["source"] for r in rows}
    at.set(ylabel=LABELS[metric], ylim=(0, 1), xticks=range(len(tasks)))
    at.set_xticklabels([f"{task}\n({sources[task]})" for task in tasks])
    at.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    style.save(figure, path, drawn)
