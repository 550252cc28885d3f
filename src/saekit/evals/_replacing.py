"""Predictions with activations replaced: what an SAE at one site and SAEs at all layers share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.codes import Codes
from saekit.core.errors import DataError
from saekit.core.files import digest
from saekit.core.finite import all_finite
from saekit.core.progress import Progress
from saekit.evals import _predictions
from saekit.evals.intervals import Blocks, BlockSums
from saekit.metrics.base import Batch
from saekit.models.base import LanguageModel, Replace
from saekit.models.sites import Site

Ablated = dict[str, Float[Tensor, "m"]]  # losses by a digest of all they depend on
LOGIT_BYTES = 2**27  # of float32 logits made at a time, so that the unembedding is read seldom
HELD_BYTES = 2**28  # of predictions of several SAEs, and what the unembedding reads with them


class Look:
    """A replacement that leaves activations as they are, and has them afterwards."""

    def __init__(self) -> None:
        self.acts: Tensor | None = None

    def __call__(self, values: Tensor) -> Tensor:
        """Keep the values and return them."""
        self.acts = values
        return values


class Rows(NamedTuple):
    """What is known of some rows under one way of replacing: an entry a scored token."""

    tokens: Int[Tensor, "batch n_ctx"]
    scored: Bool[Tensor, "batch n_ctx"]
    kept: Mapping[Site, Bool[Tensor, "batch n_ctx"]]  # of the sites that are replaced
    ce: dict[str, Float[Tensor, "m"]]
    kl: dict[str, Float[Tensor, "m"]]
    # Of one site: what the untouched model has there at tokens that are not replaced.
    others: Float[Tensor, "k width"] | None = None

    def begin(self) -> tuple[Site, Float[Tensor, "batch n_ctx width"]] | None:
        """Return a site from which a pass with all kept tokens replaced may begin, if it is known.

        Kept tokens are 0 there, and are replaced.
        """
        if self.others is None:
            return None
        ((site, kept),) = self.kept.items()
        acts = self.others.new_zeros(*kept.shape, self.others.shape[-1])
        acts[~kept] = self.others
        return site, acts


class Replacing:
    """A language model whose activations are looked at and replaced.

    Args:
        lm: the language model.
        special_ids: tokens whose prediction is not scored.
        bar: counts tokens through the whole model.
        ablated: losses of passes in which activations are one value for all, by what they depend
            on: several SAEs that are given the same dict share them.
    """

    def __init__(
        self,
        lm: LanguageModel,
        special_ids: tuple[int, ...],
        bar: Progress,
        ablated: Ablated | None = None,
    ):
        self.lm, self.bar = lm, bar
        self.special_ids = special_ids
        self._ablated: Ablated = {} if ablated is None else ablated

    def clean(
        self, tokens: Int[Tensor, "batch n_ctx"], sites: Iterable[Site]
    ) -> tuple[
        Float[Tensor, "batch n_ctx d_model"], dict[Site, Float[Tensor, "batch n_ctx width"]]
    ]:
        """Return what the unembedding of the untouched model reads, and activations on the way."""
        looks = {site: Look() for site in sites}
        final = self.final(tokens, looks)
        return final, {site: look.acts for site, look in looks.items() if look.acts is not None}

    def _ablate(self, name: str, rows: Rows, values: Mapping[Site, Tensor]) -> None:
        """Measure rows with what counts at their sites replaced by one value for all."""
        same = digest(
            [
                repr([id(self.lm), *map(str, rows.kept)]).encode(),
                *(_bytes(one) for one in (rows.tokens, rows.scored)),
                *(_bytes(one) for s, k in rows.kept.items() for one in (k, values[s])),
            ]
        )
        if same in self._ablated:
            self.bar.add(rows.tokens.numel())
        else:
            replace = {s: put(k, values[s].to(k.device)) for s, k in rows.kept.items()}
            final = self.final(rows.tokens, replace, rows.begin())
            pieces = self._logits(rows.tokens, rows.scored, final)
            found = [_predictions.losses(logits, targets) for targets, (logits,) in pieces]
            nothing = final.new_zeros(0, dtype=torch.float32)
            self._ablated[same] = torch.cat(found) if found else nothing
        rows.ce[name] = self._ablated[same]

    def final(
        self, tokens: Tensor, replace: dict[Site, Replace], begin: tuple[Site, Tensor] | None = None
    ) -> Tensor:
        """Return what the unembedding reads; a pass may begin where activations are known."""
        self.bar.add(tokens.numel())
        if begin is None:
            return self.lm.final(tokens, replace)
        return self.lm.final_from(tokens, replace, *begin)

    def _logits(
        self, tokens: Tensor, scored: Tensor, *finals: Tensor
    ) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Yield next tokens of some scored positions, and their logits under each pass."""
        return logits_in_parts(self.lm, tokens, scored, *finals)


def logits_in_parts(
    lm: LanguageModel, tokens: Tensor, scored: Tensor, *finals: Tensor
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield next tokens of some scored positions, and their logits under each pass.

    Only a piece of the logits is there at a time, whatever context and vocabulary are.
    """
    targets = _predictions.next_tokens(tokens, scored)
    kept = [final[scored] for final in finals]
    for part in pieces(lm, len(targets)):
        yield targets[part], [lm.unembed(final[part]) for final in kept]


def pieces(lm: LanguageModel, n: int) -> Iterator[slice]:
    """Yield parts of positions whose logits are made at a time."""
    size = max(1, LOGIT_BYTES // (4 * lm.vocab_size))
    return (slice(first, first + size) for first in range(0, n, size))


def _bytes(values: Tensor) -> bytes:
    # Viewed as bytes, for numpy has no bfloat16; a view needs the strides that a copy has.
    copied = values.detach().cpu().clone(memory_format=torch.contiguous_format)
    return copied.reshape(-1).view(torch.uint8).numpy().tobytes()


def put(kept: Tensor, values: Tensor) -> Replace:
    """Return a replacement of kept tokens by one value each, or by one for all."""

    def replace(acts: Tensor) -> Tensor:
        out = acts.clone()
        out[kept] = values.to(acts.dtype)
        return out

    return replace


def add_sums(
    found: Mapping[str, BlockSums], every: Sequence[Rows], blocks: Blocks, what: str
) -> None:
    """Add the sums of every metric of predictions, by block of text.

    Args:
        found: of each metric; added to.
        every: all rows of a way of replacing.
        blocks: of these rows.
        what: whose predictions, for an error.

    Raises:
        DataError: a loss is not finite.
    """
    first = 0
    for rows in every:
        _refuse_infinite(rows, what)
        mine = blocks.of[first : first + len(rows.tokens)].to(rows.scored.device)
        block = mine[rows.scored]
        for b in block.unique().tolist():
            here = block == b
            batch = _batch(
                {k: v[here] for k, v in rows.ce.items()}, {k: v[here] for k, v in rows.kl.items()}
            )
            for sums in found.values():
                sums.add(b, sums.metric.sums(batch))
        first += len(rows.tokens)


def _refuse_infinite(rows: Rows, what: str) -> None:
    divergences = {("KL" if name == "spliced" else name): v for name, v in rows.kl.items()}
    for name, values in (rows.ce | divergences).items():
        if not all_finite(values):
            raise DataError(
                f"Predictions {what} are not finite ({name}). The model overflows; use dtype "
                f"float32 or bfloat16."
            )


def _batch(ce: dict[str, Tensor], kl: dict[str, Tensor]) -> Batch:
    nothing = torch.zeros(0, 1)
    return Batch(nothing, nothing, Codes.from_dense(nothing), ce, kl)
