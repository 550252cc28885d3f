"""Dictionary map: decoder directions of several SAEs as points of a plane."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.errors import ConfigError
from saekit.core.result import Table
from saekit.core.seeds import derive, generator
from saekit.report import style
from saekit.studies.corpus.planes import TITLES, Way, check, place

LEAST = 4  # directions; of fewer there is no map


def table(
    dictionaries: Mapping[str, Float[Tensor, "d_sae d_out"]],
    way: Way,
    *,
    most: int = 2000,
    clusters: int = 7,
    seed: int = 0,
) -> Table:
    """Return a row a direction: its SAE, latent, place in the plane and k-means cluster.

    Directions of length 1 are placed together, so that those of several SAEs can be compared, and
    clustered where they are, not in the plane. Far apart in t-SNE and UMAP means little: only what
    is near is kept.

    Args:
        dictionaries: directions by name of the SAE; those of length 0 are left out.
        way: how they are placed.
        most: at most so many latents of each SAE, drawn by the seed.
        clusters: of k-means.
        seed: of every draw.

    Raises:
        ConfigError: widths differ, or there are too few directions.
        MissingExtraError: scikit-learn, or umap-learn for UMAP, is missing.
    """
    check(way)
    names, latents, rows = [], [], []
    for name, directions in dictionaries.items():
        unit = torch.nn.functional.normalize(directions.detach().float().cpu(), dim=1)
        some = (unit.norm(dim=1) > 0).nonzero()[:, 0]
        order = torch.randperm(len(some), generator=generator(seed, "map", name))[:most]
        chosen = some[order].sort().values
        names += [name] * len(chosen)
        latents += chosen.tolist()
        rows.append(unit[chosen])
    if len({part.shape[1] for part in rows}) > 1 or len(names) < max(LEAST, clusters):
        raise ConfigError(
            f"A map needs directions of one width, at least {max(LEAST, clusters)} of them; got "
            f"{len(names)} of widths {sorted({part.shape[1] for part in rows})}. Take SAEs of one "
            f"site, or fewer clusters."
        )
    points = torch.cat(rows).numpy()
    number = derive(seed, "map") % 2**31
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what libraries below k-means will drop
        placed = place(points, way, number)
        cluster = _clusters(points, clusters, number)
    return Table(
        columns={
            "sae": names,
            "latent": latents,
            "x": [float(v) for v in placed[:, 0]],
            "y": [float(v) for v in placed[:, 1]],
            "cluster": [int(c) for c in cluster],
        }
    )


def draw(placed: Table, way: Way, path: Path) -> None:
    """Draw the map twice: coloured by SAE, and by cluster; what is drawn last is left to chance.

    Args:
        placed: of `table`.
        way: how directions were placed, for the title.
        path: ends in a suffix of a figure.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = style.new(8.4, 4.8, columns=2, sharex=True, sharey=True)
    # In a drawn order: points of the last SAE would hide those of the others.
    order = torch.randperm(len(placed), generator=generator(0, "order of points")).tolist()
    x, y = ([placed.columns[name][i] for i in order] for name in ("x", "y"))
    for at, column in zip(axes[0], ("sae", "cluster"), strict=True):
        there = placed.columns[column]
        values = list(dict.fromkeys(there if column == "sae" else sorted(there)))
        shades = {v: style.COLOURS[i % len(style.COLOURS)] for i, v in enumerate(values)}
        colours = [shades[there[i]] for i in order]
        at.scatter(x, y, s=5, alpha=0.7, linewidths=0, c=colours, rasterized=True)
        for value in values:
            n = there.count(value)
            at.scatter([], [], s=20, color=shades[value], label=f"{value} ({n:,})")
        said = {"sae": "SAE", "cluster": "k-means cluster"}[column]
        at.set_title(f"{TITLES[way]} of decoder directions, by {said}", fontsize=9)
        at.set(xticks=[], yticks=[])
        columns = 2 if column == "sae" else 4
        at.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=columns)
    style.save(figure, path, placed)


def _clusters(points: Any, clusters: int, seed: int) -> Any:
    from sklearn.cluster import KMeans

    return KMeans(clusters, random_state=seed).fit_predict(points)
