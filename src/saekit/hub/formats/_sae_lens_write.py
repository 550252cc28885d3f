"""An SAE of saekit in SAELens' terms.

b_enc of saekit holds what b_dec would take off the input, so `apply_b_dec_to_input` is false.
"""

from typing import Any

import torch
from torch import Tensor

from saekit.core.errors import ConfigError
from saekit.hub.card import Card
from saekit.hub.formats import _sae_lens_card, _sae_lens_pursuit, _temporal
from saekit.models.sites import UNKNOWN, Site, transformer_lens_name
from saekit.saes.abs_topk import AbsTopK
from saekit.saes.base import SAE, SAEConfig
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.gated import Gated
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.matching_pursuit import MatchingPursuit
from saekit.saes.matryoshka import Matryoshka
from saekit.saes.multi_topk import MultiTopK
from saekit.saes.p_anneal import PAnneal
from saekit.saes.relu import ReLU
from saekit.saes.skip import Skip
from saekit.saes.standardised import Standardised
from saekit.saes.temporal import Temporal
from saekit.saes.topk import TopK

# The layout's own version: from 6 on settings are nested as here.
VERSION = "6.0.0"
KINDS: dict[type[SAEConfig], str] = {
    ReLU: "standard",
    PAnneal: "standard",
    Gated: "gated",
    JumpReLU: "jumprelu",
    BatchTopK: "jumprelu",
    Matryoshka: "jumprelu",
    TopK: "topk",
    MultiTopK: "topk",
    AbsTopK: "abstopk",
}
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
    other = {Temporal: _temporal.write, MatchingPursuit: _sae_lens_pursuit.write}.get(type(cfg))
    if other is not None and sae.cfg is cfg and card.pair.is_autoencoder:
        settings, tensors = other(sae)
        return _config(cfg, card, str(cfg.name)) | settings, tensors
    if kind is None:
        raise ConfigError(
            f"saekit does not write `{cfg.name}` of {card.pair.label} in SAELens' layout; it "
            f"writes {', '.join(k.name for k in KINDS)}, `skip` and `standardised` around some, "
            f"and autoencoders of `temporal` and `matching_pursuit`. Use --format saekit."
        )
    weights = _weights(kind, inner, state)
    transcodes = skip is not None or not (cfg.d_in == cfg.d_out and card.pair.is_autoencoder)
    if transcodes:
        kind = _transcoder(kind, skip is not None)
    if skip is not None:
        weights["b_dec"] = weights["b_dec"] - offset
        weights["W_skip"] = skip
    config = _config(cfg, card, kind) | {"normalize_activations": norm}
    if transcodes:
        config["d_out"] = cfg.d_out
    if "topk" in kind:
        config |= {"k": getattr(cfg, "k", None), "rescale_acts_by_decoder_norm": False}
    return config, {n: t.float().contiguous() for n, t in weights.items()}


def _config(cfg: SAEConfig, card: Card, kind: str) -> dict[str, Any]:
    """Return cfg.json as far as it is the same for all."""
    heads = [site.point == "z" and site.head is None for site in card.pair.reads]
    return {
        "architecture": kind,
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": _published(card).get(
            "reshape_activations", "hook_z" if all(heads) else "none"
        ),
        "metadata": _metadata(card),
    }


def _weights(kind: str, sae: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = {n: state[n] for n in ("W_enc", "W_dec", "b_dec")}
    if kind == "gated":
        return weights | {
            "b_gate": state["b_enc"],
            "b_mag": state["b_mag"],
            "r_mag": state["r_mag"],
        }
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
    sides = {"": pair.reads} if pair.is_autoencoder else {"": pair.reads, "_out": pair.writes}
    for end, sites in sides.items():
        # A name of the files that says the same site is kept, as a module's.
        if len(sites) == 1 and sites[0] not in (UNKNOWN, _sae_lens_card.site_of(found, end)):
            found[f"hook_name{end}"] = _hook(sites[0]._replace(head=None))
            if sites[0].head is not None or f"hook_head_index{end}" in found:
                found[f"hook_head_index{end}"] = sites[0].head
    return found


def _hook(site: Site) -> str:
    """Return the name of a site: TransformerLens', or SAELens' own of what an MLP reads."""
    return (
        f"blocks.{site.layer}.mlp.hook_in"
        if site.point == "mlp_in"
        else (transformer_lens_name(site))
    )
