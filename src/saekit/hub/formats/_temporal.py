"""Temporal SAEs as their authors and SAELens write them: names of tensors and settings, both ways.

Both scale activations by one number and have no word for another `eps` than 1e-6. saekit takes
activations as they are: the number goes into the weights, and codes come out divided by it.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saekit.core.errors import ConfigError, FormatError
from saekit.hub.formats.base import need, only, say
from saekit.saes.base import SAE, SAEConfig
from saekit.saes.temporal import EPS, Temporal

# Maps of an attention layer: the library's name, saekit's weight and bias.
MAPS = {"q_target": "query", "k_ctx": "key", "v_ctx": "value", "c_proj": "mix"}
SIZES = ("n_heads", "n_attn_layers", "bottleneck_factor")


def read(
    raw: dict[str, Any], weights: dict[str, Tensor], scale: float, config: Path, where: Path
) -> tuple[SAEConfig, dict[str, Tensor]]:
    """Return the configuration and the whole state.

    Args:
        raw: settings by SAELens' names.
        weights: tensors by SAELens' names.
        scale: what multiplies activations before they are read.
        config: where the settings are from, for messages.
        where: where the tensors are from.

    Raises:
        FormatError: a tensor or a setting does not fit, or saekit cannot run it exactly.
    """
    d_in, d_dict = say(raw, "d_in", int, config), say(raw, "d_sae", int, config)
    heads, layers, narrow = (say(raw, name, int, config) for name in SIZES)
    tied = say(raw, "tied_weights", bool, config)
    if min(heads, layers, narrow) < 1 or d_dict % (heads * narrow):
        raise FormatError(
            f"{config} has impossible settings: d_sae={d_dict} must be a multiple of "
            f"n_heads={heads} times bottleneck_factor={narrow}."
        )
    kind, k = raw.get("sae_diff_type"), raw.get("kval_topk")
    if kind not in ("topk", "relu") or (kind == "topk" and k is not None and type(k) is not int):
        raise FormatError(
            f"{config} must have the sae_diff_type `topk` with a whole kval_topk, or `relu`; got "
            f"{kind!r:.40} and {k!r:.40}."
        )
    keys = d_dict // narrow
    shapes = {"W_dec": (d_dict, d_in), "b_dec": (d_in,)}
    shapes |= {} if tied else {"W_enc": (d_in, d_dict)}
    for layer in range(layers):
        for name in MAPS:
            width = keys if name in ("q_target", "k_ctx") else d_dict
            shapes[f"attn_layers.{layer}.{name}.weight"] = (width, d_dict)
            shapes[f"attn_layers.{layer}.{name}.bias"] = (width,)
    need(weights, shapes, where)
    only(weights, set(shapes), where)
    try:
        cfg = Temporal(
            d_in=d_in,
            d_out=d_in,
            d_sae=2 * d_dict,
            n_heads=heads,
            d_key=keys // heads,
            n_attn_layers=layers,
            k=k if kind == "topk" and k is not None else d_dict,
            tied=tied,
        )
    except ConfigError as error:
        raise FormatError(f"{config} has impossible settings: {error}") from error
    state = {"W_dec": weights["W_dec"].float(), "b_dec": weights["b_dec"].float() / scale}
    state |= {} if tied else {"W_enc": weights["W_enc"].float()}
    for name, ours in MAPS.items():
        parts = [weights[f"attn_layers.{i}.{name}.weight"].float().t() for i in range(layers)]
        biases = [weights[f"attn_layers.{i}.{name}.bias"].float() for i in range(layers)]
        state[f"W_{ours}"], state[f"b_{ours}"] = torch.stack(parts), torch.stack(biases)
    for name in ("W_query", "W_key"):
        state[name] = state[name] * scale
    for name in ("b_value", "b_mix"):
        state[name] = state[name] / scale
    return cfg, state | {"eps": torch.tensor(EPS / scale)}


def write(sae: SAE) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return settings and tensors by SAELens' names.

    Raises:
        ConfigError: SAELens cannot hold it.
    """
    cfg, state = sae.cfg, {n: t.detach().float() for n, t in sae.state_dict().items()}
    if not isinstance(cfg, Temporal) or cfg.d_dict % (cfg.n_heads * cfg.d_key):
        raise ConfigError(
            f"SAELens gives keys a whole part of the dictionary's width; d_sae / 2 is "
            f"{cfg.d_sae // 2} and n_heads * d_key does not divide it. Use --format saekit."
        )
    scale = EPS / float(state["eps"])
    scale = 1.0 if abs(scale - 1) < 1e-6 else scale
    config = {
        "n_heads": cfg.n_heads,
        "n_attn_layers": cfg.n_attn_layers,
        "bottleneck_factor": cfg.d_dict // (cfg.n_heads * cfg.d_key),
        "sae_diff_type": "topk",
        "kval_topk": cfg.k,
        "tied_weights": cfg.tied,
        "activation_normalization_factor": scale,
        "normalize_activations": "none" if scale == 1 else "constant_scalar_rescale",
        "apply_b_dec_to_input": True,
        "d_sae": cfg.d_dict,
    }
    for name in ("W_query", "W_key"):
        state[name] = state[name] / scale
    for name in ("b_value", "b_mix", "b_dec"):
        state[name] = state[name] * scale
    weights = {n: state[n] for n in ("W_dec", "b_dec", "W_enc") if n in state}
    for name, ours in MAPS.items():
        for i in range(cfg.n_attn_layers):
            weights[f"attn_layers.{i}.{name}.weight"] = state[f"W_{ours}"][i].t()
            weights[f"attn_layers.{i}.{name}.bias"] = state[f"b_{ours}"][i]
    return config, weights
