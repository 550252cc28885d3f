"""Overview of H_pos: over all events, over latents, and the events of every latent."""

from collections.abc import Sequence
from pathlib import Path

import torch

from saekit.core.errors import DataError
from saekit.core.result import Table
from saekit.core.stats import plain, summaries
from saekit.core.stats.means import FEW, mean_interval
from saekit.report import style
from saekit.studies.locality.events.event_entropy import OK
from saekit.studies.locality.events.event_files import Row


def table(rows: Sequence[Row]) -> Table:
    """Return one row per event with an entropy, latents in order of their mean.

    Raises:
        DataError: there is none.
    """
    ok = [r for r in rows if r.status == OK]
    if not ok:
        raise DataError(f"Of {len(rows)} events none has an entropy.")
    found: dict[int, list[float]] = {}
    for row in ok:
        found.setdefault(row.feature_id, []).append(row.H_pos)
    order = plain.by_mean(found)
    place = {latent: k for k, latent in enumerate(order)}
    ok.sort(key=lambda r: (place[r.feature_id], r.event_idx))
    return Table(
        columns={
            "feature_id": [r.feature_id for r in ok],
            "place": [place[r.feature_id] for r in ok],
            "event_idx": [r.event_idx for r in ok],
            "H_pos": [r.H_pos for r in ok],
        },
        units={"H_pos": "bits"},
    )


def draw(rows: Sequence[Row], n_ctx: int, path: Path, title: str = "") -> None:
    """Draw the distribution of H over events and over latents, and every event by latent.

    Raises:
        DataError: no event has an entropy.
    """
    drawn = table(rows)
    place = torch.tensor(drawn.columns["place"])
    H = torch.tensor(drawn.columns["H_pos"], dtype=torch.float64)
    means = torch.stack([H[place == k].mean() for k in range(int(place.max()) + 1)])
    mean, low, high = (float(v) for v in mean_interval(H, place, positive=True))
    figure, axes = style.new(
        8.4, 3.8, columns=2, gridspec_kw={"width_ratios": [1, 2.6]}, sharey=True
    )
    left, right = axes[0]
    sets = [("events", H), ("latents' means", means)]
    for k, (_, values) in enumerate(sets):
        if len(values) > 1 and float(values.std()) > 0:
            body = left.violinplot([values.numpy()], [k], widths=0.8, showextrema=False)
            body["bodies"][0].set(facecolor=style.COLOURS[5], alpha=0.5, edgecolor="none")
        low_q, mid, high_q = summaries.quartiles(values)
        left.plot([k, k], [low_q, high_q], color=style.COLOURS[0], lw=3)
        left.plot([k], [mid], "o", color="white", mec=style.COLOURS[0], ms=5)
    left.errorbar(
        [-0.3],
        [mean],
        yerr=[[mean - low], [high - mean]] if low == low else None,
        fmt="D",
        color=style.COLOURS[1],
        ms=4,
        capsize=2,
    )
    left.set_xticks([0, 1], [f"{name}\n(n = {len(v)})" for name, v in sets], fontsize=7.5)
    full = float(torch.tensor(float(n_ctx)).log2())
    for at in (left, right):
        at.axhline(full, color="0.3", ls="--", lw=0.9)
    right.plot(place, H, ".", ms=2.5, color=style.COLOURS[0], alpha=0.35)
    right.plot(range(len(means)), means, color=style.COLOURS[1], lw=1.2)
    right.text(0, full, f" log2 {n_ctx}", fontsize=7, va="bottom")
    right.set(xlabel=f"{len(means)} latents in order of mean (line); a dot is an event")
    left.set(ylabel="$H_{pos}$ (bits)", ylim=(0, full * 1.08))
    figure.suptitle(f"{title}  $H_{{pos}}$ of events, window {n_ctx} tokens".strip(), fontsize=9)
    ends = f"95 % interval over latents [{low:.2f}, {high:.2f}]" if low == low else FEW
    figure.supxlabel(
        f"diamond: mean over events {mean:.2f} bits, {ends}; bar: quartiles, ring: median",
        fontsize=6.5,
        color="0.35",
    )
    style.save(figure, path, drawn)
