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
from saekit.models.base import LanguageModel, Look, Replace, Whole
from saekit.models.sites import Site

Ablated = dict[str, Float[Tensor, "m"]]  # losses by a digest of all they depend on
ROWS_KNOWN = 8  # ablated rows whose pass is remembered: mostly all rows are the same one
LOGIT_BYTES = 2**27  # of float32 logits made at a time, so that the unembedding is read seldom
HELD_BYTES = 2**28  # of predictions of several SAEs, and what the unembedding reads with them


class Rows(NamedTuple):
    """What is known of some rows under one way of replacing: an entry a scored token."""

    tokens: Int[Tensor, "batch n_ctx"]
    scored: Bool[Tensor, "batch n_ctx"]
    kept: Mapping[Site, Bool[Tensor, "batch n_ctx"]]  # of the sites that are replaced
    rest: Mapping[Site, Float[Tensor, "n width"]]  # activations there that are not replaced
    ce: dict[str, Float[Tensor, "m"]]
    kl: dict[str, Float[Tensor, "m"]]


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
        self._known: dict[str, Tensor] = {}

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
                repr([str(site) for site in rows.kept]).encode(),
                *(_bytes(one) for one in (rows.tokens, rows.scored)),
                *(_bytes(one) for s, k in rows.kept.items() for one in (k, values[s])),
            ]
        )
        if same in self._ablated:
            self.bar.add(rows.tokens.numel())
        else:
            self._ablated[same] = self._losses(rows, values)
        rows.ce[name] = self._ablated[same]

    def _losses(self, rows: Rows, values: Mapping[Site, Tensor]) -> Float[Tensor, "m"]:
        """Return the loss of each scored token with what counts replaced by one value for all.

        Where the stream decides all that follows, rows with the same stream are one row. Ablated
        rows mostly are: only special tokens, alike in all of them, keep what they had.
        """
        sites = list(rows.kept)
        if len(sites) > 1:  # what does not count keeps what the model makes there, not what it had
            replace: dict[Site, Replace] = {s: put(k, values[s]) for s, k in rows.kept.items()}
            finals = list(self.final(rows.tokens, replace))
            return self._losses_of(rows, finals, range(len(finals)))
        site = sites[0]
        acts = filled(rows.kept[site], rows.rest[site], values[site])
        if not self.lm.stream_decides(site):
            finals = list(self.final(rows.tokens, {site: Whole(acts)}))
            return self._losses_of(rows, finals, range(len(finals)))
        keys = [digest([repr(str(site)).encode(), _bytes(row)]) for row in acts]
        once = list(dict.fromkeys(keys))
        if new := [key for key in once if key not in self._known]:
            at = torch.tensor([keys.index(key) for key in new], device=acts.device)
            found = self.lm.final(rows.tokens[at], {site: Whole(acts[at])})
            self._known |= dict(zip(new, found, strict=True))
        self.bar.add(rows.tokens.numel())
        finals = [self._known[key] for key in once]
        for key in list(self._known)[:-ROWS_KNOWN]:
            del self._known[key]
        return self._losses_of(rows, finals, [once.index(key) for key in keys])

    def _losses_of(
        self, rows: Rows, finals: Sequence[Tensor], of: Sequence[int]
    ) -> Float[Tensor, "m"]:
        """Return the loss of each scored token, where rows share what the unembedding reads.

        Args:
            rows: the rows.
            finals: what it reads, ``[n_ctx, d_model]`` each.
            of: which of them each row has.
        """
        targets = rows.tokens.roll(-1, 1)
        out = torch.zeros(rows.tokens.shape, dtype=torch.float32, device=rows.tokens.device)
        for i, final in enumerate(finals):
            mine = torch.tensor([one == i for one in of], device=out.device)
            at = rows.scored[mine].any(0)  # positions that some of the rows score
            found = [
                _predictions.losses_of_rows(self.lm.unembed(part), goals)
                for part, goals in zip(
                    final[at].split(self._piece),
                    targets[mine][:, at].split(self._piece, 1),
                    strict=True,
                )
            ]
            if found:
                place = mine[:, None] & at[None]
                out[place] = torch.cat(found, 1).flatten()
        return out[rows.scored]

    @property
    def _piece(self) -> int:
        return max(1, LOGIT_BYTES // (4 * self.lm.vocab_size))

    def final(self, tokens: Tensor, replace: Mapping[Site, Replace]) -> Tensor:
        """Return what the unembedding reads of a pass with some sites replaced."""
        self.bar.add(tokens.numel())
        return self.lm.final(tokens, replace)

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


def filled(
    kept: Bool[Tensor, "batch n_ctx"], rest: Float[Tensor, "n width"], values: Tensor
) -> Float[Tensor, "batch n_ctx width"]:
    """Return activations of all tokens: of kept ones one value each, or one for all.

    Args:
        kept: tokens that are replaced.
        rest: what the others have, in their order.
        values: of the kept tokens.
    """
    out = rest.new_empty(*kept.shape, rest.shape[-1])
    out[~kept] = rest
    out[kept] = values.to(rest)
    return out


def put(kept: Tensor, values: Tensor) -> Replace:
    """Return a replacement of kept tokens by one value each, or by one for all."""

    def replace(acts: Tensor) -> Tensor:
        out = acts.clone()
        out[kept] = values.to(acts)
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
