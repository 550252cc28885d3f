"""The part of an evaluation that replaces activations and watches the predictions."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.progress import Progress
from saekit.evals import _predictions
from saekit.evals._reconstruction import Predictions
from saekit.evals._replacing import HELD_BYTES, Ablated, Replacing, Rows, add_sums, filled, pieces
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
        compare([(self, placed)], tokens, clean, acts)

    def add(self, site: Site, rows: Rows) -> None:
        """Take in rows that were measured with a site replaced; measure them with 0 there."""
        self._ablate("zero", rows, {site: rows.rest[site].new_zeros(())})
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


class _Spliced(NamedTuple):
    """What the unembedding reads of scored positions, with one site replaced by an SAE."""

    by: Splicing
    site: Site
    kept: Bool[Tensor, "batch n_ctx"]
    rest: Float[Tensor, "n width"]  # activations that are not replaced
    final: Float[Tensor, "scored d_model"] | None  # None: nothing was changed


def abreast(clean: Float[Tensor, "batch n_ctx d_model"], n_sites: int) -> int:
    """Return how many SAEs of as many sites `compare` is given at once, for memory."""
    each = 4 * clean.numel() * 2 * n_sites
    return max(1, HELD_BYTES // max(each, 1))


def compare(
    every: Sequence[tuple[Splicing, Predictions]],
    tokens: Int[Tensor, "batch n_ctx"],
    clean: Float[Tensor, "batch n_ctx d_model"],
    acts: Mapping[Site, Float[Tensor, "batch n_ctx width"]],
) -> None:
    """Measure predictions with kept activations replaced by each SAE's, and by 0.

    Logits of the untouched model are made once for all. Where an SAE gives every activation back to
    the bit, as the raw activation as a code does, the model has nothing to run: nothing is changed.

    Args:
        every: of one language model, each with what its SAE predicts of the rows; see `abreast`.
        tokens: the rows.
        clean: what the unembedding of the untouched model reads.
        acts: activations of the untouched model at the sites.
    """
    tokens = tokens.to(clean.device)
    alike: dict[tuple[int, ...], list[tuple[Splicing, Predictions, int]]] = {}
    for one, placed in every:
        for i in range(len(one.sites)):
            alike.setdefault(one.special_ids, []).append((one, placed, i))
    for special_ids, some in alike.items():
        scored = _predictions.scored(tokens, special_ids)
        _measure([_spliced(*one, tokens, scored, acts) for one in some], (tokens, scored), clean)


def _spliced(
    one: Splicing,
    placed: Predictions,
    i: int,
    tokens: Tensor,
    scored: Tensor,
    acts: Mapping[Site, Tensor],
) -> _Spliced:
    site, y_hat, kept = one.sites[i], placed.y_hat[:, i], placed.kept
    before = acts[site]
    rest = before[~kept]
    if torch.equal(y_hat.to(before), before[kept]):
        one.bar.add(tokens.numel())
        return _Spliced(one, site, kept, rest, None)
    final = one.final(tokens, {site: Whole(filled(kept, rest, y_hat))})
    return _Spliced(one, site, kept, rest, final[scored])


def _measure(some: Sequence[_Spliced], rows: tuple[Tensor, Tensor], clean: Tensor) -> None:
    """Keep losses and divergences of some ways of replacing, and the losses with 0 in place."""
    (tokens, scored), lm = rows, some[0].by.lm
    targets, before = _predictions.next_tokens(tokens, scored), clean[scored]
    found: list[list[tuple[Tensor, ...]]] = [[] for _ in some]
    for part in pieces(lm, len(targets)):
        p = lm.unembed(before[part])
        for one, pairs in zip(some, found, strict=True):
            q = p if one.final is None else lm.unembed(one.final[part])
            pairs.append(tuple(_predictions.against(p, q, targets[part])))
    for one, pairs in zip(some, found, strict=True):
        both = _predictions.Against(*_predictions.joined(pairs, 3, clean))
        ce, kl = {"clean": both.clean, "spliced": both.other}, {"spliced": both.kl}
        measured = Rows(tokens, scored, {one.site: one.kept}, {one.site: one.rest}, ce, kl)
        one.by.add(one.site, measured)
