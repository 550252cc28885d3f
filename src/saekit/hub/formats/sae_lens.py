"""SAELens: cfg.json and sae_weights.safetensors, of finished SAEs and of checkpoints."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import read_tensors, write_json, write_tensors
from saekit.hub.card import Card
from saekit.hub.formats import _sae_lens_card, _sae_lens_pursuit, _sae_lens_write, _temporal
from saekit.hub.formats._examples import D_IN, D_SAE, K, affine_tensors
from saekit.hub.formats._fold import Affine
from saekit.hub.formats._parts import skipping, standardised
from saekit.hub.formats._reading import read_weights
from saekit.hub.formats._sae_lens_card import BATCH, TRANSCODERS
from saekit.hub.formats.base import (
    Format,
    FormatHints,
    Read,
    check_unscaled,
    need,
    only,
    registry,
    say,
    say_object,
)
from saekit.saes.abs_topk import AbsTopK
from saekit.saes.base import SAE, SAEConfig
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.gated import Gated
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.matryoshka import Matryoshka
from saekit.saes.relu import ReLU
from saekit.saes.topk import TopK

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
SCALED = "constant_scalar_rescale"
JUMP = {"jumprelu", "jumprelu_transcoder", "jumprelu_skip_transcoder"}
RANKED = {"topk", "abstopk"} | BATCH
AFFINE = {"standard", "gated"} | JUMP | RANKED | TRANSCODERS
NORMS = (
    "none",
    "expected_average_only_in",
    "layer_norm",
    "constant_norm_rescale",
    "covariance_whitening",
)
RENAMED = {
    "hook_point": "hook_name",
    "activation_fn_str": "activation_fn",
    "ctx_size": "context_size",
    "hook_point_head_index": "hook_head_index",
}
# Of the flat list of old files, what is of the weights and not of where they belong.
OF_WEIGHTS = {
    "architecture",
    "apply_b_dec_to_input",
    "d_in",
    "d_out",
    "d_sae",
    "dtype",
    "device",
    "activation_fn",
    "activation_fn_kwargs",
    "k",
    "normalize_activations",
    "reshape_activations",
    "sae_lens_version",
    *_temporal.SIZES,
    "sae_diff_type",
    "kval_topk",
    "tied_weights",
    "activation_normalization_factor",
}


@final
@registry.register
class SAELens(Format):
    """SAELens: standard, gated, jumprelu, topk and others, transcoders, checkpoints of training.

    b_dec taken off the input goes into b_enc; factors of decoder norms, fixed scalings and
    whitening go into the weights; sizes of single tokens become `standardised`.

    Source:
        sae-lens 6.54.12: saes/*.py, loading/pretrained_sae_loaders.py.
    """

    name: ClassVar[str] = "sae_lens"
    files: ClassVar[str] = f"{CONFIG} and {WEIGHTS}"

    @override
    def detect(self, folder: Path) -> bool:
        return (folder / CONFIG).exists() and (folder / WEIGHTS).exists()

    @override
    def read(self, folder: Path, hints: FormatHints) -> Read:
        raw = _current(_overridden(say_object(folder / CONFIG), hints), folder / CONFIG)
        where, weights = folder / WEIGHTS, read_weights(folder / WEIGHTS, columns=("W_enc",))
        _drop_scaling_factor(weights, where)
        architecture, scale = raw["architecture"], None
        if architecture == "matching_pursuit":
            cfg, state = _sae_lens_pursuit.read(raw, weights, where)
        elif architecture == "temporal":
            cfg, state, scale = _temporal_sae(raw, weights, folder)
        elif architecture in AFFINE:
            cfg, state, scale = _affine(raw, weights, folder, hints)
        else:
            raise FormatError(
                f"{folder / CONFIG} is of architecture `{architecture}`, which saekit does not "
                f"read; it reads {', '.join(sorted(AFFINE | {'matching_pursuit', 'temporal'}))}."
            )
        return Read(cfg, state, _sae_lens_card.read(raw, hints), scale)

    @override
    def example(self, folder: Path) -> Path:
        says = {
            "architecture": "topk",
            "d_in": D_IN,
            "d_sae": D_SAE,
            "k": K,
            "apply_b_dec_to_input": True,
            "normalize_activations": "none",
            "rescale_acts_by_decoder_norm": True,
            "metadata": {
                "sae_lens_version": "6.54.12",
                "model_name": "gpt2-small",
                "hook_name": "blocks.8.hook_resid_pre",
                "context_size": 128,
                "prepend_bos": True,
            },
        }
        write_tensors(folder / WEIGHTS, affine_tensors())
        write_json(folder / CONFIG, says)
        return folder

    @override
    def write(self, sae: SAE, card: Card, folder: Path) -> Path:
        check_unscaled(card, self.name)
        config, weights = _sae_lens_write.convert(sae, card)
        write_tensors(folder / WEIGHTS, weights)
        write_json(folder / CONFIG, config)
        return folder


def _overridden(raw: dict[str, Any], hints: FormatHints) -> dict[str, Any]:
    """Return settings with those of the registry over them, where each belongs."""
    over, metadata = hints.overrides, raw.get("metadata")
    if not over or not isinstance(metadata, dict):
        return raw | over
    of_weights = {k: v for k, v in over.items() if k in OF_WEIGHTS}
    of_place = {k: v for k, v in over.items() if k not in OF_WEIGHTS}
    return raw | of_weights | {"metadata": metadata | of_place}


def _current(raw: dict[str, Any], where: Path) -> dict[str, Any]:
    """Return settings as version 6 names them; before it they were one flat list.

    What an old version did not write down yet is what it did, as SAELens' own reader has it:
    before 6, b_dec was taken off the input and rows began with BOS unless the file says otherwise.

    Raises:
        FormatError: a setting that decides what the SAE does is missing, or is not one that
            saekit knows.
    """
    metadata = raw.get("metadata")
    if isinstance(metadata, dict) and str(metadata.get("sae_lens_version", "")) >= "6":
        new = dict(raw)
        for key in ("architecture", "apply_b_dec_to_input", "normalize_activations"):
            if key not in new:
                raise FormatError(f"{where} must say `{key}`, which decides what the SAE does.")
    else:
        flat = {RENAMED.get(k, k): v for k, v in raw.items()}
        before = {"architecture": "standard", "apply_b_dec_to_input": True, "prepend_bos": True}
        heads = "hook_z" if "hook_z" in str(flat.get("hook_name")) else "none"
        new = before | {"reshape_activations": heads} | flat
        kept = {k: v for k, v in new.items() if k not in OF_WEIGHTS}
        new["metadata"] = kept | (metadata if isinstance(metadata, dict) else {})
        k = (flat.get("activation_fn_kwargs") or {}).get("k")
        function = flat.get("activation_fn", "relu")
        if function not in ("relu", "topk"):
            raise FormatError(
                f"The activation function `{function}` of this SAELens file is not one that "
                f"saekit has; it has relu and topk."
            )
        if function == "topk":
            new["architecture"] = "topk"
        if new["architecture"] == "topk" and k is not None:
            if flat.get("k", k) != k:
                raise FormatError(f"{where} says k={flat['k']}, and k={k} in activation_fn_kwargs.")
            new["k"] = k
    norm = new.get("normalize_activations")
    if norm is None or isinstance(norm, bool):
        new["normalize_activations"] = "expected_average_only_in" if norm else "none"
    return new


def _temporal_sae(
    raw: dict[str, Any], weights: dict[str, Tensor], folder: Path
) -> tuple[SAEConfig, dict[str, Tensor], float | None]:
    """Return configuration, state, and what multiplied the input; None: nothing did."""
    config, norm = folder / CONFIG, raw["normalize_activations"]
    scale = raw.get("activation_normalization_factor") if norm == SCALED else 1.0
    if (
        norm not in ("none", SCALED)
        or isinstance(scale, bool)
        or (not isinstance(scale, int | float) or not 0 < scale < math.inf)
    ):
        raise FormatError(
            f"{config} is of a temporal SAE with normalize_activations `{norm}` and "
            f"activation_normalization_factor {raw.get('activation_normalization_factor')!r:.40}; "
            f"saekit reads `none`, and `{SCALED}` with a number above 0."
        )
    if not raw.get("apply_b_dec_to_input", True):  # then a tied one adds b_dec nowhere
        need(weights, {}, folder / WEIGHTS, names=("b_dec",))
        if not raw.get("tied_weights", True) and weights["b_dec"].any():
            raise FormatError(
                f"{config} is of an untied temporal SAE without apply_b_dec_to_input, whose b_dec "
                f"is added and not taken off; saekit has one bias for both."
            )
        weights["b_dec"] = torch.zeros_like(weights["b_dec"])
    cfg, state = _temporal.read(raw, weights, float(scale), config, folder / WEIGHTS)
    return cfg, state, float(scale) if norm == SCALED else None


def _drop_scaling_factor(weights: dict[str, Tensor], where: Path) -> None:
    """Older files scale latents after encoding; version 6 itself reads only factors of 1."""
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        factor = weights.pop(name, None)
        if factor is not None and not torch.allclose(factor, torch.ones_like(factor)):
            raise FormatError(
                f"`{name}` in {where} is not 1. SAELens 6 does not apply it, so what this SAE "
                f"does depends on the version; fold it into the weights with the version that "
                f"made it."
            )


def _affine(
    raw: dict[str, Any], weights: dict[str, Tensor], folder: Path, hints: FormatHints
) -> tuple[SAEConfig, dict[str, Tensor], float | None]:
    """Return configuration, state, and what multiplied the input; None: nothing did."""
    where, architecture = folder / WEIGHTS, raw["architecture"]
    d_in = say(raw, "d_in", int, folder / CONFIG)
    d_sae = say(raw, "d_sae", int, folder / CONFIG)
    d_out = d_in if architecture not in TRANSCODERS else say(raw, "d_out", int, folder / CONFIG)
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_dec": (d_out,)}
    if "log_threshold" in weights:
        weights["threshold"] = weights.pop("log_threshold").float().exp()
    biases = ("b_gate", "b_mag", "r_mag") if architecture == "gated" else ("b_enc",)
    shapes |= {name: (d_sae,) for name in biases}
    shapes |= {"threshold": (d_sae,)} if architecture in JUMP else {}
    shapes |= {"topk_threshold": ()} if architecture in BATCH else {}
    shapes |= {"W_skip": (d_out, d_in)} if "skip" in architecture else {}
    need(weights, shapes, where)
    only(weights, set(shapes), where)

    more = {n: weights[n] for n in ("b_mag", "r_mag", "threshold") if n in shapes}
    bias = weights["b_gate" if architecture == "gated" else "b_enc"]
    folded = Affine(weights["W_enc"], weights["W_dec"], bias, weights["b_dec"], **more)
    if architecture in TRANSCODERS and raw.get("apply_b_dec_to_input"):
        raise FormatError(
            f"{folder / CONFIG} is of a transcoder with apply_b_dec_to_input, which SAELens "
            f"refuses too: b_dec has the width of the output."
        )
    if raw.get("apply_b_dec_to_input", True) and architecture not in TRANSCODERS:
        folded.subtract(weights["b_dec"])
    cut = float(weights["topk_threshold"]) if architecture in BATCH else 0.0
    scale = _fold_scale(folded, raw, folder, hints)
    if architecture in RANKED and raw.get("rescale_acts_by_decoder_norm", False):
        folded.by_norm()
        cut /= scale or 1.0
    _fold_whitening(folded, raw, folder)
    sizes: dict[str, Any] = {"d_in": d_in, "d_out": d_out, "d_sae": d_sae}
    cfg, state = _variant(raw, sizes, folder, hints), folded.state()
    if architecture in JUMP:
        state["threshold"] = state["threshold"].clamp_min(0)  # relu comes after the jump
    elif isinstance(cfg, JumpReLU):
        state["threshold"] = torch.full((d_sae,), max(cut, 0.0))
    elif architecture in BATCH:
        state["cutoff_sum"] = torch.tensor(max(cut, 0.0), dtype=torch.float64)
        state["cutoff_weight"] = torch.ones((), dtype=torch.float64)
    return *_wrapped(cfg, state, raw, weights.get("W_skip")), scale


def _variant(
    raw: dict[str, Any], sizes: dict[str, Any], folder: Path, hints: FormatHints
) -> SAEConfig:
    """Return the configuration of the architecture inside any wrapper."""
    architecture = raw["architecture"]
    k = raw["k"] if raw.get("k") is not None else hints.k
    if architecture in RANKED and (isinstance(k, bool) or not isinstance(k, int | float) or not k):
        raise FormatError(
            f"{folder / CONFIG} must say how many latents are kept per token, `k`; got "
            f"{raw.get('k')!r}. Give it: k=, on a command line --k."
        )
    if architecture in ("topk", "abstopk") and k != int(k):
        raise FormatError(f"`k` of {folder / CONFIG} must be a whole number; got {k}.")
    widths = tuple(raw.get("matryoshka_widths") or ()) or None
    target = min(32.0, sizes["d_sae"])
    if architecture in BATCH and 0 < k < 1:  # of training alone: in use a threshold decides
        return JumpReLU(decoder="free", target_l0=target, **sizes)
    makers: dict[str, Callable[[], SAEConfig]] = {
        "standard": lambda: ReLU(**sizes),
        "gated": lambda: Gated(decoder="free", **sizes),
        "jumprelu": lambda: JumpReLU(decoder="free", target_l0=target, **sizes),
        "topk": lambda: TopK(k=int(k), decoder="free", **sizes),
        "abstopk": lambda: AbsTopK(k=int(k), decoder="free", **sizes),
        "batchtopk": lambda: BatchTopK(k=float(k), decoder="free", **sizes),
        "matryoshka_batchtopk": lambda: Matryoshka(
            k=float(k), widths=widths, decoder="free", **sizes
        ),
    }
    kind = architecture
    if architecture in TRANSCODERS:
        kind = "jumprelu" if architecture in JUMP else "standard"
    try:
        return makers[kind]()
    except ConfigError as error:
        raise FormatError(f"{folder / CONFIG} has impossible settings: {error}") from error


def _fold_scale(
    folded: Affine, raw: dict[str, Any], folder: Path, hints: FormatHints
) -> float | None:
    """Write a fixed scale of the input into the weights, and return it; None: there is none."""
    norm = raw["normalize_activations"]
    if norm not in NORMS:
        raise FormatError(
            f"{folder / CONFIG} has normalize_activations `{norm}`; saekit reads "
            f"{', '.join(NORMS)}."
        )
    if norm != "none" and raw["architecture"] in TRANSCODERS:
        raise FormatError(
            f"{folder / CONFIG} is of a transcoder with normalize_activations `{norm}`: SAELens "
            f"scales what it reads and has no way back for an output of another site."
        )
    if norm != "expected_average_only_in":
        return None
    scaler = folder / SCALER
    given = say_object(scaler).get("scaling_factor") if scaler.exists() else hints.input_scale
    if not given:
        raise ConfigError(
            f"{folder} holds weights for activations scaled to a mean norm of "
            f"{math.sqrt(raw['d_in']):.4g}, and does not say by what. SAELens keeps the factor in "
            f"{SCALER} beside a checkpoint or in its registry (norm_scaling_factor); give it as "
            f"input_scale, on a command line --input-scale."
        )
    folded.scaled(float(given))
    return float(given)


def _fold_whitening(folded: Affine, raw: dict[str, Any], folder: Path) -> None:
    if raw["normalize_activations"] == "covariance_whitening":
        tensors, d_in = read_tensors(folder / WHITENING), raw["d_in"]
        names = {"mean": (d_in,), "matrix": (d_in, d_in), "inverse_matrix": (d_in, d_in)}
        need(tensors, names, folder / WHITENING)
        folded.whitened(*(tensors[name] for name in names))


def _wrapped(
    cfg: SAEConfig, state: dict[str, Tensor], raw: dict[str, Any], W_skip: Tensor | None
) -> tuple[SAEConfig, dict[str, Tensor]]:
    """Return the SAE inside what the layout puts around it."""
    norm = raw["normalize_activations"]
    if norm in ("layer_norm", "constant_norm_rescale"):
        return standardised(cfg, state, "std" if norm == "layer_norm" else "rms")
    return skipping(cfg, state, None if W_skip is None else W_skip.t())
