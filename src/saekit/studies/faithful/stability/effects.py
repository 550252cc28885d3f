"""Effects: whether matched latents of two seeds change the same logits, added or taken out."""

from collections.abc import Iterator
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.stats.ranks import pearson
from saekit.models.base import LanguageModel, Replace
from saekit.models.sites import Site

POSITIONS = 8  # the last tokens of a row whose next-token logits are compared


class Effects:
    """How logits change when a direction is added at every token that counts, on some rows.

    Args:
        lm: the language model.
        site: where the direction is added.
        tokens: the rows.
        kept: tokens that count.
    """

    def __init__(
        self,
        lm: LanguageModel,
        site: Site,
        tokens: Int[Tensor, "rows n_ctx"],
        kept: Bool[Tensor, "rows n_ctx"],
    ):
        self._lm, self._site, self._tokens, self._kept = lm, site, tokens, kept
        self._clean = self._logits({})

    def _logits(self, replace: dict[Site, Replace]) -> Float[Tensor, "places vocab"]:
        final = self._lm.final(self._tokens, replace)[:, -POSITIONS:]
        return self._lm.unembed(final.reshape(-1, final.shape[-1])).float().cpu()

    def of(self, direction: Float[Tensor, "d"]) -> Float[Tensor, "n"]:
        """Return the change of every logit, less its mean at the place, which changes nothing."""
        kept = self._kept

        def add(acts: Tensor) -> Tensor:
            out = acts.clone()
            mask = kept.to(out.device)
            out[mask] = out[mask] + direction.to(out)
            return out

        change = self._logits({self._site: add}) - self._clean
        return (change - change.mean(1, keepdim=True)).flatten()


def correlations(
    effects: Effects, one: Float[Tensor, "p d"], other: Float[Tensor, "p d"]
) -> tuple[list[float], list[float]]:
    """Return the correlation of logit changes of matched latents, and of pairs that are not.

    Each latent of one is compared with its own match and with the match of the next pair.

    Args:
        effects: measures a direction.
        one: what is added for each latent of one SAE.
        other: for their matches; at least two.
    """
    theirs = [effects.of(direction) for direction in other]
    mine: Iterator[Tensor] = (effects.of(direction) for direction in one)
    matched, unmatched = [], []
    for i, change in enumerate(mine):
        matched.append(pearson(change, theirs[i]))
        unmatched.append(pearson(change, theirs[(i + 1) % len(theirs)]))
    return matched, unmatched


class Acting(NamedTuple):
    """Matched latents of one SAE at work: their activations on some rows, and what they write."""

    acts: Float[Tensor, "rows n_ctx p"]  # 0 at tokens that do not count
    directions: Float[Tensor, "p d"]


class Ablation:
    """How logits change when what a latent writes is taken out at the tokens where it is on.

    Args:
        lm: the language model.
        site: where the latent writes.
        tokens: the rows.
    """

    def __init__(self, lm: LanguageModel, site: Site, tokens: Int[Tensor, "rows n_ctx"]):
        self._lm, self._site, self._tokens = lm, site, tokens
        self._clean: dict[int, Tensor] = {}

    def of(
        self,
        row: int,
        places: Int[Tensor, "places"],
        acts: Float[Tensor, "n_ctx"],
        direction: Float[Tensor, "d"],
    ) -> Float[Tensor, "n"]:
        """Return the change of every logit at some places, less its mean at each.

        Args:
            row: which of the rows.
            places: tokens of it whose next-token logits are compared.
            acts: activation of the latent at each token.
            direction: what it adds there, per unit of activation.
        """
        if row not in self._clean:
            self._clean[row] = self._lm.final(self._tokens[row : row + 1], {})[0].cpu()
        removed = acts[:, None] * direction

        def less(x: Tensor) -> Tensor:
            return x - removed.to(x)[None]

        final = self._lm.final(self._tokens[row : row + 1], {self._site: less})[0]
        change = self._logits(final[places.to(final.device)]) - self._logits(
            self._clean[row][places]
        )
        return (change - change.mean(1, keepdim=True)).flatten()

    def _logits(self, final: Tensor) -> Tensor:
        return self._lm.unembed(final.to(self._lm.device)).float().cpu()


def ablation_correlations(
    ablation: Ablation, one: Acting, other: Acting
) -> tuple[list[float], list[float]]:
    """Return the correlation of logit changes when a latent is taken out, and when its match is.

    Both are taken out of the row where the first is on most strongly, each with its own
    activations, and logits are compared at up to 8 tokens: those where the two are on most. The
    second list is a floor: at the same tokens and as strongly as the first, the direction of the
    next pair's match is taken out.

    Args:
        ablation: measures a latent.
        one: matched latents of one SAE, each on somewhere in the rows.
        other: their matches; at least two.
    """
    matched, unmatched = [], []
    for i, direction in enumerate(one.directions):
        row = int(one.acts[:, :, i].abs().amax(1).argmax())
        mine, theirs = one.acts[row, :, i], other.acts[row, :, i]
        share = mine.abs() / mine.abs().max() + theirs.abs() / theirs.abs().max().clamp(min=1e-12)
        most = share.topk(min(POSITIONS, len(mine)))
        places = most.indices[most.values > 0].sort().values
        change = ablation.of(row, places, mine, direction)
        twin = ablation.of(row, places, theirs, other.directions[i])
        stranger = ablation.of(row, places, mine, other.directions[(i + 1) % len(one.directions)])
        # A match that is off in the whole row changes nothing there: no effect in common.
        matched.append(pearson(change, twin) if bool(twin.any()) else 0.0)
        unmatched.append(pearson(change, stranger))
    return matched, unmatched
