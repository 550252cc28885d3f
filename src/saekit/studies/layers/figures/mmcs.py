"""MMCS: the largest cosine of each latent's direction with another latent's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saekit.core.result import Table
from saekit.core.stats.means import half_width
from saekit.report import style
from saekit.studies.layers.distributions import spread
from saekit.studies.layers.geometry import legacy_mmcs, max_cosines


def draw(
    directions: Mapping[str, Float[Tensor, "n d"]],
    about: Mapping[str, Mapping[str, Any]],
    path: Path,
) -> None:
    """Draw a histogram of each dictionary, its mean (MMCS) with Student's 95 % interval.

    The CSV also has the original code's figure, in columns that begin with ``legacy_``.

    Args:
        directions: by name of the SAE.
        about: further columns of each, as the model and k.
        path: ends in a suffix of a figure.

    Raises:
        ConfigError: `path` has another suffix than those of a figure, or a dictionary has
            fewer than two directions.
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = style.new(6.4, 1.6 + 1.1 * len(directions), rows=len(directions), sharex=True)
    rows: list[dict[str, Any]] = []
    for i, (name, rows_of) in enumerate(directions.items()):
        values = max_cosines(rows_of)
        found = spread(values)
        old = legacy_mmcs(rows_of)
        legacy = {f"legacy_{k}": v for k, v in old._asdict().items()}
        rows.append({"sae": name, **about.get(name, {}), **found._asdict(), **legacy})
        half = half_width(found.std, found.n)
        at = axes[i][0]
        at.hist(values.tolist(), bins=80, color=style.COLOURS[0], alpha=0.75)
        at.axvline(found.mean, color=style.COLOURS[1])
        at.set(ylabel="latents")
        at.set_title(
            f"{name}: MMCS {found.mean:.4g} ± {half:.2g} (n = {found.n:,} latents)", fontsize=9
        )
    axes[-1][0].set_xlabel("largest cosine with another latent")
    style.save(figure, path, Table(columns={k: [r[k] for r in rows] for k in rows[0]}))
