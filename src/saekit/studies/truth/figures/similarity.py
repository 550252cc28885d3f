"""Similarity: latents against known features, a heat map for each dictionary."""

from collections.abc import Mapping
from pathlib import Path

from saekit.analysis.similarity import Similarity, table
from saekit.report import style


def draw(found: Mapping[str, Similarity], path: Path) -> None:
    """Draw the cosines of each dictionary beside one another.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = style.new(0.6 + 3.2 * len(found), 3.6, columns=max(len(found), 1))
    for at, (name, one) in zip(axes[0], found.items(), strict=False):
        image = at.imshow(
            one.cosines.numpy(),
            cmap="RdBu_r",
            vmin=-1,
            vmax=1,
            aspect="auto",
            interpolation="nearest",
        )
        at.set(title=name, xlabel="feature (rank)", ylabel="latent (rank)")
        if at is axes[0][-1]:
            figure.colorbar(image, ax=at, label="cosine")
    style.save(figure, path, table(found))
