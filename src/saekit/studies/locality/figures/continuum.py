"""Continuum: mean H_pos of each latent, from the most local to the least."""

from collections.abc import Sequence
from pathlib import Path

import torch

from saekit.core.errors import DataError
from saekit.core.result import Table
from saekit.core.stats import plain
from saekit.core.stats.means import mean_interval
from saekit.report import style
from saekit.studies.locality.events.event_entropy import OK
from saekit.studies.locality.events.event_files import Row

LABELLED = 80  # more latents than this are not named


def table(rows: Sequence[Row], n_ctx: int) -> Table:
    """Return one row per latent in order of mean H: n, mean, std (n - 1) and 95 % interval.

    Raises:
        DataError: no event has an entropy.
    """
    found: dict[int, list[float]] = {}
    names: dict[int, str] = {}
    for row in rows:
        if row.status == OK:
            found.setdefault(row.feature_id, []).append(row.H_pos)
            names[row.feature_id] = row.description
    if not found:
        raise DataError(f"Of {len(rows)} events of length {n_ctx} none has an entropy.")
    columns: dict[str, list] = {
        c: [] for c in ("feature_id", "description", "n_events", "mean", "std", "low", "high")
    }
    for latent in plain.by_mean(found):
        values = torch.tensor(found[latent], dtype=torch.float64)
        mean, low, high = (float(v) for v in mean_interval(values, positive=True))
        std = plain.deviation(found[latent], sample=True)
        row = (latent, names[latent], len(values), mean, std, low, high)
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    return Table(columns=columns, units={c: "bits" for c in ("mean", "std", "low", "high")})


def draw(rows: Sequence[Row], n_ctx: int, path: Path, title: str = "") -> None:
    """Draw mean H_pos of every latent with an ok event, its interval and its spread.

    Raises:
        DataError: no event has an entropy.
    """
    drawn = table(rows, n_ctx)
    c = drawn.columns
    n, few = len(drawn), len(drawn) <= LABELLED
    figure, axes = style.new(6.4, 1.6 + (0.17 * n if few else 6.0))
    at, place = axes[0][0], range(n)
    std = [0.0 if s != s else s for s in c["std"]]
    at.barh(place, c["mean"], height=0.75, color=style.COLOURS[5], alpha=0.45)
    at.errorbar(c["mean"], place, xerr=std, fmt="none", ecolor="0.65", lw=0.7 if few else 0.3)
    for y, low, high in zip(place, c["low"], c["high"], strict=True):
        at.plot([low, high], [y, y], color=style.COLOURS[0], lw=2.2 if few else 0.8)
    at.plot(c["mean"], place, ".", color=style.COLOURS[0], ms=4 if few else 1.5)
    full = torch.tensor(float(n_ctx)).log2()
    at.axvline(float(full), color="0.3", ls="--", lw=0.9)
    at.text(
        float(full) * 0.99, n / 2, f"log2 {n_ctx}", fontsize=7, va="center", ha="right", rotation=90
    )
    labels = [f"{f} {d}"[:42] for f, d in zip(c["feature_id"], c["description"], strict=True)]
    at.set_yticks(list(place) if few else [], labels if few else [], fontsize=6)
    at.set(
        xlim=(0, float(full) * 1.05),
        ylim=(-0.7, n + 0.3),
        xlabel="$H_{pos}$ (bits)",
        ylabel="latent" if few else f"{n} latents, ordered by mean",
        title=f"{title}\n" * bool(title) + f"mean $H_{{pos}}$ over events, window {n_ctx} tokens",
    )
    at.title.set_fontsize(9)
    figure.supxlabel(
        f"{n} latents, {sum(c['n_events'])} events; thick: 95 % interval of the mean over "
        f"events, from 8 events on; thin: 1 std over events",
        fontsize=6.5,
        color="0.35",
    )
    style.save(figure, path, drawn)
