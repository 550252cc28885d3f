"""How broad a latent is: entropy of the tokens it is on at, and of the tokens it promotes.

The published file ``feature_level_entropies`` has both for every latent of some layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.config import Config, setting
from saekit.core.errors import ShapeError
from saekit.studies.locality.published._flat import PublishedFile

CHUNK = 256  # latents whose logits are held together


class Level(NamedTuple):
    """What one layer's latents show."""

    H_vocab: Float[Tensor, "d_sae"]  # bits; NaN where a latent is on too rarely
    H_logit: Float[Tensor, "d_sae"]  # bits
    totals: Int[Tensor, "d_sae"]  # tokens it is on at

    def means(self) -> tuple[float, float]:
        """Return the means over latents, of H_vocab over those that have one."""
        return float(self.H_vocab.nanmean()), float(self.H_logit.mean())


@dataclass(frozen=True, kw_only=True)
class Levels(Config):
    """Entropies of latents over the vocabulary.

    H_vocab(a) = entropy in bits of the token ids at which a is above the threshold;
    H_logit(a) = entropy in bits of softmax(W_U D_a), W_U the unembedding and D_a the direction
    that a writes. In models whose directions are short against the logits' scale H_logit is
    log2 of the vocabulary for every latent, and tells nothing.

    Args:
        threshold: activations above this are on, act units.
        min_count: tokens a latent must be on at for H_vocab.

    Raises:
        ConfigError: a number is out of range.

    Source:
        lccqqqqq/sae-analysis, feature_level_entropies.
    """

    name: ClassVar[str] = "feature_levels"
    threshold: float = setting(1.0, least=0)
    min_count: int = setting(20, least=1)


def promoted_bits(
    directions: Float[Tensor, "n d_model"], unembedding: Float[Tensor, "vocab d_model"]
) -> Float[Tensor, "n"]:
    """Return the entropy in bits of softmax(W_U D_a) for each direction.

    Raises:
        ShapeError: directions are not as wide as the unembedding.
    """
    if directions.shape[-1] != unembedding.shape[-1]:
        raise ShapeError(
            f"Directions must be as wide as the unembedding, {unembedding.shape[-1]}; got "
            f"{directions.shape[-1]}."
        )
    found = []
    for some in directions.detach().float().split(CHUNK):
        logs = (some @ unembedding.float().T).log_softmax(-1)
        found.append(-(logs.exp() * logs).sum(-1) / torch.log(torch.tensor(2.0)))
    return torch.cat(found).double().cpu()


def published(
    found: Mapping[int, Level], config: Levels, about: Mapping[str, Any]
) -> PublishedFile:
    """Return layers in the layout of the published file, for `dataset.write`.

    Args:
        found: by layer.
        config: how they were measured.
        about: model, text and the like, JSON-ready.
    """
    arrays = {"layers": torch.tensor(sorted(found), dtype=torch.int64).numpy()}
    for layer in sorted(found):
        level = found[layer]
        arrays |= {
            f"layer_{layer}_H_vocab": level.H_vocab.float().numpy(),
            f"layer_{layer}_H_logit": level.H_logit.float().numpy(),
            f"layer_{layer}_totals": level.totals.numpy(),
        }
    info = {
        "config": {
            **about,
            "layers": sorted(found),
            "threshold": config.threshold,
            "min_count": config.min_count,
        }
    }
    return PublishedFile("feature_level_entropies", "", arrays, info)
