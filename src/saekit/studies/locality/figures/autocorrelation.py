"""Autocorrelation: how activation lingers over lags, and how long in one number."""

from collections.abc import Sequence
from pathlib import Path

import torch

from saekit.analysis.autocorrelation import Curves
from saekit.core.errors import DataError
from saekit.core.result import Table
from saekit.core.stats import summaries
from saekit.core.stats.means import mean_interval
from saekit.report import style


def table(curves: Curves, latents: Sequence[int]) -> Table:
    """Return, by lag, mean over latents with its 95 % interval, and quartiles over latents.

    Raises:
        DataError: no latent has a curve.
    """
    acts = curves.acts[torch.tensor(list(latents), dtype=torch.int64)]
    acts = acts[~acts.isnan().any(1)]
    if not len(acts):
        raise DataError(f"Of {len(latents)} latents none has a curve: they are never on.")
    mean, low, high = mean_interval(acts)
    quartiles = summaries.quartiles(acts)
    n = acts.shape[1]
    return Table(
        columns={
            "lag": list(range(n)),
            "n_latents": [len(acts)] * n,
            "n_pairs": curves.n_pairs.tolist(),
            "mean": mean.tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
            "q25": quartiles[0].tolist(),
            "median": quartiles[1].tolist(),
            "q75": quartiles[2].tolist(),
        },
        units={"lag": "tokens", "n_pairs": "pairs of tokens"},
    )


def draw(curves: Curves, latents: Sequence[int], path: Path, title: str = "") -> None:
    """Draw the curves of some latents together, and the distribution of their lengths.

    Raises:
        DataError: no latent has a curve.
    """
    drawn = table(curves, latents)
    c = drawn.columns
    figure, axes = style.new(8.4, 3.6, columns=2)
    left, right = axes[0]
    lags = c["lag"][1:]
    left.fill_between(
        lags,
        c["q25"][1:],
        c["q75"][1:],
        color=style.COLOURS[5],
        alpha=0.3,
        lw=0,
        label="quartiles over latents",
    )
    left.fill_between(
        lags,
        c["low"][1:],
        c["high"][1:],
        color=style.COLOURS[1],
        alpha=0.35,
        lw=0,
        label="95 % interval of the mean",
    )
    left.plot(lags, c["mean"][1:], color=style.COLOURS[1], lw=1.2, label="mean")
    left.plot(lags, c["median"][1:], color=style.COLOURS[0], lw=1.2, label="median")
    left.axhline(0, color="0.6", lw=0.7)
    left.axhline(0.36788, color="0.4", ls="--", lw=0.8)
    left.text(lags[-1], 0.36788, "1/e ", fontsize=7, va="bottom", ha="right")
    left.set_xscale("log", base=2)
    ticks = [2**k for k in range(20) if 2**k <= lags[-1]]
    left.set_xticks(ticks, [str(t) for t in ticks])
    left.minorticks_off()
    left.set(xlabel="lag (tokens)", ylabel="autocorrelation of the activation")
    left.set_title(f"{c['n_latents'][0]} latents, {curves.n_tokens:,} tokens", fontsize=8.5)
    left.legend(fontsize=7, frameon=False)

    chosen = curves.lengths().columns
    tau = torch.tensor([chosen["tau_1e"][i] for i in latents], dtype=torch.float64)
    censored = sum(chosen["censored"][i] for i in latents)
    known = tau[~tau.isnan()]
    runs = torch.tensor([chosen["mean_run_length"][i] for i in latents], dtype=torch.float64)
    bins = [2 ** (k / 4) for k in range(-4, 28)]
    for values, name, colour in (
        (known, "tau_1e", style.COLOURS[0]),
        (runs[~runs.isnan()], "mean run", style.COLOURS[2]),
    ):
        if len(values):
            label = f"{name} (n = {len(values)}, median {values.median():.2f})"
            right.hist(
                values.clamp(bins[0], bins[-1]), bins=bins, alpha=0.5, color=colour, label=label
            )
    right.set_xscale("log", base=2)
    right.set_xticks(ticks, [str(t) for t in ticks])
    right.minorticks_off()
    right.set(xlabel="tokens", ylabel="latents")
    right.set_title(f"{censored} stay over 1/e at every lag", fontsize=8.5)
    right.legend(fontsize=7, frameon=False)
    figure.suptitle(title or "How long latents stay on", fontsize=9)
    figure.supxlabel(
        "interval: over latents, from 8 on; tau_1e: lag at which the curve falls below 1/e",
        fontsize=6.5,
        color="0.35",
    )
    style.save(figure, path, drawn)
