"""Effects: whether matched latents of two seeds change the same logits when they are steered."""

from collections.abc import Iterator

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
