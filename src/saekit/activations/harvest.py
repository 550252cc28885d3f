"""Harvest: text through the model to the activations that count."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.activations.batch import ActBatch
from saekit.activations.pairs import Pair
from saekit.activations.rules import FittedRule, TokenRule, fit
from saekit.activations.windows import windows
from saekit.core.finite import check_finite
from saekit.data.tokenise import Rows
from saekit.models.base import LanguageModel
from saekit.models.sites import Site
from saekit.saes.base import Scaling

CALIBRATION_ROWS = 64
HARVEST_ROWS = 16  # of a forward pass

Places = tuple[Int[Tensor, "n"], Int[Tensor, "n *window"]]  # rows, and positions in them


@runtime_checkable
class RowStream(Protocol):
    """Rows of tokens in an order of their own: a `TokenStream`, or what stands for one."""

    def rows(
        self, batch_rows: int, first_row: int = 0, n_rows: int | None = None
    ) -> Iterator[Rows]:
        """Yield rows, from one on, in batches of `batch_rows` but for the last."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Return what identifies the rows, JSON-ready."""
        ...


class Counts(NamedTuple):
    """What became of the tokens of a harvest, summed over sites where they are folded.

    Every token seen is in exactly one of the others. Where sites are coded jointly, a norm
    is too high if it is at any of them.
    """

    seen: int = 0
    special: int = 0
    high_norm: int = 0  # at a site that is read
    kept: int = 0  # in the activations that were given out
    cut: int = 0  # left over beside windows: runs of tokens that count, too short for one
    high_norm_predicted: int = 0  # at a site that is predicted, and at none that is read

    def plus(self, other: "Counts") -> "Counts":
        """Return both together."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


class Harvest:
    """Activations of a stream of rows at a pair of sites, filtered by rule.

    One forward pass a batch reads every site and stops after the last. The rule's numbers
    come from the first rows of the stream. A token counts where it does at the site that is
    read and at the one that is predicted from it.

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

    more = "give more text"  # what to do where there are too few tokens

    def __init__(
        self,
        model: LanguageModel,
        stream: RowStream,
        pair: Pair,
        rule: TokenRule,
        *,
        batch_rows: int = HARVEST_ROWS,
        fitted: dict[str, FittedRule] | None = None,
    ):
        self.model, self.stream, self.pair = model, stream, pair
        self.batch_rows = batch_rows
        self.counts = Counts()
        # By site read, of what is read and what is predicted: how sites that share an SAE are
        # brought to one size. Set by training; empty where activations are left as they are.
        self.scalings: dict[Site, tuple[Scaling, Scaling]] = {}
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

    def at(self, pair: Pair) -> "Harvest":
        """Return a harvest of the same text at some of its sites, by the same rules."""
        return Harvest(
            self.model,
            self.stream,
            pair,
            self.rules[pair.read[0]].rule,
            batch_rows=self.batch_rows,
            fitted=self.rules,
        )

    def read(self, rows: Rows) -> dict[Site, Float[Tensor, "batch n_ctx width"]]:
        """Return the activations of some rows at every site of the pair.

        Raises:
            DataError: they are not finite.
        """
        found = self.model.read(rows.tokens.to(self.model.device), self.pair.sites)
        check_finite(found, rows.first_row)
        return found

    def batches(self, first_row: int = 0, n_rows: int | None = None) -> Iterator[ActBatch]:
        """Yield the events of the text, one batch a forward pass, in text order."""
        for rows in self.stream.rows(self.batch_rows, first_row=first_row, n_rows=n_rows):
            yield self.select(rows, self.read(rows))

    def select(self, rows: Rows, acts: dict[Site, Tensor]) -> ActBatch:
        """Return the events of some rows, tokens that count or windows of them, and count."""
        pair = self.pair
        masks = {
            s: self.rules[str(s)].keep(rows.tokens, acts[s])
            for s in pair.sites
            if str(s) in self.rules
        }
        places = self.places(rows, masks)
        first = next(iter(places.values()))

        def of(site: Site, read: Site) -> Tensor:
            row, pos = places.get(read, first)
            return acts[site][row[:, None], pos] if pair.window else acts[site][row, pos]

        x = pair.arrange([self.scaled(of(s, s), s, 0) for s in pair.reads])
        y = x
        if not pair.is_autoencoder:
            both = zip(pair.reads, pair.writes, strict=True)
            y = pair.arrange([self.scaled(of(write, read), read, 1) for read, write in both])
        row = torch.cat([row for row, _ in places.values()])
        pos = torch.cat([pos[:, 0] if pair.window else pos for _, pos in places.values()])
        return ActBatch(x, y, row + rows.first_row, pos)

    def places(
        self, rows: Rows, masks: dict[Site, Bool[Tensor, "batch n_ctx"]]
    ) -> dict[Site, Places]:
        """Return where the events of some rows are, by site read, and count their tokens.

        Sites that are one event have one mask, that of the first, and are counted once.

        Args:
            rows: of tokens.
            masks: which tokens count at each site, read or predicted; a site that is only
                predicted may be missing, and then leaves none out.
        """
        pair, found = self.pair, {}
        ways = [([read], [write]) for read, write in zip(pair.reads, pair.writes, strict=True)]
        for reads, writes in ways if pair.fold else [(pair.reads, pair.writes)]:
            at_reads = torch.stack([masks[s] for s in reads]).all(0)
            kept = torch.stack([at_reads, *(masks[s] for s in writes if s in masks)]).all(0)
            found[reads[0]] = self._place(rows, at_reads, kept)
        return found

    def scaled(self, acts: Tensor, read: Site, side: int) -> Tensor:
        """Return activations, scaled in float32 where their site has a scaling of its own."""
        if read not in self.scalings:
            return acts
        return self.scalings[read][side].apply(acts.float()).to(acts.dtype)

    def _place(
        self, rows: Rows, at_reads: Bool[Tensor, "batch n_ctx"], kept: Bool[Tensor, "batch n_ctx"]
    ) -> Places:
        """Return rows and positions of the events of one mask, and count its tokens."""
        n, n_at_reads, n_kept = kept.numel(), int(at_reads.sum()), int(kept.sum())
        rule = self.rules[str(self.pair.reads[0])]
        special = int(rule.is_special(rows.tokens).sum())
        if self.pair.window:
            row, pos = windows(kept, self.pair.window)
        else:
            row, pos = kept.nonzero(as_tuple=True)
        given = pos.numel()
        self.counts = self.counts.plus(
            Counts(n, special, n - special - n_at_reads, given, n_kept - given, n_at_reads - n_kept)
        )
        return row, pos
