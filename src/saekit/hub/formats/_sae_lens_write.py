"""An SAE of saekit in SAELens' terms.

b_enc of saekit holds what b_dec would take off the input, so `apply_b_dec_to_input` is false.
"""

from typing import Any

import torch
from torch import Tensor

from saekit.core.errors import ConfigError
from saekit.hub.card import Card
from saekit.models.sites import UNKNOWN, transformer_lens_name
from saekit.saes.abs_topk import AbsTopK
from saekit.saes.base import SAE, SAEConfig
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.gated import Gated
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.matryoshka import Matryoshka
from saekit.saes.multi_topk import MultiTopK
from saekit.saes.p_anneal import PAnneal
from saekit.saes.relu import ReLU
from saekit.saes.skip import Skip
from saekit.saes.standardised import Standardised
from saekit.saes.topk import TopK

# The layout's own version: from 6 on settings are nested as here.
VERSION = "6.0.0"
KINDS: dict[type[SAEConfig], str] = {
    ReLU: "standard", PAnneal: "standard", Gated: "gated", JumpReLU: "jumprelu",
    BatchTopK: "jumprelu", Matryoshka: "jumprelu", TopK: "topk", MultiTopK: "topk",
    AbsTopK: "abstopk",
}  # fmt: skip
NORMS = {"std": "layer_norm", "rms": "constant_norm_rescale"}


def convert(sae: SAE, card: Card) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return cfg.json and tensors of an SAE.

    Raises:
        ConfigError: SAELens has nothing that does the same.
    """
    cfg, state = sae.cfg, {n: t.detach() for n, t in sae.state_dict().items()}
    norm, skip, inner = "none", None, sae
    # By exact type: an architecture that is built on one of these does something else.
    if type(cfg) is Standardised:
        norm = _norm(cfg, state)
    if type(cfg) is Skip:
        skip = state["W_skip"].t()
        offset = state["centre"] @ state["W_skip"]
    if type(cfg) is Standardised or type(cfg) is Skip:
        state = {n.removeprefix("inner."): t for n, t in state.items() if n.startswith("inner.")}
        inner, cfg = sae.get_submodule("inner"), cfg.inner
    kind = KINDS.get(type(cfg))
    if kind is None:
        raise ConfigError(
            f"saekit does not write `{cfg.name}` in SAELens' layout; it writes "
            f"{', '.join(k.name for k in KINDS)}, and `skip` and `standardised` around some. Use "
            f"--format saekit."
        )
    weights = _weights(kind, inner, state)
    transcodes = skip is not None or not (cfg.d_in == cfg.d_out and card.pair.is_autoencoder)
    if transcodes:
        kind = _transcoder(kind, skip is not None)
    if skip is not None:
        weights["b_dec"] = weights["b_dec"] - offset
        weights["W_skip"] = skip
    config = {
        "architecture": kind,
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": norm,
        "reshape_activations": _published(card).get("reshape_activations", "none"),
        "metadata": _metadata(card),
    }
    if transcodes:
        config["d_out"] = cfg.d_out
    if "topk" in kind:
        config |= {"k": getattr(cfg, "k", None), "rescale_acts_by_decoder_norm": False}
    return config, {n: t.float().contiguous() for n, t in weights.items()}


def _weights(kind: str, sae: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = {n: state[n] for n in ("W_enc", "W_dec", "b_dec")}
    if kind == "gated":
        return weights | {"b_gate": state["b_enc"], "b_mag": state["b_mag"],
                          "r_mag": state["r_mag"]}  # fmt: skip
    weights["b_enc"] = state["b_enc"]
    if kind == "jumprelu":
        cut = sae.threshold.detach()
        weights["threshold"] = cut.expand(len(state["b_enc"])).clone()
    return weights


def _transcoder(kind: str, skips: bool) -> str:
    names = {"standard": "", "jumprelu": "jumprelu_"}
    if kind not in names:
        raise ConfigError(
            f"SAELens has transcoders of relu and jumprelu only; this one is `{kind}`. Use "
            f"--format saekit."
        )
    return f"{names[kind]}{'skip_' if skips else ''}transcoder"


def _norm(cfg: Standardised, state: dict[str, Tensor]) -> str:
    """Return SAELens' name of what a `standardised` SAE does to a token, where it has one."""
    whole = cfg.build(torch.Generator().manual_seed(0)).state_dict()
    frame = [n for n in whole if not n.startswith("inner.")]
    moved = [n for n in frame if not torch.equal(whole[n], state[n])]
    if moved or cfg.inverse != "published":
        raise ConfigError(
            f"SAELens scales a token back by its standard deviation alone and from raw "
            f"activations; this SAE differs in {', '.join([*moved, 'inverse'])}. Use --format "
            f"saekit."
        )
    return NORMS[cfg.by]


def _published(card: Card) -> dict[str, Any]:
    """Return what SAELens' own files said of the place of an SAE that was read from them."""
    is_theirs = card.provenance.get("format") == "sae_lens"
    return card.provenance.get("published") or {} if is_theirs else {}


def _metadata(card: Card) -> dict[str, Any]:
    """Return what SAELens keeps of where an SAE belongs.

    What its own files said of hooks, heads and positions is kept, also where it is no site of
    saekit; what the card knows goes over it.
    """
    pair, model = card.pair, card.model["name"]
    found: dict[str, Any] = dict(_published(card).get("metadata") or {})
    found |= {"sae_lens_version": VERSION}
    found.setdefault("sae_lens_training_version", None)
    found |= {"model_name": None if model == "unknown" else model, "prepend_bos": card.bos}
    found |= {"context_size": card.n_ctx or None, "dataset_path": card.corpus.get("name")}
    if len(pair.reads) == 1 and pair.reads[0] != UNKNOWN and pair.reads[0].point != "mlp_in":
        found["hook_name"] = transformer_lens_name(pair.reads[0])
        if not pair.is_autoencoder and pair.writes[0].point != "mlp_in":
            found["hook_name_out"] = transformer_lens_name(pair.writes[0])
    return found
