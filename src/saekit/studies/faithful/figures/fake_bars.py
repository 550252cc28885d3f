"""Fake features: a group of bars a noise, a bar an SAE, with intervals and the floor."""

from collections.abc import Mapping
from pathlib import Path

from saekit.core.result import Result, Table
from saekit.report import style

WHAT = {"fake": "fires on noise", "excess": "fires on noise, not dense on text"}
COLUMNS = ("sae", "noise", "what", "share", "low", "high", "untrained", "n")


def table(results: Mapping[str, Result]) -> Table:
    """Return a row an SAE, noise and kind: the share of latents, its interval and the floor's.

    Args:
        results: of `fake_features`, by name of the SAE.
    """
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    for sae, result in results.items():
        for noise in result.details["noises"]:
            for what in WHAT:
                score = result.scores[f"{noise}/{what}"]
                floor = result.scores[f"{noise}/{what}_untrained"].value
                line = (sae, noise, what, score.value, score.low, score.high, floor, score.n)
                for name, value in zip(COLUMNS, line, strict=True):
                    columns[name].append(value)
    return Table(columns=columns, units=dict.fromkeys(COLUMNS[3:7], "share of latents"))


def draw(results: Mapping[str, Result], path: Path) -> None:
    """Draw both kinds one above the other; a short black line is the untrained SAE.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = table(results)
    noises = list(dict.fromkeys(drawn.columns["noise"]))
    width = 0.8 / max(len(results), 1)
    figure, axes = style.new(2.2 + 1.1 * max(len(noises), 2), 5.2, rows=len(WHAT), sharex=True)
    for at, (what, title) in zip(axes[:, 0], WHAT.items(), strict=True):
        for i, sae in enumerate(results):
            mine = [r for r in drawn.rows() if r["sae"] == sae and r["what"] == what]
            x = [noises.index(r["noise"]) + (i - (len(results) - 1) / 2) * width for r in mine]
            y = [r["share"] for r in mine]
            colour = style.COLOURS[i % len(style.COLOURS)]
            at.bar(x, y, 0.9 * width, color=colour, label=sae)
            known = [(a, r) for a, r in zip(x, mine, strict=True) if r["low"] is not None]
            if known:
                ends = [[r["share"] - r["low"] for _, r in known]]
                ends.append([r["high"] - r["share"] for _, r in known])
                at.errorbar(
                    [a for a, _ in known],
                    [r["share"] for _, r in known],
                    yerr=ends,
                    fmt="none",
                    ecolor="black",
                    capsize=2,
                    linewidth=0.8,
                )
            half = 0.45 * width
            floors = [r["untrained"] for r in mine]
            at.hlines(floors, [a - half for a in x], [a + half for a in x], color="black")
        at.set(ylabel="share of latents", xticks=range(len(noises)))
        at.set_xticklabels([name.replace("_", " ") for name in noises])
        at.set_title(f"{title} (line: untrained SAE)", fontsize=9)
        at.set_ylim(bottom=0)
    axes[0][0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    style.save(figure, path, drawn)
