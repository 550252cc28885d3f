"""Planes: points of many dimensions placed in two, by PCA, t-SNE or UMAP."""

import importlib.util
import warnings
from typing import Literal, get_args

import numpy as np

from saekit.core.errors import MissingExtraError

Way = Literal["pca", "tsne", "umap"]
WAYS: tuple[Way, ...] = get_args(Way)
TITLES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}


def check(way: Way) -> None:
    """Refuse a way whose library is not installed.

    Raises:
        MissingExtraError: scikit-learn, or umap-learn for UMAP, is missing.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise MissingExtraError("scikit-learn", "probing")
    if way == "umap" and importlib.util.find_spec("umap") is None:
        raise MissingExtraError("umap-learn", "umap")


def place(points: np.ndarray, way: Way, seed: int) -> np.ndarray:
    """Return a place in the plane for each point.

    Far apart in t-SNE and UMAP means little: only what is near is kept.

    Args:
        points: a row each.
        way: how they are placed; UMAP goes by cosine.
        seed: of what is drawn.

    Raises:
        MissingExtraError: scikit-learn, or umap-learn for UMAP, is missing.
    """
    check(way)
    if len(points) < 2:  # noqa: PLR2004 - one point has no variance
        return np.zeros((len(points), 2))
    if way == "pca":
        from sklearn.decomposition import PCA

        return PCA(2, svd_solver="full").fit_transform(points)
    with warnings.catch_warnings():
        # They say that a seed keeps UMAP to one core, and what their own libraries will drop.
        warnings.simplefilter("ignore")
        if way == "tsne":
            from sklearn.manifold import TSNE

            perplexity = min(30.0, (len(points) - 1) / 3)
            plane = TSNE(2, perplexity=perplexity, random_state=seed, init="pca")
            return plane.fit_transform(points)
        import umap

        neighbours = min(15, len(points) - 1)
        plane = umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed)
        return plane.fit_transform(points)
