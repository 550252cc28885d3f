"""The part of an evaluation that an SAE is run in: its sums, by block of text."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.activations.harvest import Counts
from saekit.core.codes import Codes
from saekit.core.errors import DataError
from saekit.evals.base import Subject
from saekit.evals.intervals import BlockSums
from saekit.metrics.base import Batch, registry
from saekit.metrics.fvu import FVU
from saekit.models.sites import Site
from saekit.saes.base import SAE

DENSE = 0.1  # share of tokens above which a latent counts as dense
BINS_PER_DECADE = 4


class Placed(NamedTuple):
    """Predictions of the tokens that count, and where they belong."""

    kept: Bool[Tensor, "batch n_ctx"]
    y_hat: Float[Tensor, "m d_out"]


class Reconstruction:
    """Runs an SAE on activations and keeps every sum that needs no language model.

    Args:
        subject: the SAE, on the device of its language model where that is another, and in
            float32: it is copied if it is not.
        blocks: block of every row of the evaluation.
    """

    def __init__(self, subject: Subject, blocks: Sequence[int]):
        self.subject = subject
        self._sae = _float32_on(subject.sae, subject.lm.device if subject.lm else None)
        self._block_of_row = torch.tensor(blocks)
        n_blocks = max(blocks, default=-1) + 1
        kinds = {name: registry.get(name) for name in registry.names()}
        self.blocks = {
            name: BlockSums(kind(), n_blocks) for name, kind in kinds.items() if not kind.needs
        }
        self.with_high_norm = BlockSums(FVU(), n_blocks)
        self.counts = Counts()
        self._y_sum = torch.zeros(subject.sae.cfg.d_out, dtype=torch.float64)
        self._l0: list[Tensor] = []

    @property
    def mean(self) -> Float[Tensor, "d_out"]:
        """The mean activation at the write site over the tokens kept so far; 0 if none."""
        return self._y_sum / max(self.counts.kept, 1)

    def add(
        self,
        first_row: int,
        tokens: Int[Tensor, "batch n_ctx"],
        acts: Mapping[Site, Float[Tensor, "batch n_ctx width"]],
    ) -> Placed:
        """Measure some rows, of which the first is row `first_row` of the evaluation.

        Raises:
            DataError: activations or predictions are not finite.
        """
        subject = self.subject
        for site in dict.fromkeys((subject.read, subject.write)):
            if not acts[site].isfinite().all():
                raise DataError(
                    f"Activations at {site} are not finite in rows from {first_row} "
                    f"({acts[site].dtype}). The model overflows; use dtype float32 or bfloat16."
                )
        kept = subject.rule.keep(tokens, acts[subject.read])
        ordinary = ~subject.rule.is_special(tokens.to(kept.device))
        n, n_ordinary, n_kept = kept.numel(), int(ordinary.sum()), int(kept.sum())
        self.counts = self.counts.plus(
            Counts(n, n - n_ordinary, n_ordinary - n_kept, n_kept)
        )
        x = acts[subject.read][ordinary].float()
        y = acts[subject.write][ordinary].float()
        codes = self._sae.encode(x)
        y_hat = self._sae.decode(codes)
        if not y_hat.isfinite().all():
            raise DataError(
                f"{subject.name} predicts values that are not finite in rows from {first_row}. "
                f"Its training diverged, or it was trained on activations of another scale."
            )
        of_row = self._block_of_row[first_row : first_row + len(tokens)].to(kept.device)
        block = of_row[ordinary.nonzero()[:, 0]]  # [n_ordinary]
        self._add_sums(block, kept[ordinary], Batch(y, y_hat, codes))
        return Placed(kept, y_hat[kept[ordinary]])

    def _add_sums(self, block: Tensor, kept: Tensor, batch: Batch) -> None:
        for b in block.unique().tolist():
            here = block == b
            every = Batch(batch.y[here], batch.y_hat[here], _no_codes(batch.acts))
            self.with_high_norm.add(b, self.with_high_norm.metric.sums(every))
            some = (here & kept).nonzero()[:, 0]
            counting = Batch(batch.y[some], batch.y_hat[some], batch.acts.take(some))
            for sums in self.blocks.values():
                sums.add(b, sums.metric.sums(counting))
            self._y_sum += counting.y.sum(0, dtype=torch.float64).cpu()
            self._l0.append(counting.acts.live().starts.diff().cpu())

    def details(self, seed: int) -> dict[str, Any]:
        """Return what lies behind the scores, JSON-ready."""
        n = self.counts.kept
        counts = self.blocks["density"].total()
        fired = counts["fired"] if counts else torch.zeros(self.subject.sae.cfg.d_sae)
        apart = self.with_high_norm.score(seed)
        return {
            "tokens": self.counts._asdict(),
            "l0_percentiles": _percentiles(torch.cat(self._l0)) if n else None,
            "density_histogram": _histogram(fired / n, n) if n else None,
            "dead": {"latents": int((fired == 0).sum()), "of": len(fired), "after_tokens": n},
            "dense_share": float((fired > DENSE * n).double().mean()) if n else None,
            "fvu_with_high_norm": asdict(apart),
        }


def _float32_on(sae: SAE, device: torch.device | None) -> SAE:
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
