"""The part of an evaluation that an SAE is run in: its sums, by block of text."""

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.activations.harvest import Counts
from saekit.activations.windows import Windows, windows
from saekit.core.codes import Codes
from saekit.core.errors import DataError
from saekit.core.finite import all_finite, check_finite
from saekit.evals.base import Subject
from saekit.evals.intervals import Blocks, BlockSums
from saekit.metrics.base import Batch, registry
from saekit.metrics.fvu import FVU
from saekit.models.sites import Site
from saekit.saes.base import SAE

DENSE = 0.1  # share of tokens above which a latent counts as dense
BINS_PER_DECADE = 4


class Predictions(NamedTuple):
    """Predictions of the tokens that count, and where they belong."""

    kept: Bool[Tensor, "batch n_ctx"]
    y_hat: Float[Tensor, "m n_sites d_out"]


class _Events(NamedTuple):
    """Some events, by token: what was measured, whether it counts, and the block it is of."""

    batch: Batch  # sites of a token are one long vector
    counts: Bool[Tensor, "m"]  # tokens that the rule keeps
    block: Int[Tensor, "m"]


class Reconstruction:
    """Runs an SAE on activations and keeps every sum that needs no language model.

    Where sites are coded jointly a token is the vector of all of them, so that every metric
    weighs sites by their own scale; each site's FVU is kept beside. Where windows are, their
    tokens are measured, and no other.

    Args:
        subject: the SAE, on the device of its language model where that is another, and in
            float32: it is copied if it is not.
        blocks: of all rows of the evaluation.
    """

    def __init__(self, subject: Subject, blocks: Blocks):
        self.subject = subject
        self._sae = float32_on(subject.sae, subject.lm.device if subject.lm else None)
        self._block_of, sizes = blocks
        kinds = {name: registry.get(name) for name in registry.names()}
        self.blocks = {
            name: BlockSums(kind(), sizes) for name, kind in kinds.items() if not kind.needs
        }
        self.with_high_norm = BlockSums(FVU(), sizes)
        self.by_site = {way.write: BlockSums(FVU(), sizes) for way in subject.ways}
        self.counts = Counts()
        width = len(subject.ways) * subject.sae.cfg.d_out
        self._y_sum = torch.zeros(width, dtype=torch.float64)
        self._l0: list[Tensor] = []

    @property
    def mean(self) -> Float[Tensor, "n_sites d_out"]:
        """The mean activation at the write sites over the tokens kept so far; 0 if none."""
        mean = self._y_sum / max(self.counts.kept, 1)
        return mean.view(len(self.subject.ways), self.subject.sae.cfg.d_out)

    def add(
        self,
        first_row: int,
        tokens: Int[Tensor, "batch n_ctx"],
        acts: Mapping[Site, Float[Tensor, "batch n_ctx width"]],
    ) -> Predictions:
        """Measure some rows, of which the first is row `first_row` of the evaluation.

        Raises:
            DataError: activations or predictions are not finite.
        """
        subject = self.subject
        check_finite(acts, first_row)
        reads = [way.rule.keep(tokens, acts[way.read]) for way in subject.ways]
        at_reads = torch.stack(reads).all(0)
        writes = [w.write_rule.keep(tokens, acts[w.write]) for w in subject.ways if w.write_rule]
        fit = torch.stack([at_reads, *writes]).all(0)
        ordinary = ~subject.rule.is_special(tokens.to(fit.device))
        cut = windows(fit, subject.window) if subject.window else None
        kept = fit if cut is None else cut.mask(fit)
        n, n_ordinary, n_reads, n_fit, n_kept = (
            fit.numel(),
            *(int(mask.sum()) for mask in (ordinary, at_reads, fit, kept)),
        )
        self.counts = self.counts.plus(
            Counts(n, n - n_ordinary, n_ordinary - n_reads, n_kept, n_fit - n_kept, n_reads - n_fit)
        )
        reads = [acts[way.read] for way in subject.ways]
        writes = [acts[way.write] for way in subject.ways]
        block = self._block_of[first_row : first_row + len(tokens)].to(kept.device)
        found = self._events(cut, reads, writes, (ordinary, kept, block))
        if not all_finite(found.batch.y_hat):
            raise DataError(
                f"{subject.name} predicts values that are not finite in rows from {first_row}. "
                f"Its training diverged, or it was trained on activations of another scale."
            )
        self._add_sums(found)
        y_hat = found.batch.y_hat[found.counts]
        return Predictions(kept, y_hat.view(len(y_hat), len(subject.ways), subject.sae.cfg.d_out))

    def _events(
        self,
        cut: Windows | None,
        reads: list[Tensor],
        writes: list[Tensor],
        places: tuple[Tensor, Tensor, Tensor],
    ) -> _Events:
        """Run the SAE on what is measured: ordinary tokens, or windows of those that count.

        `places` are, by row and position: ordinary tokens, those that count, and the block.
        """
        ordinary, kept, block = places

        def arranged(acts: list[Tensor]) -> Tensor:
            parts = [(a[ordinary] if cut is None else cut.of(a)).float() for a in acts]
            return torch.stack(parts, dim=1) if len(parts) > 1 else parts[0]

        x, y = arranged(reads), arranged(writes)
        codes = self._sae.encode(x)
        y_hat = self._sae.decode(codes)
        shape = codes.n_rows, len(self._y_sum)  # tokens, and their sites side by side
        batch = Batch(y.reshape(shape), y_hat.reshape(shape), codes._replace(batch=shape[:1]))
        where = ordinary if cut is None else kept
        return _Events(batch, kept[where], block[where])

    def _add_sums(self, found: _Events) -> None:
        batch = found.batch
        for b in found.block.unique().tolist():
            here = found.block == b
            if not self.subject.window:  # beside windows, other tokens have no prediction
                every = Batch(batch.y[here], batch.y_hat[here], _no_codes(batch.acts))
                self.with_high_norm.add(b, self.with_high_norm.metric.sums(every))
            some = (here & found.counts).nonzero()[:, 0]
            counting = Batch(batch.y[some], batch.y_hat[some], batch.acts.take(some))
            for sums in self.blocks.values():
                sums.add(b, sums.metric.sums(counting))
            sides = (side.chunk(len(self.by_site), 1) for side in (counting.y, counting.y_hat))
            for sums, y, y_hat in zip(self.by_site.values(), *sides, strict=True):
                sums.add(b, sums.metric.sums(Batch(y, y_hat, _no_codes(batch.acts))))
            self._y_sum += counting.y.sum(0, dtype=torch.float64).cpu()
            self._l0.append(counting.acts.live().starts.diff().cpu())

    def details(self) -> dict[str, Any]:
        """Return what lies behind the scores, JSON-ready."""
        n = self.counts.kept
        counts = self.blocks["density"].total()
        fired = counts["fired"] if counts else torch.zeros(self.subject.sae.cfg.d_sae)
        apart = self.with_high_norm.score()
        return {
            "tokens": self.counts._asdict(),
            "l0_percentiles": _percentiles(torch.cat(self._l0)) if n else None,
            "density_histogram": _histogram(fired / n, n) if n else None,
            "dead": {"latents": int((fired == 0).sum()), "of": len(fired), "after_tokens": n},
            "dense_share": float((fired > DENSE * n).double().mean()) if n else None,
            "fvu_with_high_norm": asdict(apart),
        }


def float32_on(sae: SAE, device: torch.device | None) -> SAE:
    """Return an SAE in float32 on a device (None: where it is): itself, or else a copy."""
    weights = [w for w in sae.state_dict().values() if w.is_floating_point()]
    where = {w.device for w in weights} <= {device} or device is None
    if where and all(w.dtype == torch.float32 for w in weights):
        return sae
    return copy.deepcopy(sae).to(device=device, dtype=torch.float32)


def _no_codes(like: Codes) -> Codes:
    return like.take(slice(0, 0))


def _percentiles(l0: Int[Tensor, "n"]) -> dict[str, float]:
    shares = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    ordered = l0.double().sort().values
    places = (shares * (len(ordered) - 1)).round().long()
    names = (f"p{round(100 * s)}" for s in shares.tolist())
    return dict(zip(names, ordered[places].tolist(), strict=True))


def _histogram(density: Float[Tensor, "d_sae"], n_tokens: int) -> dict[str, Any]:
    """Count latents by the decimal logarithm of the share of tokens they fire on.

    Edges are on one grid for every SAE, so that histograms can be laid over each other.
    """
    live = density[density > 0].double().log10()
    lowest = int(torch.tensor(1 / n_tokens, dtype=torch.float64).log10().floor())
    edges = torch.arange(lowest * BINS_PER_DECADE, 1, dtype=torch.float64) / BINS_PER_DECADE
    counts = torch.histogram(live, edges).hist if len(edges) > 1 else torch.zeros(0)
    return {
        "log10_edges": edges.tolist(),
        "latents": [int(c) for c in counts],
        "never_fired": int((density == 0).sum()),
    }
