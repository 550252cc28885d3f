"""Which next tokens each latent promotes and suppresses, by the logit lens."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.analysis.token_sets import Enrichment, TokenSets
from saekit.core.errors import ConfigError, ShapeError
from saekit.core.result import Table
from saekit.models.base import LanguageModel

CHUNK_BYTES = 2**26  # of logits held at once
IN_CACHE = 16  # latents whose effects on a large vocabulary fit in a processor's cache
BINS = 24  # of the histogram of effects


class TopLogits(NamedTuple):
    """The n most promoted and most suppressed tokens of each latent, the extreme first."""

    promoted: Int[Tensor, "d_sae n"]  # token ids
    promoted_values: Float[Tensor, "d_sae n"]  # logit per act unit
    suppressed: Int[Tensor, "d_sae n"]
    suppressed_values: Float[Tensor, "d_sae n"]
    pieces: dict[int, str]  # string of every token id above

    def records(self) -> list[dict[str, Any]]:
        """Return ``{"promoted": [[string, value], ...], "suppressed": ...}`` by latent."""
        return [
            {"promoted": self._named(up, up_values), "suppressed": self._named(down, down_values)}
            for up, up_values, down, down_values in zip(
                *(column.tolist() for column in self[:4]), strict=True
            )
        ]

    def table(self) -> Table:
        """Return one row per latent, side and rank."""
        n_latents, n = self.promoted.shape
        ids = torch.cat([self.promoted, self.suppressed], dim=1).reshape(-1).tolist()
        values = torch.cat([self.promoted_values, self.suppressed_values], dim=1)
        return Table(
            columns={
                "latent": [i for i in range(n_latents) for _ in range(2 * n)],
                "side": (["promoted"] * n + ["suppressed"] * n) * n_latents,
                "rank": list(range(n)) * (2 * n_latents),
                "token_id": ids,
                "token": [self.pieces[i] for i in ids],
                "value": values.reshape(-1).tolist(),
            },
            units={"value": "logit per act unit"},
        )

    def _named(self, ids: Sequence[int], values: Sequence[float]) -> list[list[Any]]:
        pairs = zip(ids, values, strict=True)
        return [[self.pieces[i], float(f"{value:.4g}")] for i, value in pairs]


def top_logits(
    lm: LanguageModel, directions: Float[Tensor, "d_sae d_model"], n: int = 10
) -> TopLogits:
    """Return the tokens whose logits each latent raises and lowers most.

    Holds `CHUNK_BYTES` of logits at a time, never all of ``[d_sae, vocab]``.

    Args:
        lm: the model the SAE was trained on.
        directions: what one unit of each latent adds to the residual stream.
        n: tokens per side, 1..vocab_size.

    Returns:
        Token ids and what one act unit of the latent adds to their logits, before the
        division by the final norm.

    Raises:
        ShapeError: the directions do not live in the residual stream.
        ConfigError: `n` is out of range.

    Source:
        nostalgebraist 2020, "interpreting GPT: the logit lens".
        Differs: applied to a direction, not to an activation; see
        `LanguageModel.logit_effects` for the treatment of the final norm.
    """
    _check(lm, directions, n)
    parts = []
    for effects in _effects(lm, directions):
        up, down = effects.topk(n), effects.topk(n, largest=False)
        parts.append([c.cpu() for c in (up.indices, up.values, down.indices, down.values)])
    return _top(lm, parts)


class Spread(NamedTuple):
    """How the effects of each latent are spread over the vocabulary."""

    top: TopLogits
    mean: Float[Tensor, "d_sae"]  # logit per act unit
    std: Float[Tensor, "d_sae"]
    skew: Float[Tensor, "d_sae"]
    kurtosis: Float[Tensor, "d_sae"]  # excess: 0 of a normal distribution
    low: Float[Tensor, "d_sae"]  # ends of the histogram: the smallest and the largest effect
    high: Float[Tensor, "d_sae"]
    counts: Int[Tensor, "d_sae bins"]  # tokens in bins of equal width
    sets: Enrichment


def spread(
    lm: LanguageModel, directions: Float[Tensor, "d_sae d_model"], sets: TokenSets, n: int = 10
) -> Spread:
    """Return the same as `top_logits` with the distribution of effects over the vocabulary.

    Args:
        lm: the model the SAE was trained on.
        directions: what one unit of each latent adds to the residual stream.
        sets: classes of tokens, whose mean effects are taken too.
        n: tokens per side, 1..vocab_size.

    Raises:
        ShapeError: the directions do not live in the residual stream.
        ConfigError: `n` is out of range.
    """
    _check(lm, directions, n)
    parts: list[list[Tensor]] = []
    for chunk in _effects(lm, directions):
        for effects in chunk.float().split(IN_CACHE):  # each is looked at many times
            up, down = effects.topk(n), effects.topk(n, largest=False)
            low, high = down.values[:, 0], up.values[:, 0]
            moments = _moments(effects)
            within = sets.enrichment(effects, moments[0], moments[1])
            counts = _histogram(effects, low, high)
            found = [up.indices, up.values, down.indices, down.values, *moments]
            parts.append([c.cpu() for c in (*found, low, high, counts, *within)])
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    mean, std, skew, kurtosis, low, high, counts, *within = columns[4:]
    top, by_set = _top(lm, parts), Enrichment(*within)
    return Spread(top, mean, std, skew, kurtosis, low, high, counts, by_set)


def _moments(effects: Float[Tensor, "m vocab"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean, standard deviation, skewness and excess kurtosis of each row."""
    n, square = effects.shape[1], effects * effects
    one = effects.sum(1).double() / n
    two = torch.linalg.vecdot(effects, effects).double() / n
    three = torch.linalg.vecdot(square, effects).double() / n
    four = torch.linalg.vecdot(square, square).double() / n
    variance = (two - one * one).clamp_min(1e-60)
    skew = (three - 3 * one * two + 2 * one**3) / variance**1.5
    fourth = four - 4 * one * three + 6 * one**2 * two - 3 * one**4
    found = (one, variance.sqrt(), skew, fourth / variance**2 - 3)
    return found[0].float(), found[1].float(), found[2].float(), found[3].float()


def _histogram(
    effects: Float[Tensor, "m vocab"], low: Float[Tensor, "m"], high: Float[Tensor, "m"]
) -> Int[Tensor, "m bins"]:
    """Return how many effects of each row lie in each bin from its lowest to its highest."""
    m = len(effects)
    scale = BINS / (high - low).clamp_min(1e-30)
    spot = ((effects - low[:, None]) * scale[:, None]).to(torch.int32).clamp_(0, BINS - 1)
    spot += torch.arange(m, dtype=torch.int32, device=spot.device)[:, None] * BINS
    return torch.bincount(spot.flatten(), minlength=m * BINS).view(m, BINS)


def _check(lm: LanguageModel, directions: Tensor, n: int) -> None:
    if directions.shape[1] != lm.d_model:
        raise ShapeError(
            f"Directions have width {directions.shape[1]} and {lm.name} has d_model="
            f"{lm.d_model}; the logit lens reads SAEs that write to the residual stream."
        )
    if not 1 <= n <= lm.vocab_size:
        raise ConfigError(f"`n` must lie in 1..{lm.vocab_size} (the vocabulary); got {n}.")


@torch.no_grad()
def _effects(lm: LanguageModel, directions: Tensor) -> Iterator[Tensor]:
    """Yield the effects of some latents at a time on every logit."""
    step = max(1, CHUNK_BYTES // (4 * lm.vocab_size))
    for chunk in directions.to(lm.device).split(step):
        yield lm.logit_effects(chunk)


def _top(lm: LanguageModel, parts: Sequence[Sequence[Tensor]]) -> TopLogits:
    columns = [torch.cat(column) for column in list(zip(*parts, strict=True))[:4]]
    ids = torch.cat([columns[0], columns[2]]).unique().tolist()
    # One at a time: `pieces` of a run of ids would join characters across them.
    pieces = {i: lm.tokenizer.pieces([i])[0] for i in ids}
    return TopLogits(columns[0], columns[1].float(), columns[2], columns[3].float(), pieces)
