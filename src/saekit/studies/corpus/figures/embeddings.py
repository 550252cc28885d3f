"""Embeddings: documents as points of a plane, with the clusters of k-means."""

from pathlib import Path

import torch

from saekit.core.errors import MissingExtraError
from saekit.core.result import Table
from saekit.report import style
from saekit.studies.corpus.measure import Measured
from saekit.studies.corpus.planes import TITLES, place

_MARKS = "osv^D"


def table(found: Measured) -> Table:
    """Return a row a document: its corpus, place and cluster.

    Raises:
        MissingExtraError: scikit-learn, or umap-learn for UMAP, is not installed.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "probing") from error
    rows = torch.cat(list(found.embeddings.values()))
    unit = (rows / rows.norm(dim=-1, keepdim=True)).numpy()
    settings = found.result.config
    k, seed = settings["clusters"], settings["seed"]
    places = place(unit, settings["plane"], seed % 2**31)
    k = min(k, len(rows.unique(dim=0)))  # documents that are alike are one point
    kinds = KMeans(k, n_init="auto", random_state=seed % 2**32).fit_predict(unit)
    return Table(
        columns={
            "corpus": [name for name, some in found.embeddings.items() for _ in some],
            "x": places[:, 0].tolist(),
            "y": places[:, 1].tolist(),
            "cluster": kinds.tolist(),
        }
    )


def draw(found: Measured, path: Path) -> None:
    """Draw a mark a document: its colour is the corpus, its shape the cluster.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib or scikit-learn is not installed.
    """
    drawn = table(found)
    figure, axes = style.new(5.6, 4.2)
    rows = drawn.rows()
    for i, name in enumerate(found.embeddings):
        colour = style.COLOURS[i % len(style.COLOURS)]
        for kind in sorted({row["cluster"] for row in rows}):
            mine = [r for r in rows if (r["corpus"], r["cluster"]) == (name, kind)]
            x, y = [r["x"] for r in mine], [r["y"] for r in mine]
            mark = _MARKS[kind % len(_MARKS)]
            axes[0][0].scatter(x, y, s=14, color=colour, marker=mark, alpha=0.6, linewidths=0)
        axes[0][0].scatter([], [], s=20, color=colour, label=name)
    way = found.result.config["plane"]
    names = ("first principal component", "second") if way == "pca" else (TITLES[way], "")
    axes[0][0].set(xlabel=names[0], ylabel=f"{names[1]} (shapes: k-means clusters)".strip())
    axes[0][0].legend(fontsize=8)
    style.save(figure, path, drawn)
