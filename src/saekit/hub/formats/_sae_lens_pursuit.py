"""Matching pursuit as SAELens writes it: one dictionary, and one bias on both sides or on none."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saekit.core.errors import ConfigError, FormatError
from saekit.hub.formats.base import need, only, say
from saekit.saes.base import SAE, SAEConfig
from saekit.saes.matching_pursuit import MatchingPursuit


def read(
    raw: dict[str, Any], weights: dict[str, Tensor], where: Path
) -> tuple[SAEConfig, dict[str, Tensor]]:
    """Return the configuration and the whole state.

    Raises:
        FormatError: a tensor does not fit, or a setting is one that saekit has not.
    """
    d_in, d_sae = say(raw, "d_in", int, where), say(raw, "d_sae", int, where)
    need(weights, {"W_dec": (d_sae, d_in), "b_dec": (d_in,)}, where)
    only(weights, {"W_dec", "b_dec"}, where)
    rows, bias = weights["W_dec"].float(), weights["b_dec"].float()
    if raw["normalize_activations"] != "none":
        raise FormatError(
            f"{where} is of a matching pursuit with normalize_activations "
            f"`{raw['normalize_activations']}`; saekit reads `none`."
        )
    if not raw.get("apply_b_dec_to_input", True):
        bias = torch.zeros_like(bias)  # SAELens then uses it on neither side
    stops = bool(raw.get("stop_on_duplicate_support", True))
    k = raw.get("max_iterations") or d_in  # None is d_in, as the library has it
    if stops:  # a latent that comes a second time ends the pursuit: it cannot choose more
        k = min(k, d_sae)
    try:
        cfg = MatchingPursuit(
            d_in=d_in,
            d_out=d_in,
            d_sae=d_sae,
            k=k,
            tolerance=float(raw.get("residual_threshold", 1e-2)),
            stop_at_repeat=stops,
        )
    except ConfigError as error:
        raise FormatError(f"{where.parent} has impossible settings: {error}") from error
    state = {"W_dec": rows, "b_in": bias, "b_dec": bias.clone()}
    state["gain"] = torch.ones((), dtype=torch.float64)
    state["tolerance"] = torch.tensor(cfg.tolerance, dtype=torch.float64)
    return cfg, state


def write(sae: SAE) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return settings and tensors by SAELens' names.

    Raises:
        ConfigError: SAELens cannot hold it: it has one bias, and what it predicts has the unit of
            what it reads.
    """
    cfg, state = sae.cfg, {n: t.detach() for n, t in sae.state_dict().items()}
    if not isinstance(cfg, MatchingPursuit) or float(state["gain"]) != 1:
        raise ConfigError(
            f"SAELens' matching pursuit predicts in the unit that it reads; this SAE has a gain of "
            f"{float(state['gain']):.6g}. Use --format saekit."
        )
    if not torch.equal(state["b_in"], state["b_dec"]):
        raise ConfigError(
            "SAELens' matching pursuit has one bias, taken off and added; this SAE has two that "
            "differ. Use --format saekit."
        )
    settings = {
        "apply_b_dec_to_input": True,
        "max_iterations": cfg.k,
        "residual_threshold": float(state["tolerance"]),
        "stop_on_duplicate_support": cfg.stop_at_repeat,
    }
    return settings, {n: state[n].float().contiguous() for n in ("W_dec", "b_dec")}
