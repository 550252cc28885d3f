"""What layouts share: four maps with or without thresholds, a skip beside, a frame around them."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from saekit.core.errors import ShapeError
from saekit.hub.formats._fold import Affine
from saekit.hub.formats.base import need, only
from saekit.saes.base import SAEConfig
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.relu import ReLU
from saekit.saes.skip import Skip
from saekit.saes.standardised import Standardised

NAMES = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")


def affine(
    weights: dict[str, Tensor],
    where: Path,
    more: tuple[str, ...] = NAMES[4:],
    vectors: tuple[str, ...] = NAMES[4:],
) -> Affine:
    """Return the maps of tensors that have saekit's names and orientation, shapes checked.

    Args:
        weights: W_enc ``[d_in, d_sae]``, W_dec ``[d_sae, d_out]``, b_enc, b_dec, and `more`.
        where: the file, for messages.
        more: names of the other tensors there are.
        vectors: those of them that have a number for each latent.

    Raises:
        FormatError: a tensor is missing, or there is one too many.
        ShapeError: one has another shape.
    """
    only(weights, {*NAMES[:4], *more}, where)
    need(weights, {}, where, names=(*NAMES[:4], *vectors))
    for name in NAMES[:2]:
        if weights[name].ndim != 2:
            raise ShapeError(
                f"`{name}` in {where} must have two axes; got {list(weights[name].shape)}."
            )
    (d_in, d_sae), d_out = weights["W_enc"].shape, weights["W_dec"].shape[1]
    need(weights, {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_dec": (d_out,)}, where)
    need(weights, {"b_enc": (d_sae,)} | {name: (d_sae,) for name in vectors}, where)
    return Affine(*(weights[n] for n in NAMES[:4]))


def jumping(folded: Affine, threshold: Tensor) -> tuple[SAEConfig, dict[str, Tensor]]:
    """Return the SAE whose latents are on above their threshold, and above 0.

    A threshold below 0 is one of 0: the rectifier comes after the jump.
    """
    (d_in, d_sae), d_out = folded.W_enc.shape, folded.W_dec.shape[1]
    cfg = JumpReLU(d_in=d_in, d_out=d_out, d_sae=d_sae, decoder="free", target_l0=min(32.0, d_sae))
    return cfg, folded.state() | {"threshold": threshold.float().clamp_min(0)}


def skipping(
    cfg: SAEConfig, state: dict[str, Tensor], W_skip: Tensor | None
) -> tuple[SAEConfig, dict[str, Tensor]]:
    """Return an SAE with a linear map ``[d_in, d_out]`` beside it, or without where it is None."""
    if W_skip is None:
        return cfg, state
    sizes: dict[str, Any] = {"d_in": cfg.d_in, "d_out": cfg.d_out, "d_sae": cfg.d_sae}
    inner = {f"inner.{name}": value for name, value in state.items()}
    more = {"W_skip": W_skip.float(), "centre": torch.zeros(cfg.d_in)}
    return Skip(inner=cfg, **sizes), inner | more


def standardised(
    cfg: SAEConfig,
    state: dict[str, Tensor],
    by: Literal["std", "rms"] = "std",
    bias: Literal["two", "shared"] = "two",
) -> tuple[SAEConfig, dict[str, Tensor]]:
    """Return an SAE that divides each token by its own size, and multiplies it by it after.

    Codes are those of the SAE inside times the token's size.
    """
    sizes: dict[str, Any] = {"d_in": cfg.d_in, "d_out": cfg.d_out}
    # The frame does not depend on how many latents there are.
    least = Standardised(by=by, inner=ReLU(**sizes, d_sae=1), **sizes, d_sae=1)
    frame = least.build(torch.Generator().manual_seed(0)).state_dict()
    whole = {n: t for n, t in frame.items() if not n.startswith("inner.")}
    whole |= {f"inner.{name}": value for name, value in state.items()}
    sizes["d_sae"] = cfg.d_sae
    return Standardised(by=by, inverse="published", bias=bias, inner=cfg, **sizes), whole
