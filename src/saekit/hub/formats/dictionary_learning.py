"""dictionary_learning: ae.pt, a torch file of tensors, and mostly a config.json beside it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError, FormatError, ShapeError
from saekit.core.files import write_json
from saekit.core.torch_files import read_state
from saekit.core.torch_writing import write_state
from saekit.hub.card import Card
from saekit.hub.formats import _dictionary_write, _names
from saekit.hub.formats._examples import D_IN, D_SAE, random_tensors
from saekit.hub.formats._fold import Affine
from saekit.hub.formats.base import (
    Format,
    FormatHints,
    Names,
    Read,
    check_unscaled,
    make_card,
    need,
    registry,
    say_object,
)
from saekit.models.sites import Site
from saekit.saes.base import SAE, SAEConfig
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.gated import Gated
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.matryoshka import Matryoshka
from saekit.saes.relu import ReLU
from saekit.saes.topk import TopK

CONFIG, WEIGHTS = "config.json", "ae.pt"
_CHECKPOINT = re.compile(r"ae_(\d+)\.pt")
LINEAR = {"encoder.weight", "encoder.bias", "decoder.weight"}
ROWS = {"W_enc", "W_dec", "b_enc", "b_dec"}
RANKED = LINEAR | {"b_dec", "k", "threshold"}
# Classes of the library, saekit's names, and the tensors each has; those of `OPTIONAL` came later.
CLASSES: dict[str, tuple[str, set[str]]] = {
    "AutoEncoder": ("relu", LINEAR | {"bias"}),
    "AutoEncoderNew": ("relu", LINEAR | {"decoder.bias"}),
    "GatedAutoEncoder": (
        "gated",
        {"encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias"},
    ),
    "AutoEncoderTopK": ("topk", RANKED),
    "BatchTopKSAE": ("batch_topk", RANKED),
    "MatryoshkaBatchTopKSAE": ("matryoshka", ROWS | {"k", "threshold", "group_sizes"}),
    "JumpReluAutoEncoder": ("jumprelu", ROWS | {"threshold"}),
}
# What a module whose output is a site reads, by the point of that site.
INPUTS: dict[str, Callable[[int | None], tuple[Site, ...]]] = {
    "resid_post": lambda layer: (Site(layer, "resid_pre"),),
    "mlp_out": lambda layer: (Site(layer, "mlp_in"),),
}
ADDS_ONLY = ("AutoEncoderNew", "JumpReluAutoEncoder")  # do not take b_dec off the input
OPTIONAL = {
    "AutoEncoderTopK": {"k", "threshold"},
    "BatchTopKSAE": {"k"},
    "MatryoshkaBatchTopKSAE": {"k"},
}


@final
@registry.register
class DictionaryLearning(Format):
    """dictionary_learning: all seven classes, told apart by config.json and by their tensors.

    b_dec taken off the input goes into b_enc; the decoder of AutoEncoder is brought to unit rows,
    as the library's own reader does. Nothing in the file is run (`saekit.core.torch_files`).

    Source:
        dictionary-learning 0.1.0: dictionary.py, trainers/*.py, `utils.load_dictionary`.
    """

    name: ClassVar[str] = "dictionary_learning"
    files: ClassVar[str] = f"{WEIGHTS}, mostly with {CONFIG}; of checkpoints ae_STEP.pt"

    @override
    def detect(self, folder: Path) -> bool:
        return (folder / WEIGHTS).exists() or bool(self.members(folder))

    @override
    def members(self, folder: Path) -> dict[str, Path]:
        if (folder / WEIGHTS).exists():
            return {}
        steps = sorted(
            (int(m[1]), p) for p in folder.iterdir() if (m := _CHECKPOINT.fullmatch(p.name))
        )
        return {path.name: path for _, path in steps}

    @override
    def read(self, place: Path, hints: FormatHints) -> Read:
        folder, where = (place, place / WEIGHTS) if place.is_dir() else (place.parent, place)
        # Checkpoints of a run lie one folder below what says what they are of.
        configs = (folder / CONFIG, *([folder.parent / CONFIG] if where is place else []))
        raw = next((say_object(path) for path in configs if path.exists()), {})
        trainer = _group(raw, "trainer")
        weights = read_state(where)
        kind = _class(trainer.get("dict_class"), weights, hints, where)
        tensors = _tensors(kind, weights, where)
        cfg, state = _built(kind, tensors, weights, trainer, hints, where)
        return Read(cfg, state, _card(folder, raw, trainer, kind, hints))

    @override
    def write(self, sae: SAE, card: Card, folder: Path) -> Path:
        check_unscaled(card, self.name)
        config, tensors = _dictionary_write.convert(sae, card)
        write_state(folder / WEIGHTS, tensors)
        write_json(folder / CONFIG, config)
        return folder

    @override
    def example(self, folder: Path) -> Path:
        shapes = {"encoder.weight": (D_SAE, D_IN), "decoder.weight": (D_IN, D_SAE)}
        shapes |= {"encoder.bias": (D_SAE,), "bias": (D_IN,)}
        place = folder / "resid_post_layer_3" / "trainer_0"
        trainer = {
            "dict_class": "AutoEncoder",
            "layer": 3,
            "submodule_name": "resid_post_layer_3",
            "lm_name": "EleutherAI/pythia-70m-deduped",
        }
        write_state(place / WEIGHTS, random_tensors(**shapes))
        says = {"trainer": trainer, "buffer": {"ctx_len": 128, "io": "out"}}
        write_json(place / CONFIG, says)
        return place


def _group(raw: dict[str, Any], name: str) -> dict[str, Any]:
    found = raw.get(name)
    return found if isinstance(found, dict) else {}


def _class(said: Any, weights: dict[str, Tensor], hints: FormatHints, where: Path) -> str:
    """Return the library's class, which must fit what the files say and hold."""
    fitting = [
        name
        for name, (_, tensors) in CLASSES.items()
        if tensors - OPTIONAL.get(name, set()) <= set(weights) <= tensors
    ]
    if said is not None:
        if said not in CLASSES:
            raise FormatError(
                f"{where.parent / CONFIG} of dictionary_learning is of the class `{said}`, which "
                f"saekit does not read; it reads {', '.join(CLASSES)}."
            )
        if said not in fitting:
            raise FormatError(
                f"{where.parent / CONFIG} says `{said}`, whose tensors are "
                f"{', '.join(sorted(CLASSES[said][1]))}; {where} has "
                f"{', '.join(sorted(weights)) or 'none'}."
            )
        return said
    if not fitting:
        raise FormatError(
            f"{where} has {', '.join(sorted(weights)) or 'no tensors'}, which fits no class of "
            f"dictionary_learning that saekit reads: {', '.join(CLASSES)}."
        )
    if hints.architecture:
        fitting = [name for name in fitting if CLASSES[name][0] == hints.architecture]
    if len(fitting) != 1:
        names = ", ".join(CLASSES[n][0] for n in CLASSES if set(weights) <= CLASSES[n][1])
        raise ConfigError(
            f"{where} has no {CONFIG} beside it and its tensors fit {names or 'nothing'}, which "
            f"encode differently. Say which: architecture=, on a command line --architecture."
        )
    return fitting[0]


def _tensors(kind: str, weights: dict[str, Tensor], where: Path) -> Affine:
    """Return weights in saekit's orientation, shapes checked, with nothing folded."""
    rows = "W_enc" in weights
    W_enc = weights["W_enc"] if rows else weights["encoder.weight"]
    if W_enc.ndim != 2:
        raise ShapeError(f"The encoder in {where} must have two axes; got {list(W_enc.shape)}.")
    d_in, d_sae = W_enc.shape if rows else W_enc.shape[::-1]
    bias = next(n for n in ("b_dec", "bias", "decoder_bias", "decoder.bias") if n in weights)
    shapes = {bias: (d_in,)} | (
        {"W_dec": (d_sae, d_in), "b_enc": (d_sae,)} if rows else {"decoder.weight": (d_in, d_sae)}
    )
    if kind == "GatedAutoEncoder":
        shapes |= {n: (d_sae,) for n in ("gate_bias", "mag_bias", "r_mag")}
    elif not rows:
        shapes |= {"encoder.bias": (d_sae,)}
    if "threshold" in weights:
        shapes |= {"threshold": (d_sae,) if kind == "JumpReluAutoEncoder" else ()}
    need(weights, shapes, where)
    b_enc = weights.get("b_enc", weights.get("encoder.bias", weights.get("gate_bias")))
    assert b_enc is not None
    more = {}
    if kind == "GatedAutoEncoder":
        more = {"b_mag": weights["mag_bias"], "r_mag": weights["r_mag"]}
    if rows:
        return Affine(W_enc, weights["W_dec"], b_enc, weights[bias], **more)
    return Affine(W_enc.t(), weights["decoder.weight"].t(), b_enc, weights[bias], **more)


def _built(
    kind: str,
    folded: Affine,
    weights: dict[str, Tensor],
    trainer: dict[str, Any],
    hints: FormatHints,
    where: Path,
) -> tuple[SAEConfig, dict[str, Tensor]]:
    d_in, d_sae = folded.W_enc.shape
    sizes: dict[str, Any] = {"d_in": d_in, "d_out": d_in, "d_sae": d_sae}
    for name, size in (("activation_dim", d_in), ("dict_size", d_sae)):
        if trainer.get(name, size) != size:
            raise ShapeError(
                f"{where.parent / CONFIG} says `{name}` {trainer[name]}; {where} has {size}."
            )
    if kind not in ADDS_ONLY:
        folded.subtract(folded.b_dec)
    if kind == "AutoEncoder":
        folded.by_norm()
    state = folded.state()
    if kind == "JumpReluAutoEncoder":
        state["threshold"] = weights["threshold"].float().clamp_min(0)  # relu comes last
        target = min(32.0, d_sae)
        return JumpReLU(decoder="free", target_l0=target, **sizes), state
    if kind in ("AutoEncoder", "AutoEncoderNew"):
        return ReLU(decoder="free", **sizes), state
    if kind == "GatedAutoEncoder":
        return Gated(decoder="free", **sizes), state
    k = _k(weights, trainer, hints, where)
    try:
        cfg = _ranked(kind, k, sizes, weights, where)
    except ConfigError as error:
        raise FormatError(f"{where} has impossible settings: {error}") from error
    if kind != "AutoEncoderTopK":
        # -1 until the trainer has set it: every positive pre-activation is then on.
        cut = max(float(weights["threshold"]), 0.0)
        state["cutoff_sum"] = torch.tensor(cut, dtype=torch.float64)
        state["cutoff_weight"] = torch.ones((), dtype=torch.float64)
    return cfg, state


def _ranked(
    kind: str, k: int, sizes: dict[str, Any], weights: dict[str, Tensor], where: Path
) -> SAEConfig:
    if kind == "AutoEncoderTopK":
        return TopK(k=k, **sizes)
    if kind == "BatchTopKSAE":
        return BatchTopK(k=float(k), **sizes)
    groups = weights["group_sizes"].long()
    if groups.ndim != 1 or int(groups.sum()) != sizes["d_sae"]:
        raise FormatError(
            f"`group_sizes` in {where} must add up to {sizes['d_sae']} latents; got "
            f"{groups.tolist()}."
        )
    return Matryoshka(k=float(k), widths=tuple(groups.cumsum(0).tolist()), **sizes)


def _k(weights: dict[str, Tensor], trainer: dict[str, Any], hints: FormatHints, where: Path) -> int:
    said = [int(weights["k"])] if "k" in weights else []
    said += [trainer["k"]] if isinstance(trainer.get("k"), int) else []
    if len(set(said)) > 1:
        raise FormatError(f"{where} has k={said[0]} and {CONFIG} beside it k={said[1]}.")
    if not said and (not hints.k or hints.k != int(hints.k)):
        raise FormatError(
            f"{where} does not say how many latents are kept per token. Give it, a whole number: "
            f"k=, on a command line --k."
        )
    return said[0] if said else int(hints.k)


def _card(
    folder: Path, raw: dict[str, Any], trainer: dict[str, Any], kind: str, hints: FormatHints
) -> Card:
    buffer = _group(raw, "buffer")
    model = trainer.get("lm_name") if isinstance(trainer.get("lm_name"), str) else None
    names = [str(trainer.get("submodule_name") or "")] + list(folder.resolve().parts[::-1])
    site = _names.from_transformer_lens(names[0], model) or next(
        (s for n in names if (s := _names.from_dictionary(n, model)) is not None), None
    )
    layer, notes = trainer.get("layer"), []
    layer = layer if isinstance(layer, int) and not isinstance(layer, bool) else None
    if site is not None and isinstance(layer, int) and layer != site.layer:
        notes.append(f"the path says {site} and {CONFIG} layer {layer}")
        site = None
    elif site is None and isinstance(layer, int):
        notes.append(f"of layer {layer}; the files do not say which point of it")
    io, near = buffer.get("io", "out"), None if layer is None else _names.of_layer(layer)
    transcodes = io == "in_and_out"
    if io != "out" and site is not None:
        what = {"in": "what the module at {} reads", "in_and_out": "both sides of the module at {}"}
        notes.append(f"trained on {what.get(io, 'another side of {}').format(site)}")
        near, site = INPUTS.get(site.point, lambda _: ())(site.layer), None
    if kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        notes.append("in use, latents are on above the threshold of training")
    says = {
        "n_ctx": buffer.get("ctx_len"),
        "dict_class": kind,
        "layer": layer,
        "trainer_class": trainer.get("trainer_class"),
        "subtracts_b_dec": kind not in ADDS_ONLY,
    }
    pair = Pair(read=(str(site),)) if site is not None else None
    named = str(trainer.get("submodule_name") or f"layer {layer}")
    return make_card(
        "dictionary_learning",
        hints,
        model=model,
        pair=pair,
        says=says,
        notes=tuple(notes),
        transcodes=transcodes,
        names=None if near is None else Names(named, near),
    )
