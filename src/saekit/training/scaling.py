"""Scaling: what brings activations near mean 0 and mean square 1 before training."""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.activations.batch import ActBatch
from saekit.activations.harvest import CALIBRATION_ROWS, Counts, Harvest
from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError, TrainingError
from saekit.core.seeds import generator
from saekit.core.stats.median import geometric_median
from saekit.models.sites import Site
from saekit.saes.base import SAEConfig, Scaling

Normalise = Literal["scale", "whiten", "none"]
Centre = Literal["mean", "geometric_median", "none"]

WHITEN_TOKENS = 16  # a dimension: of an even spectrum, eigenvalues are found within 0.56 to 1.56
WHITEN_FLOOR = 1e-3  # of the mean eigenvalue: no direction is enlarged over 32 times the mean


class Scalings(NamedTuple):
    """How both sides are scaled, and where the mean target then lies."""

    x: Scaling
    y: Scaling
    baseline: Float[Tensor, "*event d_out"]  # near 0 where the mean is the centre


def measure_scaling(
    harvest: Harvest, cfg: SAEConfig, normalise: Normalise = "scale", centre: Centre = "mean"
) -> Scalings:
    """Return the scalings of input and output, from the first rows; they are not counted.

    scaled = ((raw - mean) @ matrix) * scale * site_scale

    "scale": `scale` is such that the mean square of a scaled dimension is 1. "whiten": so is
    it, and `matrix` is rms * covariance^(-1/2), symmetric, with eigenvalues of the
    covariance floored at a thousandth of their mean, so that the scaled covariance is the
    identity (less than 1 where floored). "none": neither. `mean` is the centre, or 0.

    Axes that are coded jointly (sites) have a mean each; `site_scale` gives each its
    own mean square of 1, has geometric mean 1, and `scale` is the geometric mean of theirs.
    Axes with a code at each place (positions of a sequence) share all.

    Args:
        harvest: its first rows are read, 64, or so many that whitening has 16 tokens a
            dimension.
        cfg: says which axes are coded jointly.
        normalise: what is done to sizes.
        centre: what is subtracted.

    Raises:
        ConfigError: whitening was asked of sites coded jointly, or the text is too short.
        TrainingError: activations do not vary.

    Source:
        Geometric median: Gao et al. 2024, arXiv:2406.04093, appendix A.1. Whitening: Bell &
        Sejnowski 1997 (symmetric, "ZCA").
    """
    measured = ScalingSums(harvest.pair.is_autoencoder, cfg, normalise, centre)
    for acts in _first(harvest, measured.wanted_tokens):
        measured.add(acts.x, acts.y)
    harvest.counts = Counts()
    return measured.scalings()


class ScalingSums:
    """What scalings are found from: sums over the first events.

    Args:
        is_autoencoder: what is predicted is what is read.
        cfg: says which axes are coded jointly.
        normalise: what is done to sizes.
        centre: what is subtracted.

    Raises:
        ConfigError: whitening was asked of sites coded jointly.
    """

    def __init__(self, is_autoencoder: bool, cfg: SAEConfig, normalise: Normalise, centre: Centre):
        joint = [axis for axis in cfg.event if axis not in cfg.coded]
        if normalise == "whiten" and joint:
            raise ConfigError(
                f"`normalise` cannot be whiten where {' and '.join(joint)} are coded jointly, as "
                f"by `{cfg.name}`. Use scale."
            )
        shared = (0, *(1 + i for i, axis in enumerate(cfg.event) if axis in cfg.coded))
        n_sides = 1 if is_autoencoder else 2
        self.sides = [Side(shared, normalise, centre) for _ in range(n_sides)]
        whitened = normalise == "whiten"
        self.wanted_tokens = WHITEN_TOKENS * max(cfg.d_in, cfg.d_out) if whitened else 0
        self.n_tokens = 0

    def add(self, x: Float[Tensor, "n *event d_in"], y: Float[Tensor, "n *event d_out"]) -> None:
        """Take in some events."""
        self.n_tokens += x.shape[:-1].numel()
        for side, found in zip(self.sides, (x, y), strict=False):
            side.add(found)

    def scalings(self) -> Scalings:
        """Return the scalings of all events taken in.

        Raises:
            ConfigError: whitening needs more of them.
            TrainingError: they do not vary.
        """
        if self.n_tokens < self.wanted_tokens:
            raise ConfigError(
                f"`normalise` whiten needs {self.wanted_tokens:,} tokens that count, "
                f"{WHITEN_TOKENS} a dimension; the text has {self.n_tokens:,}. Give more text or "
                f"use scale."
            )
        found = [side.scaling() for side in self.sides]
        x, y = found[0], found[-1]
        mean = (self.sides[-1].sum / self.sides[-1].n).to(y.mean)
        return Scalings(x, y, y.apply(mean[None])[0])


def fit_scaling(
    harvest: Harvest, cfg: SAEConfig, normalise: Normalise = "scale", centre: Centre = "mean"
) -> Scalings:
    """Return the scalings that training applies, after refusing what could not be folded.

    Sites that share an SAE, a row each, have a scaling each: the harvest applies it, and what
    is returned leaves activations as they are.

    Raises:
        ConfigError: the architecture cannot take it, or the text is too short.
        TrainingError: activations do not vary.
    """
    pair = harvest.pair
    if not pair.shares:
        found = measure_scaling(harvest, cfg, normalise, centre)
        check_foldable(cfg, found.x, found.y)
        return found
    baselines = []
    for read, (_, measured) in _measured_apart(harvest, cfg, normalise, centre).items():
        found = measured.scalings()
        check_foldable(cfg, found.x, found.y)
        harvest.scalings[read] = (found.x, found.y)
        baselines.append(found.baseline)
    none = Scaling(torch.zeros(cfg.d_in), 1.0), Scaling(torch.zeros(cfg.d_out), 1.0)
    return Scalings(*none, torch.stack(baselines).mean(0))


def _measured_apart(
    harvest: Harvest, cfg: SAEConfig, normalise: Normalise, centre: Centre
) -> dict[Site, tuple[Harvest, ScalingSums]]:
    """Return harvest and sums of each site that is read, from one pass over the first rows."""
    pair, found = harvest.pair, {}
    for read, write in zip(pair.reads, pair.writes, strict=True):
        target = () if pair.is_autoencoder else (str(write),)
        alone = harvest.at(Pair(read=(str(read),), write=target, window=pair.window))
        sums = ScalingSums(alone.pair.is_autoencoder, cfg, normalise, centre)
        found[read] = alone, sums
    for rows in harvest.stream.rows(harvest.batch_rows):
        acts = harvest.read(rows)
        for alone, measured in found.values():
            own = alone.select(rows, acts)
            measured.add(own.x, own.y)
        enough = all(m.n_tokens >= m.wanted_tokens for _, m in found.values())
        if rows.first_row + len(rows.tokens) >= CALIBRATION_ROWS and enough:
            break
    return found


def check_foldable(cfg: SAEConfig, x: Scaling, y: Scaling) -> None:
    """Refuse, before training, scalings that could not be folded into the weights after it.

    An untrained SAE of the same settings is rescaled: whether it can be may hang on any of
    them. That costs as much as encoding `d_in` tokens, and memory for one more SAE while it
    lasts; it is left out for one number on both sides, which every architecture takes.

    Raises:
        ConfigError: the architecture refuses.
    """
    if x.matrix is None and x.site_scale is None and x is y:
        return
    cfg.build(generator(0, "check_foldable")).rescale(x, y)


class Side:
    """Sums over the first rows of one side, in float64."""

    def __init__(self, shared: tuple[int, ...], normalise: Normalise, centre: Centre):
        self.shared = shared  # axes over which there is one mean
        self.normalise: Normalise = normalise
        self.centre: Centre = centre
        self.n = 0
        self.sum = self.square = self.outer = torch.zeros((), dtype=torch.float64)
        self.rows: list[Tensor] = []

    def add(self, acts: Float[Tensor, "n *event width"]) -> None:
        """Take in some events."""
        wide = acts.detach().double()
        self.n += math.prod(acts.shape[axis] for axis in self.shared)
        self.sum = self.sum.to(wide.device) + wide.sum(self.shared)
        self.square = self.square.to(wide.device) + wide.square().sum((*self.shared, -1))
        if self.normalise == "whiten":
            flat = wide.flatten(0, -2)
            self.outer = self.outer.to(wide.device) + flat.t() @ flat
        if self.centre == "geometric_median":
            flat = acts.movedim(self.shared, tuple(range(len(self.shared))))
            self.rows.append(flat.flatten(0, len(self.shared) - 1))

    def scaling(self) -> Scaling:
        """Return the scaling of all events taken in.

        Raises:
            TrainingError: they do not vary.
        """
        mean = self.sum / self.n  # [*joint, width]
        width = mean.shape[-1]
        if not (self.square / self.n - mean.square().sum(-1) > 0).all():
            raise TrainingError("The activations of the first rows do not vary; try another site.")
        centre = {"mean": mean, "none": torch.zeros_like(mean)}.get(self.centre)
        if centre is None:
            centre = geometric_median(torch.cat(self.rows))
        if self.normalise == "none":
            return Scaling(centre.float(), 1.0)
        about = self.square / self.n - 2 * (centre * mean).sum(-1) + centre.square().sum(-1)
        scales = (width / about).sqrt()  # [*joint]
        scale = float(scales.log().mean().exp())
        matrix = site_scale = None
        if self.normalise == "whiten":
            covariance = self.outer / self.n - torch.outer(mean, mean)
            matrix = (_inverse_root(covariance) / scale).float()
        if scales.ndim:
            site_scale = (scales / scale)[..., None].float()
        return Scaling(centre.float(), scale, matrix, site_scale)


def _inverse_root(covariance: Float[Tensor, "width width"]) -> Float[Tensor, "width width"]:
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp_min(WHITEN_FLOOR * values.mean())
    return (vectors * values.rsqrt()) @ vectors.t()


def first_events(harvest: Harvest, scalings: Scalings, n_tokens: int) -> tuple[Tensor, Tensor]:
    """Return the first events of a harvest as training will see them; they are not counted.

    Returns:
        what is read and what is predicted, the same tensor for an autoencoder; at least the
        calibration rows, and `n_tokens` where the text has as many.
    """
    parts = list(_first(harvest, n_tokens))
    harvest.counts = Counts()
    x = scalings.x.apply(torch.cat([part.x.float() for part in parts]))
    if harvest.pair.is_autoencoder:
        return x, x
    return x, scalings.y.apply(torch.cat([part.y.float() for part in parts]))


def _first(harvest: Harvest, n_tokens: int) -> Iterator[ActBatch]:
    """Yield the first rows: the calibration rows, and more until there are `n_tokens`."""
    row = found = 0
    for acts in harvest.batches():
        yield acts
        row += harvest.batch_rows
        found += acts.x.shape[:-1].numel()
        if row >= CALIBRATION_ROWS and found >= n_tokens:
            return
