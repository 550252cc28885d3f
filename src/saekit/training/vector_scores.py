"""Scores of an SAE on vectors alone: what can be said of it without a language model."""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor

from saekit.core import provenance
from saekit.core.errors import ShapeError
from saekit.core.result import Result, Score
from saekit.core.stats.jackknife import Scale, jackknife
from saekit.data.vectors import Source, Vectors, open_vectors
from saekit.hub.trained import TrainedSAE
from saekit.metrics.base import Batch, Metric, Sums, added, registry

NAME, VERSION = "vectors", 1
METRICS = ("fvu", "l0", "dead")
UNITS = 128  # runs of rows that are left out in turn, where nothing says which
LEAST_UNITS = 20  # fewer give no interval: docs/intervals.md
CHUNK = 2**11  # rows that are encoded together


def score(
    sae: TrainedSAE,
    vectors: Source | Vectors,
    y: Source | Vectors | None = None,
    *,
    key: str | None = None,
    y_key: str | None = None,
) -> Result:
    """Measure an SAE on vectors that it was not trained on, without a model.

    FVU, L0 and the share of latents that are dead on these vectors. Intervals leave out runs of
    neighbouring rows, 128 of them; rows that are alike and further apart, as the patches of one
    image in files sorted by patch, make them too narrow. That of dead latents is over latents.

    Args:
        sae: the SAE.
        vectors: what it reads, as `saekit.fit` takes it.
        y: what it is to predict; None: what it reads.
        key: the tensor, array, column or kind of member, where files have several.
        y_key: that of `y`; None: `key`.

    Returns:
        scores with 95 % intervals; `print` shows them.

    Raises:
        ShapeError: widths are not those of the SAE, or `y` has another number of rows.
        DataError: vectors cannot be read, or are not finite.
    """
    sides = open_sides(vectors, y, key, y_key)
    if (sides[0].width, sides[-1].width) != (sae.d_in, sae.d_out):
        raise ShapeError(
            f"The SAE reads vectors of width {sae.d_in} and predicts {sae.d_out}; got widths "
            f"{sides[0].width} and {sides[-1].width}. Give the vectors that it was fitted to, or "
            f"others of their width."
        )
    size = max(-(-sides[0].n // UNITS), 1)
    units = list(torch.arange(sides[0].n).split(size))
    return scores_of(sae, sides, units)


def open_sides(
    x: Source | Vectors, y: Source | Vectors | None, key: str | None, y_key: str | None
) -> list[Vectors]:
    """Return what is read and what is predicted: one where they are the same.

    Raises:
        ShapeError: they have different numbers of rows.
    """
    sides = [x if isinstance(x, Vectors) else open_vectors(x, key)]
    if y is not None:
        sides.append(y if isinstance(y, Vectors) else open_vectors(y, y_key or key))
        if sides[0].n != sides[1].n:
            raise ShapeError(
                f"Each vector is predicted from one; got {sides[0].n:,} to read and "
                f"{sides[1].n:,} to predict. Give as many of both, row by row."
            )
    return sides


@torch.no_grad()
def scores_of(
    sae: TrainedSAE, sides: Sequence[Vectors], units: Sequence[Int[Tensor, "_m"]]
) -> Result:
    """Return the scores over some rows.

    Args:
        sae: takes raw vectors.
        sides: what is read and what is predicted; one for an autoencoder.
        units: rows, ascending, that are left out together for an interval.
    """
    metrics = [registry.get(name)() for name in METRICS]
    found: list[list[Sums]] = [[] for _ in metrics]
    for rows in units:
        for part in rows.split(CHUNK):
            x = sides[0].take(part)
            acts = sae.encode(x)
            y = (x if len(sides) == 1 else sides[1].take(part)).to(sae.device)
            batch = Batch(y, sae.decode(acts), acts)
            for metric, sums in zip(metrics, found, strict=True):
                fresh = metric.sums(batch)
                if sums and (part[0] != rows[0] or not metric.resampled):
                    sums[-1] = added(sums[-1], fresh)
                else:
                    sums.append(fresh)
    sizes = torch.tensor([float(len(rows)) for rows in units])
    scores = {m.name: _score(m, sums, sizes) for m, sums in zip(metrics, found, strict=True)}
    n_rows = sum(map(len, units))
    return Result(
        name=NAME,
        version=VERSION,
        config={"n_rows": n_rows, "n_units": len(units)},
        scores=scores,
        provenance=provenance.collect(),
    )


def _score(metric: Metric, sums: list[Sums], sizes: Tensor) -> Score:
    total = {key: sum((one[key] for one in sums), start=torch.zeros(())) for key in sums[0]}
    value, n, low, high, reason = metric.compute(total), len(sums), None, None, ""
    if value is None:
        reason = metric.undefined
    elif not metric.resampled:
        if (ends := metric.interval(total)) is not None:
            low, high, n = ends
            reason = "interval over latents"
    elif len(sums) < LEAST_UNITS:
        reason = f"no interval: {len(sums)} runs of rows; {LEAST_UNITS} are needed"
    else:
        rest = [metric.compute({k: total[k] - one[k] for k in total}) for one in sums]
        if None in rest:
            reason = "no interval: undefined without some of the rows"
        else:
            without = torch.tensor(rest, dtype=torch.float64)
            low, high = jackknife(value, without, sizes, cast(Scale, metric.scale), skewed=True)
    return Score(
        value=value,
        low=low,
        high=high,
        n=n,
        unit=metric.unit,
        better=cast(Literal["lower", "higher", "neither"], metric.better),
        reason=reason,
        label=metric.label,
    )
