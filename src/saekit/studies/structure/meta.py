"""Meta-structure: how well a small dictionary of a dictionary gives its directions back."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from saekit.core.config import Config, setting
from saekit.core.errors import DataError
from saekit.core.seeds import derive, generator
from saekit.core.stats.jackknife import jackknife
from saekit.data.vectors import open_vectors
from saekit.saes.base import SAE
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.topk import TopK, TopKSAE
from saekit.training.fit import Fit
from saekit.training.fitting import FitFolder, fit_stream
from saekit.training.scaling import ScalingSums
from saekit.training.vector_stream import Split, VectorStream

LEAST_ROWS = 8
CHUNK = 4096  # rows that are encoded at once


@dataclass(frozen=True, kw_only=True)
class MetaFit(Config):
    """How a dictionary of directions is fitted.

    Args:
        width_ratio: its latents for one direction.
        k: of them on per direction, in the mean of a batch.
        steps: optimiser steps.
        batch_rows: directions of a step.
        test_share: of the directions, which it is not fitted to.
    """

    name: ClassVar[str] = "meta_fit"
    width_ratio: float = setting(0.25, above=0)
    k: int = setting(4, least=1)
    steps: int = setting(1500, least=1)
    batch_rows: int = setting(256, least=1)
    test_share: float = setting(0.1, above=0, below=1)

    def latents(self, n: int) -> int:
        """Return how many latents a dictionary of n directions has."""
        return max(math.ceil(n * self.width_ratio), self.k)


class Explained(NamedTuple):
    """What a fitted dictionary leaves of directions, sums by row."""

    missed: Float[Tensor, "n"]  # squared distance of each row from its reconstruction
    variance: Float[Tensor, "n"]  # from the mean of the rows that it was fitted to
    held_out: Int[Tensor, "m"]  # rows that it was not fitted to

    def share(self, *, held_out: bool) -> float:
        """Return the share of variance that is explained, of rows held out or of the others."""
        some = self._rows(held_out)
        return 1 - float(self.missed[some].sum() / self.variance[some].sum())

    def without(self) -> Float[Tensor, "m"]:
        """Return the share of the held-out rows without each of them in turn."""
        missed, variance = self.missed[self.held_out], self.variance[self.held_out]
        return 1 - (missed.sum() - missed) / (variance.sum() - variance)

    def _rows(self, held_out: bool) -> Tensor:
        if held_out:
            return self.held_out
        every = torch.ones(len(self.missed), dtype=torch.bool)
        every[self.held_out] = False
        return every.nonzero()[:, 0]


def unit_rows(directions: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
    """Return directions brought to length 1, without those of length 0.

    Raises:
        DataError: too few are left, or one has no finite length.
    """
    rows = directions.detach().float().cpu()
    lengths = rows.norm(dim=-1)
    if not bool(lengths.isfinite().all()):
        at = int((~lengths.isfinite()).nonzero()[0])
        raise DataError(
            f"Direction {at} has no finite length: it has NaN or infinite numbers, or numbers "
            f"above 1e19. The SAE is damaged: load or train it again."
        )
    rows = rows[lengths > 0]
    if len(rows) < LEAST_ROWS:
        raise DataError(
            f"Structure is looked for in {LEAST_ROWS} directions or more; the SAE has {len(rows)} "
            f"that are not 0."
        )
    return normalize(rows, dim=-1)


def random_rows(like: Float[Tensor, "n d"], seed: int) -> Float[Tensor, "n d"]:
    """Return as many directions of the same width, each by chance."""
    return normalize(torch.randn(like.shape, generator=generator(seed, "random rows")), dim=-1)


def held_out_rows(n: int, how: MetaFit, seed: int) -> tuple[Int[Tensor, "m"], Int[Tensor, "k"]]:
    """Return which of n directions are held out, and which are fitted to."""
    n_test = min(max(round(n * how.test_share), 1), n - 2)
    order = torch.randperm(n, generator=generator(seed, "held-out rows", n))
    return order[:n_test].sort().values, order[n_test:]


def rotated_rows(rows: Float[Tensor, "n d"], how: MetaFit, seed: int) -> Float[Tensor, "n d"]:
    """Return each direction turned by itself, with the same variance along the principal axes.

    The signs of its coordinates on the principal axes are drawn anew, so that what several
    directions share goes, and how much each axis is used stays. Lengths stay too. The axes are of
    the directions that are fitted to: those of all are axes of the held-out ones too, which are
    then explained better than they ought to be (random directions, two a dimension: by 0.17).

    Args:
        rows: of length 1.
        how: the fit, which holds some out.
        seed: that of the fit.
    """
    wide = rows.double()
    fitted = wide[held_out_rows(len(rows), how, seed)[1]]
    _, axes = torch.linalg.eigh(fitted.t() @ fitted)
    signs = torch.randint(2, rows.shape, generator=generator(seed, "signs")) * 2 - 1
    return ((wide @ axes * signs) @ axes.t()).float()


def explained(rows: Float[Tensor, "n d"], how: MetaFit, seed: int, *, shown: bool) -> Explained:
    """Fit a BatchTopK SAE to directions and say what it explains of each.

    Which are held out depends on the seed and their number alone.

    Args:
        rows: of length 1.
        how: the fit.
        seed: decides which are held out, the weights and the order.
        shown: show progress on stderr.

    Source:
        Leask et al. 2025, arXiv:2502.04878 (meta-SAEs); SAEBench's meta-structure.
        Differs: rows of length 1; held-out rows; each row is coded with its k largest latents, not
        above one threshold; the rate falls at the end as in all training.
    """
    n, width = rows.shape
    held_out, train = held_out_rows(n, how, seed)
    sae_cfg = BatchTopK(d_in=width, d_out=width, d_sae=how.latents(n), k=float(how.k))
    fit = Fit(
        sae=sae_cfg,
        tokens=len(train),
        epochs=math.ceil(how.steps * how.batch_rows / len(train)),
        batch_tokens=how.batch_rows,
        log_steps=max(how.steps // 10, 1),
        checkpoint_minutes=None,
        seed=derive(seed, "meta") % 2**31,
    )
    sums = ScalingSums(True, sae_cfg, fit.normalise, fit.centre)
    sums.add(rows[train], rows[train])
    stream = VectorStream(
        [open_vectors(rows)],
        Split(n, 1, held_out, train),
        rows=len(train),
        epochs=fit.epochs,
        batch_rows=fit.step_tokens,
        buffer_rows=n,
        seed=fit.seed,
        device="cpu",
    )
    folder = FitFolder(
        fit,
        None,
        resume=False,
        command="",
        go_on="",
        begun_with={},
        same=lambda _: None,
        manifest={},
    )
    with folder:
        sae, _ = fit_stream(fit, stream, sums.scalings(), folder, autoencoder=True, shown=shown)
    fixed = _with_k(sae, how.k)
    with torch.no_grad():
        missed = [(part - fixed(part)).double().square().sum(1) for part in rows.split(CHUNK)]
    variance = (rows.double() - rows[train].double().mean(0)).square().sum(1)
    return Explained(torch.cat(missed), variance, held_out)


def _with_k(sae: SAE, k: int) -> TopKSAE:
    """Return an SAE of the same weights that keeps the k largest latents of each row.

    With one threshold for all, rows that it was not fitted to have three times as many on.
    """
    cfg = sae.cfg
    fixed = TopK(d_in=cfg.d_in, d_out=cfg.d_out, d_sae=cfg.d_sae, k=k).build(torch.Generator())
    fixed.load_state_dict({name: sae.state_dict()[name] for name in fixed.state_dict()})
    return fixed


def ends(value: float, without: Float[Tensor, "m"]) -> tuple[float, float]:
    """Return the ends of a 95 % interval over held-out rows, each left out in turn."""
    low, high = jackknife(value, without, skewed=True)
    return low, high
