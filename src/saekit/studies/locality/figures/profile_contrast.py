"""Profile contrast: where two latents get their influence from, position by position."""

from collections.abc import Sequence
from pathlib import Path

import torch

from saekit.core.errors import DataError
from saekit.core.result import Table
from saekit.core.stats import plain
from saekit.core.stats.means import mean_interval
from saekit.report import style
from saekit.studies.locality.events.event_entropy import OK
from saekit.studies.locality.events.event_files import Row, right_aligned

LEAST = 1e-4


def extremes(rows: Sequence[Row], least_events: int = 3) -> tuple[int, int]:
    """Return the latents of lowest and highest mean H among those with `least_events`.

    Raises:
        DataError: fewer than 2 have so many.
    """
    found: dict[int, list[float]] = {}
    for row in rows:
        if row.status == OK and row.J is not None:
            found.setdefault(row.feature_id, []).append(row.H_pos)
    enough = {a: h for a, h in found.items() if len(h) >= least_events}
    if len(enough) < 2:
        raise DataError(
            f"A contrast needs 2 latents with {least_events} events or more that have "
            f"influences; there are {len(enough)}."
        )
    order = plain.by_mean(enough)
    return order[0], order[-1]


def table(rows: Sequence[Row], n_ctx: int, latents: Sequence[int]) -> Table:
    """Return J / max J by position before the peak: mean over events and 95 % interval.

    Raises:
        DataError: a latent has no event with influences.
    """
    columns: dict[str, list] = {
        c: [] for c in ("feature_id", "position", "n_events", "mean", "low", "high")
    }
    for latent in latents:
        mine = [r for r in rows if r.feature_id == latent and r.status == OK and r.J is not None]
        if not mine:
            raise DataError(f"Latent {latent} has no event of length {n_ctx} with influences.")
        J = right_aligned(mine, n_ctx).double()
        share = J / J.nan_to_num(0.0).amax(1, keepdim=True)
        mean, low, high = mean_interval(share, positive=True)
        columns["feature_id"] += [latent] * n_ctx
        columns["position"] += list(range(1 - n_ctx, 1))
        columns["n_events"] += (~share.isnan()).sum(0).tolist()
        for name, values in (("mean", mean), ("low", low), ("high", high)):
            columns[name] += values.tolist()
    return Table(columns=columns, units={"position": "tokens"})


def draw(
    rows: Sequence[Row], n_ctx: int, path: Path, latents: tuple[int, int] | None = None
) -> None:
    """Draw the profiles of two latents; those of lowest and highest mean H by default.

    Raises:
        DataError: there are no such two, or one has no influences.
    """
    pair = latents or extremes(rows)
    drawn = table(rows, n_ctx, pair)
    c = drawn.columns
    figure, axes = style.new(6.0, 3.6)
    at = axes[0][0]
    for k, latent in enumerate(pair):
        part = slice(k * n_ctx, (k + 1) * n_ctx)
        bits = [r.H_pos for r in rows if r.feature_id == latent and r.status == OK]
        said = next((r.description for r in rows if r.feature_id == latent), "")
        x, mean = c["position"][part], torch.tensor(c["mean"][part])
        label = f"latent {latent}: {sum(bits) / len(bits):.2f} bits, {len(bits)} events"
        at.plot(
            x,
            mean.clamp(min=LEAST),
            color=style.COLOURS[k],
            lw=1.3,
            label=label + f"\n{said[:50]}" * bool(said),
        )
        low, high = (torch.tensor(c[end][part]).clamp(min=LEAST) for end in ("low", "high"))
        at.fill_between(x, low, high, color=style.COLOURS[k], alpha=0.2, lw=0)
    at.set(
        yscale="log",
        ylim=(LEAST, 1.5),
        xlim=(1 - n_ctx, 0.5),
        xlabel="position relative to the peak (tokens)",
        ylabel="influence / largest of the event",
        title="Where two latents get their influence from",
    )
    at.title.set_fontsize(9)
    at.legend(fontsize=7, frameon=False, loc="upper left")
    figure.supxlabel(
        "mean over events whose window reaches so far back; band: 95 % interval (over events)",
        fontsize=6.5,
        color="0.35",
    )
    style.save(figure, path, drawn)
