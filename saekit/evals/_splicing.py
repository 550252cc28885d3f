"""The part of an evaluation that replaces activations and watches the predictions."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.codes import Codes
from saekit.core.errors import DataError
from saekit.core.finite import all_finite
from saekit.core.progress import Progress
from saekit.evals import _predictions
from saekit.evals._reconstruction import Placed
from saekit.evals.intervals import BlockSums, blocks_of_rows
from saekit.metrics.base import Batch, registry
from saekit.models.base import LanguageModel, Replace
from saekit.models.sites import Site


class _Rows(NamedTuple):
    """What is known of some rows: losses by intervention, one entry a scored token."""

    tokens: Int[Tensor, "batch n_ctx"]
    kept: Bool[Tensor, "batch n_ctx"]
    scored: Bool[Tensor, "batch n_ctx"]
    ce: dict[str, Float[Tensor, "m"]]
    kl: dict[str, Float[Tensor, "m"]]


class Splicing:
    """Losses of a language model with activations at one site replaced.

    Of several sites, each is replaced alone, with the others as the model makes them, and
    losses are means over sites: of one residual stream the last prediction would otherwise
    overwrite what the earlier ones did.

    Args:
        lm: the language model.
        sites: where activations are replaced.
        special_ids: tokens whose prediction is not scored.
        bar: counts tokens through the whole model.
    """

    def __init__(
        self,
        lm: LanguageModel,
        sites: Sequence[Site],
        special_ids: tuple[int, ...],
        bar: Progress,
    ):
        self.lm, self.sites, self.bar = lm, sites, bar
        self._special_ids = special_ids
        self._rows: dict[Site, list[_Rows]] = {site: [] for site in sites}

    def clean(
        self, tokens: Int[Tensor, "batch n_ctx"], sites: Iterable[Site]
    ) -> tuple[Float[Tensor, "batch n_ctx vocab"], dict[Site, Float[Tensor, "batch n_ctx width"]]]:
        """Return logits of the untouched model, and activations seen on the way."""
        acts: dict[Site, Tensor] = {}

        def look(site: Site) -> Replace:
            def see(values: Tensor) -> Tensor:
                acts[site] = values
                return values

            return see

        logits = self._logits(tokens, {site: look(site) for site in sites})
        return logits, acts

    def compare(
        self,
        tokens: Int[Tensor, "batch n_ctx"],
        clean: Float[Tensor, "batch n_ctx vocab"],
        placed: Placed,
    ) -> None:
        """Measure predictions with kept activations replaced by the SAE's, and by 0."""
        tokens = tokens.to(clean.device)
        scored = _predictions.scored(tokens, self._special_ids)
        for i, site in enumerate(self.sites):
            spliced = self._logits(tokens, {site: _put(placed.kept, placed.y_hat[:, i])})
            both = _predictions.against(clean, spliced, tokens, scored)
            ce = {"clean": both.clean, "spliced": both.other}
            rows = _Rows(tokens, placed.kept, scored, ce, {"spliced": both.kl})
            self._ablate("zero", site, placed.y_hat.new_zeros(()), rows)
            self._rows[site].append(rows)

    def ablate_mean(self, mean: Float[Tensor, "n_sites d_out"]) -> None:
        """Measure predictions of all rows so far with kept activations replaced by `mean`."""
        for site, value in zip(self.sites, mean, strict=True):
            for rows in self._rows[site]:
                self._ablate("mean", site, value.to(rows.kept.device, torch.float32), rows)

    def blocks(self, n_blocks: int, site: Site | None = None) -> dict[str, BlockSums]:
        """Return the sums of every metric of predictions, by block of rows.

        Args:
            n_blocks: blocks that the rows are cut into.
            site: the one that was replaced; None: all, each of which was replaced alone.

        Raises:
            DataError: a loss is not finite.
        """
        kinds = {name: registry.get(name) for name in registry.names()}
        found = {n: BlockSums(k(), n_blocks) for n, k in kinds.items() if k.needs}
        for one in self.sites if site is None else [site]:
            self._add_sums(found, self._rows[one], n_blocks)
        return found

    def _add_sums(self, found: dict[str, BlockSums], every: list[_Rows], n_blocks: int) -> None:
        of_row = blocks_of_rows(sum(len(r.tokens) for r in every), n_blocks)
        first = 0
        for rows in every:
            self._refuse_infinite(rows)
            device = rows.scored.device
            of_mine = torch.tensor(of_row[first : first + len(rows.tokens)], device=device)
            block = of_mine[rows.scored.nonzero()[:, 0]]
            for b in block.unique().tolist():
                here = block == b
                batch = _batch({k: v[here] for k, v in rows.ce.items()},
                               {k: v[here] for k, v in rows.kl.items()})  # fmt: skip
                for sums in found.values():
                    sums.add(b, sums.metric.sums(batch))
            first += len(rows.tokens)

    def mean_losses(self, site: Site | None = None) -> dict[str, float]:
        """Return the mean loss under each intervention at a site, or over sites; nats/token."""
        sites = self.sites if site is None else [site]
        every = [rows for one in sites for rows in self._rows[one]]
        names = every[0].ce if every else ()
        means = {n: torch.cat([r.ce[n] for r in every]).double() for n in names}
        return {n: float(v.mean()) for n, v in means.items() if len(v)}

    @property
    def n_scored(self) -> int:
        """Tokens whose prediction was scored."""
        return sum(int(rows.scored.sum()) for rows in self._rows[self.sites[0]])

    def _ablate(self, name: str, site: Site, value: Tensor, rows: _Rows) -> None:
        logits = self._logits(rows.tokens, {site: _put(rows.kept, value)})
        rows.ce[name] = _predictions.losses(logits, rows.tokens, rows.scored)

    def _logits(self, tokens: Tensor, replace: dict[Site, Replace]) -> Tensor:
        self.bar.add(tokens.numel())
        return self.lm.logits(tokens, replace)

    def _refuse_infinite(self, rows: _Rows) -> None:
        for name, values in (rows.ce | {"KL": rows.kl["spliced"]}).items():
            if not all_finite(values):
                raise DataError(
                    f"Predictions of {self.lm.name} ({self.lm.dtype}) are not finite "
                    f"({name}). The model overflows; use dtype float32 or bfloat16."
                )


def _put(kept: Tensor, values: Tensor) -> Replace:
    """Return a replacement of kept tokens by one value each, or by one for all."""

    def replace(acts: Tensor) -> Tensor:
        out = acts.clone()
        out[kept] = values.to(acts.dtype)
        return out

    return replace


def _batch(ce: dict[str, Tensor], kl: dict[str, Tensor]) -> Batch:
    nothing = torch.zeros(0, 1)
    return Batch(nothing, nothing, Codes.from_dense(nothing), ce, kl)
