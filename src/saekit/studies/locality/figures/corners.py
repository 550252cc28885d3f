"""How far back latents look against how long they stay on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from saekit.core.errors import DataError
from saekit.core.result import Table
from saekit.core.stats import summaries
from saekit.core.stats.means import mean_interval
from saekit.core.stats.permutation import permutation_test, said
from saekit.core.stats.ranks import spearman
from saekit.report import style

PERMUTATIONS = 1000
SPREAD = 8.0  # times; lengths that differ more are drawn on a logarithmic axis


def draw(found: Mapping[int, tuple[Sequence[float], float]], path: Path) -> None:
    """Draw mean H_pos and its interval against tau_1e, a point a latent.

    Args:
        found: by latent its entropies, bits, one at least, and tau_1e, tokens; those whose
            tau_1e is NaN, as their curve stays over 1/e, are left out and counted.
        path: of the figure.

    Raises:
        DataError: no latent has both.
    """
    known = {a: v for a, v in found.items() if v[1] == v[1]}
    if not known:
        raise DataError(f"None of {len(found)} latents has a tau_1e.")
    columns: dict[str, list] = {
        c: [] for c in ("feature_id", "tau_1e", "n_events", "mean_H_pos", "low", "high")
    }
    for latent, (H, tau) in known.items():
        values = torch.tensor(H, dtype=torch.float64)
        ends = (float(v) for v in mean_interval(values, positive=True))
        for column, value in zip(columns.values(), (latent, tau, len(H), *ends), strict=True):
            column.append(value)
    tau, mean = (torch.tensor(columns[c], dtype=torch.float64) for c in ("tau_1e", "mean_H_pos"))
    low, high = (torch.tensor(columns[c], dtype=torch.float64) for c in ("low", "high"))
    figure, axes = style.new(5.6, 4.2)
    at = axes[0][0]
    at.vlines(tau, low, high, color="0.75", lw=0.7)
    at.plot(tau, mean, ".", color=style.COLOURS[0], ms=5, alpha=0.8)
    for q in (0, 2):
        at.axvline(float(summaries.quartiles(tau)[q]), color="0.5", ls=":", lw=0.9)
        at.axhline(float(summaries.quartiles(mean)[q]), color="0.5", ls=":", lw=0.9)
    words = ""
    if len(known) > 2:
        value = spearman(tau, mean)
        null = permutation_test(
            value,
            lambda order: spearman(tau, mean[order]),
            len(known),
            PERMUTATIONS,
            torch.Generator().manual_seed(0),
        )
        words = f"; {said(null)}"
    at.set(xlabel="tau_1e of the activation (tokens)", ylabel="mean $H_{pos}$ where on (bits)")
    if float(tau.max()) > SPREAD * float(tau.min()):
        at.set_xscale("log", base=2)
        at.xaxis.set_major_formatter("{x:g}")
    at.set_title(f"{len(known)} latents, {sum(columns['n_events'])} events{words}", fontsize=8.5)
    lost = len(found) - len(known)
    figure.supxlabel(
        f"bars: 95 % interval over events, from 8 events on; dotted: quartiles; {lost} latents "
        f"without a tau_1e left out",
        fontsize=6.5,
        color="0.35",
    )
    style.save(figure, path, Table(columns=columns, units={"tau_1e": "tokens"}))
