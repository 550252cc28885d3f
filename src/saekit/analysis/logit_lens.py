"""Which next tokens each latent promotes and suppresses, by the logit lens."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.errors import ConfigError, ShapeError
from saekit.core.result import Table
from saekit.models.base import LanguageModel

CHUNK_BYTES = 2**26  # of logits held at once


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
    if directions.shape[1] != lm.d_model:
        raise ShapeError(
            f"Directions have width {directions.shape[1]} and {lm.name} has d_model="
            f"{lm.d_model}; the logit lens reads SAEs that write to the residual stream."
        )
    if not 1 <= n <= lm.vocab_size:
        raise ConfigError(f"`n` must lie in 1..{lm.vocab_size} (the vocabulary); got {n}.")
    step = max(1, CHUNK_BYTES // (4 * lm.vocab_size))
    parts = []
    with torch.no_grad():
        for chunk in directions.to(lm.device).split(step):
            effects = lm.logit_effects(chunk)
            up, down = effects.topk(n), effects.topk(n, largest=False)
            parts.append([c.cpu() for c in (up.indices, up.values, down.indices, down.values)])
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    ids = torch.cat([columns[0], columns[2]]).unique().tolist()
    # One at a time: `pieces` of a run of ids would join characters across them.
    pieces = {i: lm.tokenizer.pieces([i])[0] for i in ids}
    return TopLogits(columns[0], columns[1].float(), columns[2], columns[3].float(), pieces)
