"""Layer mean: how the mean layers of latents are spread, as a histogram."""

from collections.abc import Sequence
from pathlib import Path

from saekit.report import style
from saekit.studies.layers.distributions import Distribution, mean_layer_density


def draw(found: Distribution, numbers: Sequence[int], path: Path, title: str = "") -> None:
    """Draw the density of mean layers; peaks at whole numbers are latents of one layer.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = mean_layer_density(found, numbers)
    left, right = drawn.columns["layer_from"], drawn.columns["layer_to"]
    n = sum(drawn.columns["latents"])
    figure, axes = style.new(6.4, 2.8)
    at = axes[0][0]
    at.bar(
        left,
        drawn.columns["density"],
        width=right[0] - left[0],
        align="edge",
        color=style.COLOURS[0],
    )
    at.set(
        title=title,
        xlabel="mean layer of a latent",
        xlim=(left[0], right[-1]),
        ylabel=f"density (n = {n:,} latents)",
    )
    style.save(figure, path, drawn)
