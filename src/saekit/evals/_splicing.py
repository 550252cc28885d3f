"""The part of an evaluation that replaces activations and watches the predictions."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.progress import Progress
from saekit.evals import _predictions
from saekit.evals._reconstruction import Predictions
from saekit.evals._replacing import Ablated, Replacing, Rows, add_sums, filled
from saekit.evals.intervals import Blocks, BlockSums
from saekit.metrics.base import registry
from saekit.models.base import LanguageModel, Whole
from saekit.models.sites import Site


class Splicing(Replacing):
    """Losses of a language model with activations at one site replaced.

    Of several sites, each is replaced alone, with the others as the model makes them, and
    losses are means over sites: of one residual stream the last prediction would otherwise
    overwrite what the earlier ones did.

    Args:
        lm: the language model.
        sites: where activations are replaced.
        special_ids: tokens whose prediction is not scored.
        bar: counts tokens through the whole model.
        ablated: see `Replacing`.
    """

    def __init__(
        self,
        lm: LanguageModel,
        sites: Sequence[Site],
        special_ids: tuple[int, ...],
        bar: Progress,
        ablated: Ablated | None = None,
    ):
        super().__init__(lm, special_ids, bar, ablated)
        self.sites = sites
        self._rows: dict[Site, list[Rows]] = {site: [] for site in sites}

    def compare(
        self,
        tokens: Int[Tensor, "batch n_ctx"],
        clean: Float[Tensor, "batch n_ctx d_model"],
        acts: Mapping[Site, Float[Tensor, "batch n_ctx width"]],
        placed: Predictions,
    ) -> None:
        """Measure predictions with kept activations replaced by the SAE's, and by 0.

        Args:
            tokens: the rows.
            clean: what the unembedding of the untouched model reads.
            acts: activations of the untouched model at the sites.
            placed: what the SAE makes of them.
        """
        tokens = tokens.to(clean.device)
        scored = _predictions.scored(tokens, self._special_ids)
        for i, site in enumerate(self.sites):
            rest = acts[site][~placed.kept]
            whole = filled(placed.kept, rest, placed.y_hat[:, i])
            spliced = self._final(tokens, {site: Whole(whole)})
            found = [
                tuple(_predictions.against(p, q, targets))
                for targets, (p, q) in self._logits(tokens, scored, clean, spliced)
            ]
            both = _predictions.Against(*_predictions.joined(found, 3, clean))
            ce = {"clean": both.clean, "spliced": both.other}
            kept, kl = {site: placed.kept}, {"spliced": both.kl}
            rows = Rows(tokens, scored, kept, {site: rest}, ce, kl)
            self._ablate("zero", rows, {site: placed.y_hat.new_zeros(())})
            self._rows[site].append(rows)

    def ablate_mean(self, mean: Float[Tensor, "n_sites d_out"]) -> None:
        """Measure predictions of all rows so far with kept activations replaced by `mean`."""
        for site, value in zip(self.sites, mean, strict=True):
            for rows in self._rows[site]:
                self._ablate("mean", rows, {site: value.float()})

    def sums(self, blocks: Blocks, site: Site | None = None) -> dict[str, BlockSums]:
        """Return the sums of every metric of predictions, by block of text.

        Args:
            blocks: of the rows that were measured.
            site: the one that was replaced; None: all, each of which was replaced alone.

        Raises:
            DataError: a loss is not finite.
        """
        kinds = {name: registry.get(name) for name in registry.names()}
        found = {n: BlockSums(k(), blocks.sizes) for n, k in kinds.items() if k.needs}
        what = f"of {self.lm.name} ({self.lm.dtype})"
        for one in self.sites if site is None else [site]:
            add_sums(found, self._rows[one], blocks, what)
        return found

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
