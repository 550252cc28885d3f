"""Resampling: dead latents begin again at what the SAE predicts worst."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError
from saekit.saes import _parts
from saekit.saes.base import SAE

AXES = {"W_enc": 1, "W_dec": 0, "b_enc": 0, "b_mag": 0, "r_mag": 0, "threshold": 0}  # of latents


@dataclass(frozen=True, kw_only=True)
class Resample(Config):
    """Give dead latents new weights at intervals.

    Each dead latent draws a token of the batch, without replacement and with a probability
    proportional to its squared error. Its encoder becomes the direction of that token's
    input, `encoder_scale` times as long as those of living latents are on average; its
    decoder the direction of the target, as long as the mean of living ones; its biases 0,
    and its threshold, where it has one, `encoder_scale` times the mean of living ones. The
    optimiser forgets its past. A batch of n tokens revives at most n latents: the rest wait.

    Made for penalties such as L1. Where the largest pre-activations win (`topk`), a short
    encoder seldom does, and the auxiliary loss revives more; or raise `encoder_scale`.

    Args:
        every_tokens: training tokens between two rounds.
        until: share of training after which there are none.
        encoder_scale: length of new encoders relative to living ones.

    Raises:
        ConfigError: a value is out of range.

    Source:
        Bricken et al. 2023, "Towards Monosemanticity", Transformer Circuits Thread, appendix
        "Neuron Resampling".
        Differs: tokens of one batch, not 819,200; drawn by squared error, not by the square
        of the loss; a latent is dead as elsewhere here.
    """

    name: ClassVar[str] = "resample"
    every_tokens: int = setting(5_000_000, least=1)
    until: float = setting(0.5, above=0, most=1, unit="of training")
    encoder_scale: float = setting(0.2, above=0)

    def is_due(self, before_tokens: int, after_tokens: int, total_tokens: int) -> bool:
        """Return whether a round falls to the step between two counts of training tokens."""
        crossed = before_tokens // self.every_tokens != after_tokens // self.every_tokens
        return crossed and after_tokens <= self.until * total_tokens


def check(sae: SAE) -> None:
    """Refuse an SAE whose weights are not those resampling knows.

    Raises:
        ConfigError: it has no W_enc [d_in, d_sae], W_dec [d_sae, d_out] and b_enc [d_sae].
    """
    cfg = sae.cfg
    d_in, d_out, d_sae = cfg.d_in, cfg.d_out, cfg.d_sae
    wanted = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_enc": (d_sae,)}
    found = {name: tuple(p.shape) for name, p in sae.named_parameters()}
    for name, shape in wanted.items():
        if found.get(name) != shape:
            raise ConfigError(
                f"`resample` needs an architecture with `{name}` of shape {list(shape)}; "
                f"`{cfg.name}` has {list(found[name]) if name in found else 'none'}. Set "
                f"`resample` to null."
            )


@torch.no_grad()
def resample(
    cfg: Resample,
    sae: SAE,
    x: Float[Tensor, "*batch d_in"],
    y: Float[Tensor, "*batch d_out"],
    y_hat: Float[Tensor, "*batch d_out"],
    dead: Bool[Tensor, "d_sae"],
    chance: torch.Generator,
) -> Int[Tensor, "n"]:
    """Give dead latents new weights, as `Resample` says, and return which got them.

    Args:
        cfg: how.
        sae: its weights are changed: the parameters in `AXES`.
        x: inputs of a batch, scaled as in training.
        y: its targets.
        y_hat: what the SAE predicted.
        dead: which latents are dead.
        chance: on the CPU; decides what is drawn.
    """
    assert isinstance(sae, _parts.Affine)
    x, y, err = x.flatten(0, -2), y.flatten(0, -2), (y_hat - y).flatten(0, -2)
    weight = err.double().square().sum(-1).cpu()  # [n]
    order = torch.randperm(int(dead.sum()), generator=chance)
    n = min(len(order), int((weight > 0).sum()))
    if n == 0:
        return torch.empty(0, dtype=torch.int64, device=x.device)
    drawn = torch.multinomial(weight, n, generator=chance).to(x.device)
    latents = dead.nonzero().squeeze(-1)[order[:n].to(x.device)]
    living = ~dead if not dead.all() else dead
    length = cfg.encoder_scale * sae.W_enc.norm(dim=0)[living].mean()
    sae.W_enc.index_copy_(1, latents, (normalize(x[drawn], dim=-1) * length).t())
    length = sae.W_dec.norm(dim=-1)[living].mean()
    sae.W_dec.index_copy_(0, latents, normalize(y[drawn], dim=-1) * length)
    named = parameters(sae)
    for name in named.keys() & {"b_enc", "b_mag", "r_mag"}:
        named[name][latents] = 0
    if "threshold" in named:
        named["threshold"][latents] = cfg.encoder_scale * named["threshold"][living].mean()
    return latents


def parameters(sae: SAE) -> dict[str, Tensor]:
    """Return the parameters that resampling changes."""
    return {name: p for name, p in sae.named_parameters() if name in AXES}
