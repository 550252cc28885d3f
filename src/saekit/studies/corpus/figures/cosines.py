"""Cosines: how alike the mean embeddings of corpora are."""

from pathlib import Path

import torch

from saekit.core.result import Table
from saekit.report import style
from saekit.studies.corpus.measure import Measured


def table(found: Measured) -> Table:
    """Return a row a pair of corpora, each with itself too."""
    means = torch.stack([rows.mean(0) for rows in found.embeddings.values()])
    unit = means / means.norm(dim=-1, keepdim=True)
    names = list(found.embeddings)
    pairs = [(i, j) for i in range(len(names)) for j in range(len(names))]
    values = (unit @ unit.T).tolist()
    return Table(
        columns={
            "first": [names[i] for i, _ in pairs],
            "second": [names[j] for _, j in pairs],
            "cosine": [values[i][j] for i, j in pairs],
        }
    )


def draw(found: Measured, path: Path) -> None:
    """Draw a matrix with its values.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = table(found)
    names = list(found.embeddings)
    n = len(names)
    values = torch.tensor(drawn.columns["cosine"]).view(n, n)
    figure, axes = style.new(1.6 + 0.9 * n, 1.2 + 0.8 * n)
    at = axes[0][0]
    shown = at.imshow(values.numpy(), cmap="coolwarm", vmin=2 * float(values.min()) - 1, vmax=1)
    for i in range(n):
        for j in range(n):
            at.text(j, i, f"{float(values[i, j]):.3f}", ha="center", va="center", fontsize=8)
    at.set_xticks(range(n), names, rotation=30)
    at.set_yticks(range(n), names)
    figure.colorbar(shown, label="cosine of mean embeddings")
    style.save(figure, path, drawn)
