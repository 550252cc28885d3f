"""Adjacent cosine: how alike one token's residual vectors are at neighbouring layers."""

import math
from pathlib import Path

from saekit.report import style
from saekit.studies.layers.stream import StreamCosines


def draw(found: StreamCosines, path: Path, title: str = "") -> None:
    """Draw mean cosines with the standard deviation over tokens; norms go to a CSV beside.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    columns = found.pairs.columns
    places = list(range(len(columns["site"])))
    figure, axes = style.new(6.4, 3.0)
    at = axes[0][0]
    for name, label, colour in (
        ("cosine", "layer means taken off", style.COLOURS[0]),
        ("uncentred_cosine", "as they are", style.COLOURS[4]),
    ):
        mean, std = columns[f"{name}_mean"], columns[f"{name}_std"]
        low = [m - s for m, s in zip(mean, std, strict=True)]
        high = [m + s for m, s in zip(mean, std, strict=True)]
        at.plot(places, mean, color=colour, marker="o", markersize=3, label=label)
        at.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
        if len(places) == 1:  # a band of no width cannot be seen
            at.errorbar(places, mean, std, color=colour, capsize=3)
    every = max(1, math.ceil(len(places) / 8))
    shown = places[::every]
    at.set_xticks(
        shown,
        [
            f"{style.layer_label(columns['site'][i])}-{style.layer_label(columns['next'][i])}"
            for i in shown
        ],
    )
    at.set(
        title=title,
        xlabel="neighbouring layers",
        ylim=(min(0, *at.get_ylim()), 1.02),
        ylabel="cosine, ± 1 std over tokens",
    )
    at.legend(title=f"n = {found.n_tokens:,} tokens", frameon=False)
    style.save(figure, path, found.pairs)
    found.norms.write_csv(path.with_name(path.stem + "_norms.csv"))
