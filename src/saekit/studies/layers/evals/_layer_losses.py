"""Losses with one layer's activations replaced, for each layer, and with all replaced at once."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.core.progress import Progress
from saekit.evals import _predictions
from saekit.evals._reconstruction import Predictions
from saekit.evals._replacing import Replacing, Rows, add_sums, filled
from saekit.evals.base import Subject
from saekit.evals.intervals import Blocks, BlockSums
from saekit.metrics.base import Batch, Metric, Sums, registry, total
from saekit.models.base import Replace, Whole
from saekit.models.sites import Site

ALL = "all"  # every layer replaced in one pass


@final
class MeanGap(Metric):
    """Mean over scored tokens of a figure that `_predictions.gaps` gives; not registered."""

    name: ClassVar[str] = "gap"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats/token"
    better: ClassVar[str] = "lower"
    scale: ClassVar[str] = "log"
    needs: ClassVar[frozenset[str]] = frozenset({"kl"})

    def __init__(self, key: str, unit: str = "nats/token"):
        self.key, self.unit = key, unit  # pyright: ignore[reportAttributeAccessIssue]

    @override
    def sums(self, batch: Batch) -> Sums:
        values = (batch.kl or {})[self.key]
        return {"n": torch.tensor(float(len(values)), dtype=torch.float64), "sum": total(values)}

    @override
    def compute(self, sums: Sums) -> float | None:
        return float(sums["sum"] / sums["n"]) if sums["n"] else None


class LayerLosses(Replacing):
    """Losses under every way of replacing: each site alone, and all at once.

    Where all are replaced, each SAE reads what the model makes of the replacements before it.
    Tokens that do not count at a site keep what the model makes there, in every case.

    Args:
        subjects: the SAE at each site.
        bar: counts tokens through the whole model.
    """

    def __init__(self, subjects: Sequence[Subject], bar: Progress):
        assert subjects[0].lm is not None
        super().__init__(subjects[0].lm, subjects[0].rule.special_ids, bar)
        self.subjects = list(subjects)
        self.ways = [*(str(s.read) for s in subjects), ALL]
        self._rows: dict[str, list[Rows]] = {way: [] for way in self.ways}

    def compare(
        self,
        tokens: Int[Tensor, "batch n_ctx"],
        clean: Tensor,
        acts: Mapping[Site, Tensor],
        placed: Sequence[Predictions],
    ) -> None:
        """Measure some rows: each site replaced, all replaced, and the same with 0.

        `clean` is what the unembedding of the untouched model reads, `acts` what it has on the way.
        """
        tokens = tokens.to(clean.device)
        scored = _predictions.scored(tokens, self.special_ids)
        kept = {one.write: p.kept for one, p in zip(self.subjects, placed, strict=True)}
        rest = {site: acts[site][~k] for site, k in kept.items()}
        for one, p in zip(self.subjects, placed, strict=True):
            site = one.write
            replace = {site: Whole(filled(p.kept, rest[site], p.y_hat[:, 0]))}
            only = {site: p.kept}, {site: rest[site]}
            self._rows[str(one.read)].append(self._rows_of(tokens, scored, only, clean, replace))
        if all(one.read == one.write for one in self.subjects):
            every = {one.read: _reread(one, kept[one.read]) for one in self.subjects}
            self._rows[ALL].append(self._rows_of(tokens, scored, (kept, rest), clean, every))

    def ablate_mean(self, means: Mapping[Site, Float[Tensor, "d_out"]]) -> None:
        """Measure all rows so far with what counts replaced by the mean of each site."""
        for every in self._rows.values():
            for rows in every:
                self._ablate("mean", rows, means)

    def sums(self, way: str, blocks: Blocks) -> dict[str, BlockSums]:
        """Return the sums of every metric of predictions under a way, by block of text.

        Raises:
            DataError: a loss is not finite.
        """
        kinds = {n: registry.get(n)() for n in registry.names()}
        kinds = {n: k for n, k in kinds.items() if k.needs}
        kinds |= {"kl_back": MeanGap("back"), "logit_mse": MeanGap("logit_mse", "logits squared")}
        found = {name: BlockSums(kind, blocks.sizes) for name, kind in kinds.items()}
        add_sums(found, self._rows[way], blocks, f"with {way} replaced")
        return found

    @property
    def n_scored(self) -> int:
        """Tokens whose prediction was scored."""
        return sum(int(rows.scored.sum()) for rows in self._rows[self.ways[0]])

    def _rows_of(
        self,
        tokens: Tensor,
        scored: Tensor,
        places: tuple[Mapping[Site, Tensor], Mapping[Site, Tensor]],
        clean: Tensor,
        replace: Mapping[Site, Replace],
    ) -> Rows:
        """Measure rows under a way of replacing; `places` are `kept` and `rest` of `Rows`."""
        spliced = self.final(tokens, replace)
        found = [
            (*_predictions.against(p, q, targets), *_predictions.gaps(p, q))
            for targets, (p, q) in self._logits(tokens, scored, clean, spliced)
        ]
        values = _predictions.joined(found, 5, clean)
        both, more = _predictions.Against(*values[:3]), _predictions.Gaps(*values[3:])
        kl = {"spliced": both.kl, "back": more.kl_back, "logit_mse": more.logit_mse}
        ce = {"clean": both.clean, "spliced": both.other}
        rows = Rows(tokens, scored, *places, ce, kl)
        self._ablate("zero", rows, {site: clean.new_zeros(()) for site in rows.kept})
        return rows


def _reread(subject: Subject, kept: Tensor) -> Replace:
    """Return a replacement by what the SAE makes of what it finds there."""

    def replace(acts: Tensor) -> Tensor:
        out = acts.clone()
        out[kept] = subject.sae(acts[kept].float()).to(acts.dtype)
        return out

    return replace
