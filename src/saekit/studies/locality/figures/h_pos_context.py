"""H_pos against the length of the window: over all events, and over those present at each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from saekit.core.errors import DataError
from saekit.core.result import Table
from saekit.core.stats.means import mean_interval
from saekit.report import style
from saekit.studies.locality.events.event_entropy import OK
from saekit.studies.locality.events.event_files import Row

PANELS = {"all": "all events with an entropy", "every": "events with one at every length"}


def table(found: Mapping[int, Sequence[Row]]) -> Table:
    """Return the mean over events for each length and population, with a 95 % interval.

    An event may be scored at one length and not at another, where its latent is off: which
    events a mean is over changes with the length. Those of population ``every`` are the same
    at each. ``n_full`` are those whose document reaches back the whole window.

    Raises:
        DataError: no event has an entropy.
    """
    ok = {n: [r for r in rows if r.status == OK] for n, rows in found.items()}
    if not any(ok.values()):
        raise DataError("No event has an entropy at any length.")
    keys = [{(r.feature_id, r.event_idx) for r in rows} for rows in ok.values()]
    every = set.intersection(*keys)
    columns: dict[str, list] = {
        c: []
        for c in ("population", "n_ctx", "n_events", "n_latents", "n_full", "mean", "low", "high")
    }
    for name in PANELS:
        for n_ctx, rows in ok.items():
            rows = [r for r in rows if name == "all" or (r.feature_id, r.event_idx) in every]
            H = torch.tensor([r.H_pos for r in rows], dtype=torch.float64)
            latents = torch.tensor([r.feature_id for r in rows], dtype=torch.int64)
            ends = (float("nan"),) * 3
            if rows:
                ends = tuple(float(v) for v in mean_interval(H, latents, positive=True))
            n_full = sum(r.n_positions == n_ctx for r in rows)
            row = (name, n_ctx, len(rows), len(set(latents.tolist())), n_full, *ends)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    units = dict.fromkeys(("mean", "low", "high"), "bits") | {"n_ctx": "tokens"}
    return Table(columns=columns, units=units)


def draw(found: Mapping[int, Sequence[Row]], path: Path, title: str = "") -> None:
    """Draw both populations beside one another.

    Raises:
        DataError: no event has an entropy.
    """
    drawn = table(found)
    c = drawn.columns
    figure, axes = style.new(8.0, 3.6, columns=2, sharey=True)
    for at, (name, said) in zip(axes[0], PANELS.items(), strict=True):
        rows = [i for i, p in enumerate(c["population"]) if p == name]
        x = [c["n_ctx"][i] for i in rows]
        mean, low, high = ([c[k][i] for i in rows] for k in ("mean", "low", "high"))
        at.plot(x, torch.tensor(x).double().log2(), color="0.4", ls="--", lw=0.9, label="log2 N")
        at.fill_between(
            x, low, high, color=style.COLOURS[0], alpha=0.2, lw=0, label="95 % interval"
        )
        at.plot(x, mean, "o-", color=style.COLOURS[0], ms=4, label="mean")
        for i in rows:
            at.annotate(
                str(c["n_events"][i]),
                (c["n_ctx"][i], c["mean"][i]),
                fontsize=6.5,
                textcoords="offset points",
                xytext=(0, -11),
                ha="center",
            )
        at.set_xscale("log", base=2)
        at.set_xticks(x, [str(n) for n in x])
        at.minorticks_off()
        at.set(xlabel="window N (tokens)", title=said)
        at.title.set_fontsize(8.5)
    axes[0][0].set(ylabel="$H_{pos}$ (bits)")
    axes[0][0].set_ylim(bottom=0)
    axes[0][0].legend(fontsize=7, frameon=False, loc="upper left")
    figure.suptitle(f"{title}  $H_{{pos}}$ against window length".strip(), fontsize=9)
    figure.supxlabel(
        "numbers: events; interval: over latents, from 8 on; windows are shorter "
        "where the document begins later",
        fontsize=6.5,
        color="0.35",
    )
    style.save(figure, path, drawn)
