"""Gemma Scope 2: config.json and params.safetensors, JumpReLU, with or without an affine skip."""

import re
from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.activations.pairs import Pair
from saekit.core.errors import FormatError, ShapeError
from saekit.core.files import tensor_names, write_json, write_tensors
from saekit.hub.card import Card
from saekit.hub.formats import _names
from saekit.hub.formats._examples import D_IN, affine_tensors, random_tensors
from saekit.hub.formats._parts import affine, jumping, skipping
from saekit.hub.formats._reading import read_weights
from saekit.hub.formats.base import (
    Format,
    FormatHints,
    Names,
    Read,
    make_card,
    need,
    registry,
    say,
    say_object,
)
from saekit.models.sites import UNKNOWN

CONFIG, WEIGHTS, SKIP = "config.json", "params.safetensors", "affine_skip_connection"
_KEPT = re.compile(r"(?:^|/)(resid_post|attn_out|mlp_out|transcoder|crosscoder|clt)(?:_all)?/")
_REPOSITORY = re.compile(r"gemma-scope-2-(270m|1b|4b|12b|27b)-(pt|it)")
# Where a kind of SAE reads and predicts, as config.json has it; the folder says it where that
# file is missing.
_MODULES = {
    "resid_post": ("output", ""),
    "attn_out": ("self_attn.o_proj.input", ""),
    "mlp_out": ("post_feedforward_layernorm.output", ""),
    "transcoder": ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
}


@final
@registry.register
class GemmaScope2(Format):
    """Gemma Scope 2: JumpReLU autoencoders and transcoders of Gemma 3.

    pre = x @ w_enc + b_enc with nothing taken off the input; a latent is on above its threshold
    and above 0. An affine transcoder adds x @ affine_skip_connection. Those named attn_out are of
    the heads, before the output map.

    Source:
        Google DeepMind 2025, google/gemma-scope-2-* (layout and its tutorial);
        sae-lens 6.54.12, `gemma_3_sae_huggingface_loader`.
    """

    name: ClassVar[str] = "gemma_scope_2"
    files: ClassVar[str] = f"{WEIGHTS}, mostly with {CONFIG}"

    @override
    def detect(self, folder: Path) -> bool:
        return (folder / WEIGHTS).exists()

    @override
    def read(self, place: Path, hints: FormatHints) -> Read:
        where = place / WEIGHTS
        raw = _said(place)
        found = read_weights(where, columns=("w_enc",))
        if "w_dec" in found and found["w_dec"].ndim == 3:
            raise FormatError(
                f"{where} is of a crosscoder or cross-layer transcoder of Gemma Scope 2: its "
                f"decoder is {list(found['w_dec'].shape)}. saekit reads those of one layer."
            )
        weights = {n.replace("w_", "W_"): t for n, t in found.items()}
        folded = affine(weights, where, more=("threshold", SKIP))
        d_in, d_out = len(folded.W_enc), folded.W_dec.shape[1]
        if raw["skips"] != (SKIP in weights):
            raise FormatError(
                f"{place} says affine_connection={raw['skips']}, and {WEIGHTS} has "
                f"{'' if SKIP in weights else 'no '}`{SKIP}`. One is of another SAE."
            )
        if SKIP in weights:
            need(weights, {SKIP: (d_in, d_out)}, where)
        if not raw["out"] and d_in != d_out:
            raise ShapeError(
                f"{place} is of an autoencoder, and {WEIGHTS} reads {d_in} dimensions and writes "
                f"{d_out}."
            )
        cfg, state = jumping(folded, weights["threshold"])
        cfg, state = skipping(cfg, state, weights.get(SKIP))
        return Read(cfg, state, _card(raw, hints))

    @override
    def example(self, folder: Path) -> Path:
        place = folder / "gemma-scope-2-4b-pt/transcoder_all/layer_7_width_16k_l0_big_affine"
        weights = {n.replace("W_", "w_"): t for n, t in affine_tensors().items()}
        weights |= {"threshold": 0.3 * weights["b_enc"].abs()}
        layer = "model.layers.7"
        says = {
            "hf_hook_point_in": f"{layer}.pre_feedforward_layernorm.output",
            "hf_hook_point_out": f"{layer}.post_feedforward_layernorm.output",
            "width": 20,
            "model_name": "google/gemma-3-4b-pt",
            "architecture": "jump_relu",
            "l0": 150,
            "affine_connection": True,
            "type": "transcoder",
        }
        write_tensors(place / WEIGHTS, weights | random_tensors(**{SKIP: (D_IN, D_IN)}))
        write_json(place / CONFIG, says)
        return place


def _said(folder: Path) -> dict[str, Any]:
    """Return model, modules read and predicted ("": the same), skip, and what else is worth it.

    Raises:
        FormatError: config.json is of another kind of SAE, or is missing and the folder's name
            does not say the layer and the kind.
    """
    path = folder.resolve().as_posix()
    kind = next((m[1] for m in reversed(list(_KEPT.finditer(path + "/")))), None)
    if kind in ("crosscoder", "clt"):
        raise FormatError(
            f"{folder} is a {kind} of Gemma Scope 2, which reads or predicts several layers. "
            f"saekit reads its autoencoders and transcoders of one layer."
        )
    if not (folder / CONFIG).exists():
        return _named(folder, path, kind)
    raw = say_object(folder / CONFIG)
    if raw.get("architecture") != "jump_relu":
        raise FormatError(
            f"{folder / CONFIG} must have the architecture `jump_relu` of Gemma Scope 2; got "
            f"{raw.get('architecture')!r}."
        )
    reads = say(raw, "hf_hook_point_in", str, folder / CONFIG)
    out = raw.get("hf_hook_point_out") or reads
    model = say(raw, "model_name", str, folder / CONFIG)
    if not isinstance(out, str) or raw.get("affine_connection") not in (True, False, None):
        raise FormatError(
            f"{folder / CONFIG} must name a module in hf_hook_point_out and say true or false to "
            f"affine_connection; got {out!r} and {raw.get('affine_connection')!r}."
        )
    transcodes = raw.get("type") == "transcoder" or kind == "transcoder"
    if out == reads and (transcodes or raw.get("affine_connection")):
        raise FormatError(
            f"{folder / CONFIG} is of a transcoder and does not say what it predicts, "
            f"`hf_hook_point_out`; got {raw.get('hf_hook_point_out')!r:.80}."
        )
    return {
        "model": _model(model),
        "in": reads,
        "out": "" if out == reads else out,
        "skips": raw.get("affine_connection") is True,
        "more": {key: raw.get(key) for key in ("type", "l0", "width")},
    }


def _named(folder: Path, path: str, kind: str | None) -> dict[str, Any]:
    layer = re.search(r"layer_(\d+)", folder.resolve().name)
    if kind is None or layer is None:
        raise FormatError(
            f"{folder} has no {CONFIG}, and its name does not say what it is of, as "
            f"gemma-scope-2-4b-pt/resid_post/layer_17_width_16k_l0_big. Restore one of them."
        )
    reads, out = (f"model.layers.{layer[1]}.{part}" if part else "" for part in _MODULES[kind])
    known = _REPOSITORY.search(path)
    model = None if known is None else _model(f"google/gemma-3-{known[1]}-{known[2]}")
    # Without the file its tensors decide: the name of a folder ends in _affine where it has one.
    skips = SKIP in tensor_names(folder / WEIGHTS)
    if skips != folder.resolve().name.endswith("_affine"):
        raise FormatError(
            f"{folder / WEIGHTS} has {'a' if skips else 'no'} `{SKIP}`, and the folder's name says "
            f"otherwise. One is of another SAE."
        )
    return {"model": model, "in": reads, "out": out, "skips": skips, "more": {}}


def _model(name: str) -> str:
    """Return the name on the hub: files have the house's own name of a model too."""
    name = name if "/" in name else f"google/{name}"
    name = name.replace("gemma-v3", "gemma-3")
    return name.removesuffix("-pt") if "270m" in name else name


def _card(raw: dict[str, Any], hints: FormatHints) -> Card:
    modules = [raw["in"], raw["out"]] if raw["out"] else [raw["in"]]
    sites = [_names.from_module(m, raw["model"]) for m in modules]
    pair = Pair(
        read=(str(sites[0] or UNKNOWN),), write=(str(sites[1] or UNKNOWN),) if raw["out"] else ()
    )
    lost = [m for m, site in zip(modules, sites, strict=True) if site is None]
    notes = (f"saekit has no site that is exactly {' and '.join(lost)}",) if lost else ()
    says = {"n_ctx": 1024, "bos": True, "modules": modules, **raw["more"]}
    names = Names(" and ".join(modules), *(_names.near(m) for m in modules))
    return make_card(
        "gemma_scope_2",
        hints,
        model=raw["model"],
        pair=pair,
        says=says,
        notes=notes,
        transcodes=bool(raw["out"]),
        names=names,
    )
