"""circuit-tracer: config.yaml and layer_N.safetensors, a transcoder of an MLP for each layer."""

import re
from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.activations.pairs import Pair
from saekit.core.errors import FormatError, ShapeError
from saekit.core.files import read_settings, write_tensors, write_text
from saekit.hub.card import Card
from saekit.hub.formats import _names
from saekit.hub.formats._examples import D_IN, D_SAE, random_tensors
from saekit.hub.formats._parts import affine, jumping, skipping
from saekit.hub.formats._reading import read_weights
from saekit.hub.formats.base import Format, FormatHints, Names, Read, make_card, need, registry
from saekit.models.sites import UNKNOWN, Site
from saekit.saes.relu import ReLU

CONFIG = "config.yaml"
TRAINING = ("wandb-config.yaml", "wanb-config.yaml")  # the second is how some are published
THRESHOLD = "activation_function.threshold"
_FILE = re.compile(r"layer_(\d+)\.safetensors")
_QWEN = re.compile(r"qwen3-(\d+(?:\.\d+)?)b", re.IGNORECASE)
# Sets without config.yaml are read and predicted here: all of them are by one hand.
_HOOKS = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}


@final
@registry.register
class CircuitTracer(Format):
    """circuit-tracer: sets of transcoders, one for each layer, with ReLU or thresholds.

    acts = relu(x @ W_enc.T + b_enc), or pre-activations above a threshold;
    y_hat = acts @ W_dec + b_dec, and + x @ W_skip.T where there is one. W_enc is
    ``[d_sae, d_in]`` in the files.

    Source:
        decoderesearch/circuit-tracer: `transcoder/single_layer_transcoder.py` (2026);
        sae-lens 6.54.12, `mwhanna_transcoder_huggingface_loader`.
    """

    name: ClassVar[str] = "circuit_tracer"
    files: ClassVar[str] = f"layer_N.safetensors with {CONFIG} or {TRAINING[0]}"

    @override
    def detect(self, folder: Path) -> bool:
        return bool(self.members(folder))

    @override
    def members(self, folder: Path) -> dict[str, Path]:
        if not any((folder / name).exists() for name in (CONFIG, *TRAINING)):
            return {}
        layers = sorted((int(m[1]), p) for p in folder.iterdir() if (m := _FILE.fullmatch(p.name)))
        if not layers:
            return {}
        try:
            said = _said(folder)
        except FormatError:  # the reader says what is wrong
            return {path.name: path for _, path in layers}
        sites = [_sites(said, layer)[0] for layer, _ in layers]
        return {
            path.name if site is None else str(site): path
            for (_, path), site in zip(layers, sites, strict=True)
        }

    @override
    def read(self, place: Path, hints: FormatHints) -> Read:
        layer = _FILE.fullmatch(place.name)
        if layer is None:
            raise FormatError(f"{place} must be named as layer_3.safetensors: its name says which.")
        said = _said(place.parent)
        weights = read_weights(place)
        need(weights, {}, place, names=("W_enc",))
        if weights["W_enc"].ndim != 2:
            raise ShapeError(
                f"`W_enc` in {place} must have two axes; got {list(weights['W_enc'].shape)}."
            )
        weights["W_enc"] = weights["W_enc"].t()
        jumps = THRESHOLD in weights
        folded = affine(weights, place, (THRESHOLD, "W_skip"), (THRESHOLD,) if jumps else ())
        d_in, d_out = len(folded.W_enc), folded.W_dec.shape[1]
        if jumps:
            if (weights[THRESHOLD] < 0).any():
                raise FormatError(
                    f"`{THRESHOLD}` in {place} has values below 0, above which circuit-tracer "
                    f"keeps latents of negative value; saekit has no such architecture."
                )
            cfg, state = jumping(folded, weights[THRESHOLD])
        else:
            cfg = ReLU(d_in=d_in, d_out=d_out, d_sae=len(folded.b_enc))
            state = folded.state()
        if "W_skip" in weights:
            need(weights, {"W_skip": (d_out, d_in)}, place)
            cfg, state = skipping(cfg, state, weights["W_skip"].t())
        return Read(cfg, state, _card(said, int(layer[1]), hints))

    @override
    def example(self, folder: Path) -> Path:
        place = folder / "tiny-transcoders"
        shapes = {"W_enc": (D_SAE, D_IN), "W_dec": (D_SAE, D_IN), "b_enc": (D_SAE,)}
        tensors = random_tensors(**shapes, b_dec=(D_IN,), W_skip=(D_IN, D_IN))
        write_tensors(place / "layer_3.safetensors", tensors)
        write_text(
            place / CONFIG,
            "model_name: Qwen/Qwen3-0.6B\nmodel_kind: transcoder_set\n"
            "feature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n",
        )
        return place


def _said(folder: Path) -> dict[str, Any]:
    """Return model and hooks, which in all sets of one hand without config.yaml are the same.

    Raises:
        FormatError: config.yaml is of something else, or leaves one of them out.
    """
    if not (folder / CONFIG).exists():
        size = _QWEN.search(folder.resolve().as_posix())
        model = f"Qwen/Qwen3-{size[1]}B" if size else None
        return _HOOKS | {"model_name": model}
    raw = read_settings(folder / CONFIG)
    raw = raw if isinstance(raw, dict) else {}
    kind = raw.get("model_kind", "transcoder_set")
    if kind == "cross_layer_transcoder":
        raise FormatError(
            f"{folder} is a cross-layer transcoder (CLT) of circuit-tracer, which predicts several "
            f"layers at once. saekit reads its sets of transcoders."
        )
    if kind != "transcoder_set":
        raise FormatError(
            f"{folder / CONFIG} must have the model_kind `transcoder_set` of circuit-tracer; got "
            f"{kind!r:.80}."
        )
    for key in ("model_name", *_HOOKS):
        if not isinstance(raw.get(key), str) or not raw[key]:
            raise FormatError(f"{folder / CONFIG} must say `{key}`; got {raw.get(key)!r:.80}.")
    return raw


def _sites(said: dict[str, Any], layer: int) -> tuple[Site | None, Site | None]:
    hooks = (f"blocks.{layer}.{said[key]}" for key in _HOOKS)
    read, write = (_names.from_transformer_lens(h, said["model_name"]) for h in hooks)
    return read, write


def _card(said: dict[str, Any], layer: int, hints: FormatHints) -> Card:
    hooks = [f"blocks.{layer}.{said[key]}" for key in _HOOKS]
    model = hints.model or said["model_name"]
    sites = [_names.from_transformer_lens(h, model) for h in hooks]
    lost = [h for h, site in zip(hooks, sites, strict=True) if site is None]
    notes = (f"saekit has no site that is exactly {' and '.join(lost)}",) if lost else ()
    pair = Pair(read=(str(sites[0] or UNKNOWN),), write=(str(sites[1] or UNKNOWN),))
    names = Names(" and ".join(hooks), *(_names.near(h) for h in hooks))
    return make_card(
        "circuit_tracer",
        hints,
        model=said["model_name"],
        pair=pair,
        transcodes=True,
        says={"hooks": hooks, "subtracts_b_dec": False},
        notes=notes,
        names=names,
    )
