"""Losses with one layer's activations replaced, for each layer, and with all replaced at once."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.errors import DataError
from saekit.core.progress import Progress
from saekit.evals import _predictions
from saekit.evals._reconstruction import Placed
from saekit.evals.base import Subject
from saekit.evals.intervals import BlockSums, blocks_of_rows
from saekit.metrics.base import Batch, Metric, Sums, registry, total
from saekit.models.base import Replace
from saekit.models.sites import Site

ALL = "all"  # every layer replaced in one pass


@final
class MeanGap(Metric):
    """Mean over scored tokens of a figure that `_predictions.gaps` gives; not registered."""

    name: ClassVar[str] = "gap"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats/token"
    better: ClassVar[str] = "lower"
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


class _Rows(NamedTuple):
    """What is known of some rows under one way of replacing: an entry a scored token."""

    tokens: Int[Tensor, "batch n_ctx"]
    scored: Bool[Tensor, "batch n_ctx"]
    kept: Mapping[Site, Bool[Tensor, "batch n_ctx"]]  # of the sites that are replaced
    ce: dict[str, Float[Tensor, "m"]]
    kl: dict[str, Float[Tensor, "m"]]


class LayerLosses:
    """Losses under every way of replacing: each site alone, and all at once.

    Where all are replaced, each SAE reads what the model makes of the replacements before it.
    Tokens that do not count at a site keep what the model makes there, in every case.

    Args:
        subjects: the SAE at each site.
        bar: counts tokens through the whole model.
    """

    def __init__(self, subjects: Sequence[Subject], bar: Progress):
        assert subjects[0].lm is not None
        self.lm, self.bar, self.subjects = subjects[0].lm, bar, list(subjects)
        self._special_ids = subjects[0].rule.special_ids
        self.ways = [*(str(s.read) for s in subjects), ALL]
        self._rows: dict[str, list[_Rows]] = {way: [] for way in self.ways}

    def clean(self, tokens: Int[Tensor, "batch n_ctx"]) -> tuple[Tensor, dict[Site, Tensor]]:
        """Return logits of the untouched model, and activations of every site on the way."""
        acts: dict[Site, Tensor] = {}

        def look(site: Site) -> Replace:
            def see(values: Tensor) -> Tensor:
                acts[site] = values
                return values

            return see

        sites = dict.fromkeys(s for one in self.subjects for s in (one.read, one.write))
        return self._logits(tokens, {site: look(site) for site in sites}), acts

    def compare(
        self, tokens: Int[Tensor, "batch n_ctx"], clean: Tensor, placed: Sequence[Placed]
    ) -> None:
        """Measure some rows: each site replaced, all replaced, and the same with 0."""
        tokens = tokens.to(clean.device)
        scored = _predictions.scored(tokens, self._special_ids)
        kept = {one.write: p.kept for one, p in zip(self.subjects, placed, strict=True)}
        for one, p in zip(self.subjects, placed, strict=True):
            replace = {one.write: _put(p.kept, p.y_hat[:, 0])}
            rows = self._rows_of(tokens, scored, {one.write: p.kept}, clean, replace)
            self._rows[str(one.read)].append(rows)
        if all(one.read == one.write for one in self.subjects):
            every = {one.read: _reread(one, kept[one.read]) for one in self.subjects}
            self._rows[ALL].append(self._rows_of(tokens, scored, kept, clean, every))

    def ablate_mean(self, means: Mapping[Site, Float[Tensor, "d_out"]]) -> None:
        """Measure all rows so far with what counts replaced by the mean of each site."""
        for every in self._rows.values():
            for rows in every:
                self._ablate("mean", rows, means)

    def blocks(self, way: str, n_blocks: int) -> dict[str, BlockSums]:
        """Return the sums of every metric of predictions under a way, by block of rows.

        Raises:
            DataError: a loss is not finite.
        """
        kinds = {n: registry.get(n)() for n in registry.names()}
        kinds = {n: k for n, k in kinds.items() if k.needs}
        kinds |= {"kl_back": MeanGap("back"), "logit_mse": MeanGap("logit_mse", "logits squared")}
        found = {name: BlockSums(kind, n_blocks) for name, kind in kinds.items()}
        of_row = torch.tensor(blocks_of_rows(sum(len(r.tokens) for r in self._rows[way]), n_blocks))
        first = 0
        for rows in self._rows[way]:
            _refuse_infinite(rows, way)
            mine = of_row[first : first + len(rows.tokens)].to(rows.scored.device)
            block = mine[rows.scored.nonzero()[:, 0]]
            for b in block.unique().tolist():
                here = block == b
                batch = _batch({k: v[here] for k, v in rows.ce.items()},
                               {k: v[here] for k, v in rows.kl.items()})  # fmt: skip
                for sums in found.values():
                    sums.add(b, sums.metric.sums(batch))
            first += len(rows.tokens)
        return found

    @property
    def n_scored(self) -> int:
        """Tokens whose prediction was scored."""
        return sum(int(rows.scored.sum()) for rows in self._rows[self.ways[0]])

    def _rows_of(
        self, tokens: Tensor, scored: Tensor, kept: Mapping[Site, Tensor], clean: Tensor,
        replace: dict[Site, Replace],
    ) -> _Rows:  # fmt: skip
        spliced = self._logits(tokens, replace)
        both = _predictions.against(clean, spliced, tokens, scored)
        more = _predictions.gaps(clean, spliced, scored)
        kl = {"spliced": both.kl, "back": more.kl_back, "logit_mse": more.logit_mse}
        rows = _Rows(tokens, scored, kept, {"clean": both.clean, "spliced": both.other}, kl)
        self._ablate("zero", rows, {site: clean.new_zeros(()) for site in kept})
        return rows

    def _ablate(self, name: str, rows: _Rows, values: Mapping[Site, Tensor]) -> None:
        replace = {s: _put(k, values[s].to(k.device)) for s, k in rows.kept.items()}
        logits = self._logits(rows.tokens, replace)
        rows.ce[name] = _predictions.losses(logits, rows.tokens, rows.scored)

    def _logits(self, tokens: Tensor, replace: dict[Site, Replace]) -> Tensor:
        self.bar.add(tokens.numel())
        return self.lm.logits(tokens, replace)


def _put(kept: Tensor, values: Tensor) -> Replace:
    def replace(acts: Tensor) -> Tensor:
        out = acts.clone()
        out[kept] = values.to(acts.dtype)
        return out

    return replace


def _reread(subject: Subject, kept: Tensor) -> Replace:
    """Return a replacement by what the SAE makes of what it finds there."""

    def replace(acts: Tensor) -> Tensor:
        out = acts.clone()
        out[kept] = subject.sae(acts[kept].float()).to(acts.dtype)
        return out

    return replace


def _refuse_infinite(rows: _Rows, way: str) -> None:
    for name, values in (rows.ce | rows.kl).items():
        if not values.isfinite().all():
            raise DataError(
                f"Predictions with {way} replaced are not finite ({name}). The model overflows; "
                f"use dtype float32 or bfloat16."
            )


def _batch(ce: dict[str, Tensor], kl: dict[str, Tensor]) -> Batch:
    nothing = torch.zeros(0, 1)
    return Batch(nothing, nothing, Codes.from_dense(nothing), ce, kl)
