"""An SAE of saekit in dictionary_learning's terms.

Its classes take b_dec off the input, but for JumpReluAutoEncoder; b_enc of saekit holds what that
takes off, so it is put back.
"""

from typing import Any

import torch
from torch import Tensor

from saekit.core.errors import ConfigError
from saekit.hub.card import Card
from saekit.hub.formats._fold import lengths, product
from saekit.models.sites import UNKNOWN, Site, transformer_lens_name
from saekit.saes.base import SAE, SAEConfig
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.gated import Gated
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.matryoshka import Matryoshka
from saekit.saes.multi_topk import MultiTopK
from saekit.saes.p_anneal import PAnneal
from saekit.saes.relu import ReLU
from saekit.saes.topk import TopK

# Of each class the trainer that makes it.
TRAINERS = {
    "AutoEncoder": "StandardTrainer",
    "GatedAutoEncoder": "GatedSAETrainer",
    "AutoEncoderTopK": "TopKTrainer",
    "BatchTopKSAE": "BatchTopKTrainer",
    "MatryoshkaBatchTopKSAE": "MatryoshkaBatchTopKTrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
}
KINDS: dict[type[SAEConfig], str] = {
    ReLU: "AutoEncoder",
    PAnneal: "AutoEncoder",
    Gated: "GatedAutoEncoder",
    TopK: "AutoEncoderTopK",
    MultiTopK: "AutoEncoderTopK",
    BatchTopK: "BatchTopKSAE",
    Matryoshka: "MatryoshkaBatchTopKSAE",
    JumpReLU: "JumpReluAutoEncoder",
}


def convert(sae: SAE, card: Card) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config.json and the tensors of ae.pt.

    Raises:
        ConfigError: dictionary_learning has nothing that does the same.
    """
    cfg: Any = sae.cfg
    kind = KINDS.get(type(cfg))  # by exact type: one that is built on these does something else
    if kind is None or cfg.d_in != cfg.d_out or not card.pair.is_autoencoder or card.transcodes:
        raise ConfigError(
            f"saekit writes autoencoders of {', '.join(k.name for k in KINDS)} for "
            f"dictionary_learning; this SAE is `{cfg.name}` of {card.pair.label}. Use --format "
            f"saekit."
        )
    k = getattr(cfg, "k", None)
    if k is not None and k != int(k):
        raise ConfigError(f"dictionary_learning keeps a whole number; k={k}. Use --format saekit.")
    state = {n: t.detach().float().cpu() for n, t in sae.state_dict().items()}
    # Its reader brings rows of AutoEncoder to length 1, and codes to the unit of that; a threshold
    # of 0 is a rectifier too.
    if kind == "AutoEncoder" and not torch.allclose(
        lengths(state["W_dec"]).float(), torch.ones(cfg.d_sae), atol=1e-6
    ):
        kind = "JumpReluAutoEncoder"
    tensors = _tensors(kind, sae, state, None if k is None else int(k))
    return _config(kind, cfg, card, None if k is None else int(k)), tensors


def _tensors(kind: str, sae: Any, state: dict[str, Tensor], k: int | None) -> dict[str, Tensor]:
    if kind == "JumpReluAutoEncoder":
        maps = {n: state[n].contiguous() for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
        return maps | {"threshold": state.get("threshold", torch.zeros_like(state["b_enc"]))}
    back = product(state["b_dec"], state["W_enc"])
    b_enc = (state["b_enc"].double() + back).float()
    if kind == "MatryoshkaBatchTopKSAE":
        maps = {n: state[n].contiguous() for n in ("W_enc", "W_dec", "b_dec")} | {"b_enc": b_enc}
        widths = torch.tensor(sae.cfg.levels)
        groups = widths.diff(prepend=torch.zeros(1, dtype=widths.dtype))
        return maps | _ranked(k, sae.threshold) | {"group_sizes": groups}
    maps = {
        "encoder.weight": state["W_enc"].t().contiguous(),
        "decoder.weight": state["W_dec"].t().contiguous(),
    }
    if kind == "GatedAutoEncoder":
        mag = state["b_mag"].double() + back * state["r_mag"].double().exp()
        more = {"gate_bias": b_enc, "mag_bias": mag.float(), "r_mag": state["r_mag"]}
        return maps | more | {"decoder_bias": state["b_dec"]}
    maps |= {"encoder.bias": b_enc}
    if kind == "AutoEncoder":
        return maps | {"bias": state["b_dec"]}
    cut = sae.threshold if kind == "BatchTopKSAE" else torch.tensor(-1.0)
    return maps | {"b_dec": state["b_dec"]} | _ranked(k, cut)


def _ranked(k: int | None, cut: Tensor) -> dict[str, Tensor]:
    return {"k": torch.tensor(k), "threshold": cut.detach().float().reshape(())}


def _config(kind: str, cfg: Any, card: Card, k: int | None) -> dict[str, Any]:
    site = card.pair.reads[0] if len(card.pair.reads) == 1 else UNKNOWN
    model = card.model["name"]
    trainer = {
        "trainer_class": TRAINERS[kind],
        "dict_class": kind,
        "activation_dim": cfg.d_in,
        "dict_size": cfg.d_sae,
        "layer": site.layer,
        "submodule_name": _place(site),
        "lm_name": None if model == "unknown" else model,
    }
    trainer |= {} if k is None else {"k": k}
    return {"trainer": trainer, "buffer": {"ctx_len": card.n_ctx or None, "io": "out"}}


def _place(site: Site) -> str | None:
    """Return the name of a place: the library's own of a block's output, else TransformerLens'."""
    if site == UNKNOWN or site.head is not None:
        return None
    if site.point == "resid_post":
        return f"resid_post_layer_{site.layer}"
    if site.point == "mlp_in":
        return f"blocks.{site.layer}.mlp.hook_in"
    return transformer_lens_name(site)
