"""Harvest: text through the model to the activations that count."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saekit.activations.batch import ActBatch
from saekit.activations.pairs import Pair
from saekit.activations.rules import FittedRule, TokenRule, fit
from saekit.core.errors import DataError
from saekit.data.tokenise import Rows, TokenStream
from saekit.models.base import LanguageModel
from saekit.models.sites import Site

CALIBRATION_ROWS = 64


class Counts(NamedTuple):
    """What the rule did to the tokens of a harvest, summed over sites where they are folded."""

    seen: int = 0
    special: int = 0
    high_norm: int = 0
    kept: int = 0

    def plus(self, other: "Counts") -> "Counts":
        """Return both together."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


class Harvest:
    """Activations of a stream of rows at a pair of sites, filtered by rule.

    One forward pass a batch reads every site and stops after the last. The rule's numbers
    come from the first rows of the stream.

    Args:
        model: the language model.
        stream: rows of tokens.
        pair: the sites.
        rule: which tokens count.
        batch_rows: rows of one forward pass.
        fitted: the rule's numbers by site name where they are known, as for held-out text.

    Raises:
        DataError: activations are not finite.
    """

    def __init__(
        self,
        model: LanguageModel,
        stream: TokenStream,
        pair: Pair,
        rule: TokenRule,
        *,
        batch_rows: int = 16,
        fitted: dict[str, FittedRule] | None = None,
    ):
        self.model, self.stream, self.pair = model, stream, pair
        self.batch_rows = batch_rows
        self.counts = Counts()
        for site in pair.sites:
            model.check_site(site)
        self.rules = fitted or self._calibrate(rule)

    def _calibrate(self, rule: TokenRule) -> dict[str, FittedRule]:
        tokens, acts = [], {site: [] for site in self.pair.sites}
        for rows in self.stream.rows(self.batch_rows, n_rows=CALIBRATION_ROWS):
            tokens.append(rows.tokens)
            for site, found in self.read(rows).items():
                acts[site].append(found.cpu())
        special = self.model.tokenizer.special_ids
        every = torch.cat(tokens)
        return {str(s): fit(rule, special, every, torch.cat(a)) for s, a in acts.items()}

    def read(self, rows: Rows) -> dict[Site, Float[Tensor, "batch n_ctx width"]]:
        """Return the activations of some rows at every site of the pair.

        Raises:
            DataError: they are not finite.
        """
        found = self.model.read(rows.tokens.to(self.model.device), self.pair.sites)
        for site, acts in found.items():
            if not acts.isfinite().all():
                raise DataError(
                    f"Activations at {site} are not finite in rows from {rows.first_row} "
                    f"({acts.dtype}). The model overflows; use dtype float32 or bfloat16."
                )
        return found

    def batches(self, first_row: int = 0, n_rows: int | None = None) -> Iterator[ActBatch]:
        """Yield the activations that count, one batch a forward pass, in text order."""
        for rows in self.stream.rows(self.batch_rows, first_row=first_row, n_rows=n_rows):
            yield self.select(rows, self.read(rows))

    def select(self, rows: Rows, acts: dict[Site, Tensor]) -> ActBatch:
        """Return the tokens of some rows that count, with their activations."""
        masks = {site: self.keep(rows, site, acts[site]) for site in self.pair.reads}
        if not self.pair.fold:
            every = torch.stack(list(masks.values())).all(0)
            masks = dict.fromkeys(self.pair.reads, every)
        xs = [acts[s][masks[s]] for s in self.pair.reads]
        x = self.pair.arrange(xs)
        y = x
        if not self.pair.is_autoencoder:
            both = zip(self.pair.reads, self.pair.writes, strict=True)
            y = self.pair.arrange([acts[w][masks[r]] for r, w in both])
        places = [m.nonzero() for m in masks.values()]
        place = torch.cat(places) if self.pair.fold else places[0]
        return ActBatch(x, y, place[:, 0] + rows.first_row, place[:, 1])

    def keep(
        self, rows: Rows, site: Site, acts: Float[Tensor, "batch n_ctx width"]
    ) -> Bool[Tensor, "batch n_ctx"]:
        """Return which tokens count at a site, and count them."""
        rule = self.rules[str(site)]
        kept = rule.keep(rows.tokens, acts)
        special = int(rule.is_special(rows.tokens).sum())
        n, n_kept = kept.numel(), int(kept.sum())
        self.counts = self.counts.plus(Counts(n, special, n - special - n_kept, n_kept))
        return kept
