"""Layer mean: how the mean layers of latents are spread, as a histogram."""

from collections.abc import Sequence
from pathlib import Path

import torch

from saekit.core.result import Table
from saekit.report import style
from saekit.studies.layers.distributions import Distribution

BINS_PER_LAYER = 16  # the published figure's


def draw(found: Distribution, numbers: Sequence[int], path: Path, title: str = "") -> None:
    """Draw the density of mean layers; peaks at whole numbers are latents of one layer.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    mean = found.mean[~found.mean.isnan()].float()
    low, high = min(numbers), max(max(numbers), min(numbers) + 1)
    counts, edges = torch.histogram(
        mean, BINS_PER_LAYER * (high - low), range=(float(low), float(high))
    )
    width = float(edges[1] - edges[0])
    density = counts / max(len(mean), 1) / width
    figure, axes = style.new(6.4, 2.8)
    at = axes[0][0]
    at.bar(edges[:-1].tolist(), density.tolist(), width=width, align="edge",
           color=style.COLOURS[0])  # fmt: skip
    at.set(title=title, xlabel="mean layer of a latent", xlim=(low, high),
           ylabel=f"density (n = {len(mean):,} latents)")  # fmt: skip
    drawn = Table(
        columns={"layer_from": edges[:-1].tolist(), "layer_to": edges[1:].tolist(),
                 "latents": [int(c) for c in counts], "density": density.tolist()}
    )  # fmt: skip
    style.save(figure, path, drawn)
