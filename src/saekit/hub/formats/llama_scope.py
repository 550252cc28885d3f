"""OpenMOSS' Language-Model-SAEs: Llama Scope, its R1-Distill set, and llamascopium's own files."""

import math
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import write_json, write_tensors
from saekit.hub.card import Card
from saekit.hub.formats import _names
from saekit.hub.formats._examples import D_IN, D_SAE, random_tensors
from saekit.hub.formats._fold import Affine, lengths
from saekit.hub.formats._parts import jumping
from saekit.hub.formats._reading import read_weights
from saekit.hub.formats.base import (
    Format,
    FormatHints,
    Names,
    Read,
    make_card,
    need,
    only,
    registry,
    say,
    say_object,
)
from saekit.models.sites import UNKNOWN
from saekit.saes.base import SAEConfig
from saekit.saes.relu import ReLU
from saekit.saes.topk import TopK

OLD, NEW = "hyperparams.json", "config.json"  # where the settings are
FINAL, WEIGHTS = Path("checkpoints") / "final.safetensors", Path("sae_weights.safetensors")
NORM = "dataset_average_activation_norm."
FUNCTIONS = ("jumprelu", "relu", "topk")
LARGEST = torch.finfo(torch.float32).max


@final
@registry.register
class LlamaScope(Format):
    """OpenMOSS: Llama Scope and later SAEs and transcoders of Language-Model-SAEs.

    With s_in = sqrt(d_model) / mean norm of what is read, and s_out of what is predicted,

        pre = s_in x @ W_enc + b_enc;  a latent is on where pre |W_dec[i]| > threshold
        acts = pre where on;  y_hat = (acts @ W_dec + b_dec) / s_out

    The length of the decoder's row counts where `sparsity_include_decoder_norm` is true, as it is
    in all that are published: the threshold of `jumprelu` is then threshold / |W_dec[i]|. Codes
    are the library's, but those of `topk`, which are the library's times that length.

    Source:
        OpenMOSS/Language-Model-SAEs: `lm_saes/sae.py` (2024), `llamascopium/models/sae.py` (2026).
        sae-lens 6.54.12 differs: it takes threshold * s_in, whatever the length of a row.
    """

    name: ClassVar[str] = "llama_scope"
    files: ClassVar[str] = f"{OLD} and {FINAL}, or {NEW} and {WEIGHTS} with the key d_model"

    @override
    def detect(self, folder: Path) -> bool:
        if (folder / OLD).exists() and (folder / FINAL).exists():
            return True
        if not ((folder / NEW).exists() and (folder / WEIGHTS).exists()):
            return False
        try:
            return {"d_model", "act_fn"} <= set(say_object(folder / NEW))
        except FormatError:
            return not (folder / "cfg.json").exists()

    @override
    def read(self, place: Path, hints: FormatHints) -> Read:
        old = (place / OLD).exists() and (place / FINAL).exists()
        config, where = (place / OLD, place / FINAL) if old else (place / NEW, place / WEIGHTS)
        raw = say_object(config)
        _check(raw, config)
        weights = read_weights(where, columns=("W_E", "decoder.weight"))
        norms = _norms(raw, weights, config)
        folded, threshold = _tensors(raw, weights, config, where)
        d_model = len(folded.W_enc)
        scales = [math.sqrt(d_model) / norm for norm in norms]
        by_length = raw.get("sparsity_include_decoder_norm", True)
        sizes: dict[str, Any] = {"d_in": d_model, "d_out": d_model, "d_sae": len(folded.b_enc)}
        try:
            cfg, state = _variant(raw, folded, threshold, sizes, by_length, scales, config)
        except ConfigError as error:
            raise FormatError(f"{config} has impossible settings: {error}") from error
        return Read(cfg, state, _card(raw, place, hints), scales[0] if scales[0] != 1 else None)

    @override
    def example(self, folder: Path) -> Path:
        place = folder / "Llama3_1-8B-Base-LXR-8x" / "Llama3_1-8B-Base-L5R-8x"
        shapes = {"encoder.weight": (D_SAE, D_IN), "encoder.bias": (D_SAE,)}
        shapes |= {"decoder.weight": (D_IN, D_SAE), "decoder.bias": (D_IN,)}
        hook = "blocks.5.hook_resid_post"
        says = {
            "hook_point_in": hook,
            "hook_point_out": hook,
            "use_decoder_bias": True,
            "apply_decoder_bias_to_pre_encoder": False,
            "expansion_factor": 8,
            "d_model": D_IN,
            "d_sae": D_SAE,
            "norm_activation": "dataset-wise",
            "act_fn": "jumprelu",
            "dataset_average_activation_norm": {"in": 3.5, "out": 3.5},
            "top_k": 50,
            "sparsity_include_decoder_norm": True,
            "jump_relu_threshold": 0.4,
        }
        write_tensors(place / FINAL, random_tensors(**shapes))
        write_json(place / OLD, says)
        return place


def _check(raw: dict[str, Any], config: Path) -> None:
    """Refuse what saekit cannot run exactly.

    Raises:
        FormatError: it is another kind of dictionary, or scales each token by its own size.
    """
    if (kind := raw.get("sae_type", "sae")) != "sae":
        raise FormatError(
            f"{config} of Language-Model-SAEs is of the kind `{kind}`; saekit reads `sae`."
        )
    for key in ("hook_point_in", "hook_point_out"):  # without one a transcoder looks as another
        say(raw, key, str, config)
    for key in ("use_glu_encoder", "apply_decoder_bias_to_pre_encoder"):
        if raw.get(key, False) is not False:
            raise FormatError(f"{config} of Language-Model-SAEs has {key}, which saekit has not.")
    if (norm := say(raw, "norm_activation", str, config)) not in ("dataset-wise", "inference"):
        raise FormatError(
            f"{config} has norm_activation `{norm}`, which scales every token by another number; "
            f"saekit reads `dataset-wise` and `inference`."
        )
    if (function := say(raw, "act_fn", str, config).lower()) not in FUNCTIONS:
        raise FormatError(f"{config} has act_fn `{function}`; saekit reads {', '.join(FUNCTIONS)}.")
    if not isinstance(raw.get("sparsity_include_decoder_norm", True), bool):
        raise FormatError(f"{config}: `sparsity_include_decoder_norm` must be true or false.")


def _norms(raw: dict[str, Any], weights: dict[str, Tensor], config: Path) -> tuple[float, float]:
    """Return the mean norms of what is read and predicted, taking them off the weights.

    Raises:
        FormatError: they are nowhere, or are not above 0.
    """
    kept = {n.removeprefix(NORM): float(weights.pop(n)) for n in list(weights) if NORM in n}
    root = math.sqrt(say(raw, "d_model", int, config))
    if raw["norm_activation"] == "inference":
        return root, root  # the factors are in the weights already
    said = raw.get("dataset_average_activation_norm") or kept
    found = []
    for side in ("in", "out"):
        hook = raw[f"hook_point_{side}"]
        norm = said.get(side, said.get(hook)) if isinstance(said, dict) else None
        if isinstance(norm, bool) or not isinstance(norm, int | float) or not 0 < norm < LARGEST:
            raise FormatError(
                f"{config} says norm_activation `dataset-wise`, and neither it nor the weights "
                f"say the mean norm of activations at {hook} ({side}): "
                f"`dataset_average_activation_norm` is {said!r:.80}."
            )
        found.append(float(norm))
    return found[0], found[1]


def _tensors(
    raw: dict[str, Any], weights: dict[str, Tensor], config: Path, where: Path
) -> tuple[Affine, Tensor | None]:
    """Return the maps, and the threshold of each latent (None: there is none)."""
    d = say(raw, "d_model", int, config)
    new = "W_E" in weights
    names = (
        ("W_E", "b_E", "W_D", "b_D")
        if new
        else ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
    )
    if names[1] not in weights:
        raise FormatError(f"{where} lacks {names[1]}; it has {', '.join(sorted(weights))}.")
    d_sae = raw.get("d_sae", len(weights[names[1]]) if weights[names[1]].ndim == 1 else 0)
    if not isinstance(d_sae, int) or (not new and "d_sae" not in raw and d_sae % d):
        raise FormatError(f"{config} must say `d_sae` (int); got {d_sae!r}.")
    biased = raw.get("use_decoder_bias", True)
    shapes: dict[str, tuple[int, ...]] = {names[1]: (d_sae,)}
    shapes |= (
        {names[0]: (d, d_sae), names[2]: (d_sae, d)}
        if new
        else {names[0]: (d_sae, d), names[2]: (d, d_sae)}
    )
    shapes |= {names[3]: (d,)} if biased else {}
    jumps, threshold = raw["act_fn"].lower() == "jumprelu", None
    log = next((n for n in weights if n.endswith("log_jumprelu_threshold")), None)
    if jumps and log is not None:
        shapes |= {log: (d_sae,)}
    need(weights, shapes, where)
    only(weights, set(shapes), where)
    if jumps:
        threshold = (
            weights[log].double().exp()
            if log is not None
            else torch.full(
                (d_sae,), _number(raw, "jump_relu_threshold", config), dtype=torch.float64
            )
        )
    W_enc, W_dec = weights[names[0]], weights[names[2]]
    b_dec = weights[names[3]] if biased else torch.zeros(d)
    if not new:
        W_enc, W_dec = W_enc.t(), W_dec.t()
    return Affine(W_enc, W_dec, weights[names[1]], b_dec), threshold


def _number(raw: dict[str, Any], key: str, config: Path) -> float:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LARGEST:
        raise FormatError(f"{config} must say `{key}`, a number from 0 up; got {value!r:.80}.")
    return float(value)


def _variant(  # noqa: PLR0913 - all of it decides
    raw: dict[str, Any],
    folded: Affine,
    threshold: Tensor | None,
    sizes: dict[str, Any],
    by_length: bool,
    scales: list[float],
    config: Path,
) -> tuple[SAEConfig, dict[str, Tensor]]:
    function = raw["act_fn"].lower()
    if function == "topk":
        if by_length:
            folded.by_norm()
        folded.scaled(*scales)
        return TopK(k=say(raw, "top_k", int, config), decoder="free", **sizes), folded.state()
    if threshold is not None:
        if by_length:
            length = lengths(folded.W_dec)  # where it is 0 nothing is above the threshold
            threshold = torch.where(length > 0, threshold / length, LARGEST).clamp(max=LARGEST)
        folded.scaled(*scales)
        return jumping(folded, threshold)
    folded.scaled(*scales)
    return ReLU(**sizes), folded.state()


def _card(raw: dict[str, Any], place: Path, hints: FormatHints) -> Card:
    hooks = list(dict.fromkeys((raw["hook_point_in"], raw["hook_point_out"])))
    model = raw.get("model_name") if isinstance(raw.get("model_name"), str) else None
    if model is None and "Llama3_1-8B-Base" in place.resolve().as_posix():
        model = "meta-llama/Llama-3.1-8B"
    sites = [_names.from_transformer_lens(h, model) for h in hooks]
    transcodes = len(hooks) > 1
    pair = Pair(
        read=(str(sites[0] or UNKNOWN),), write=(str(sites[1] or UNKNOWN),) if transcodes else ()
    )
    lost = [h for h, site in zip(hooks, sites, strict=True) if site is None]
    notes = [f"saekit has no site that is exactly {' and '.join(lost)}"] if lost else []
    if raw["act_fn"].lower() == "topk" and raw.get("sparsity_include_decoder_norm", True):
        notes.append("codes are the published ones times the length of the decoder's row")
    says = {
        "n_ctx": 1024 if model is not None else None,
        "bos": True if model is not None else None,
        "hooks": hooks,
        "act_fn": raw["act_fn"],
        "norm_activation": raw["norm_activation"],
        "subtracts_b_dec": False,
    }
    names = Names(" and ".join(hooks), *(_names.near(h) for h in hooks))
    return make_card(
        "llama_scope",
        hints,
        model=model,
        pair=pair,
        says=says,
        transcodes=transcodes,
        notes=tuple(notes),
        names=names,
    )
