"""MLSAE: config.json and model.safetensors of a TopK SAE that every layer shares."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor
from typing_extensions import override

from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import read_tensors_under, tensor_names, write_json, write_tensors
from saekit.hub.card import Card
from saekit.hub.formats._examples import D_IN, D_SAE, K, random_tensors
from saekit.hub.formats._fold import Affine, product
from saekit.hub.formats._parts import standardised
from saekit.hub.formats._reading import read_weights
from saekit.hub.formats.base import (
    Format,
    FormatHints,
    Read,
    check_unscaled,
    make_card,
    need,
    only,
    registry,
    say,
    say_object,
)
from saekit.saes.base import SAE, SAEConfig
from saekit.saes.multi_topk import MultiTopK
from saekit.saes.standardised import Standardised
from saekit.saes.topk import TopK

CONFIG, WEIGHTS = "config.json", "model.safetensors"
KEYS = {"n_inputs", "n_latents", "k"}  # the constructor's arguments of the SAE alone
WHOLE_KEYS = {"model_name", "expansion_factor", "k"}  # and of the SAE with its language model
PREFIX = "autoencoder."  # of the SAE's tensors, where the language model's are beside them
_BLOCK = re.compile(r"transformer\.(?:model\.)?gpt_neox\.layers\.(\d+)\.")
_REPOSITORY = re.compile(
    r"mlsae-(pythia-([\d.]+[mb])(?:-deduped)?|.+?)-x(\d+)-k(\d+)(-lens)?(?:-tfm)?"
)
PYTHIA_LAYERS = {
    "14m": 6,
    "31m": 6,
    "70m": 6,
    "160m": 12,
    "410m": 24,
    "1b": 16,
    "1.4b": 24,
    "2.8b": 32,
    "6.9b": 32,
    "12b": 36,
}
# What the constructor asks for and use does not: the values of its own default training.
TRAINING = {"dead_steps_threshold": 76, "dead_threshold": 1e-3, "auxk": 256}
TOLERANCE = 1e-5  # of the largest bias, within which b_enc is what the layout can hold


class _Says(NamedTuple):
    """What a folder says of the SAE in it."""

    k: int
    standardise: bool
    model: str | None
    layers: tuple[int, ...] | None  # None: the files do not say
    lens: bool
    n_ctx: int


@final
@registry.register
class MLSAE(Format):
    """MLSAE: one TopK SAE for the residual stream after every layer, tokens standardised.

    z = (x - mean) / (std + 1e-5) of each token, latents from W_enc (z - b_pre), and the
    prediction times std plus mean. b_pre goes into b_enc, and standardising is the wrapper
    `standardised`, whose codes are the published ones times the token's std.

    Each is published twice, and both are read: the SAE alone, and with its language model
    (``-tfm``), whose tensors are left where they are.

    Source:
        Lawson et al. 2024, arXiv:2409.04185; tim-lawson/mlsae@ba90c51 (layout, formulas).
    """

    name: ClassVar[str] = "mlsae"
    files: ClassVar[str] = f"{CONFIG} and {WEIGHTS}"

    @override
    def detect(self, folder: Path) -> bool:
        if not ((folder / CONFIG).exists() and (folder / WEIGHTS).exists()):
            return False
        try:
            keys = set(say_object(folder / CONFIG))
        except FormatError:
            return False
        return keys >= KEYS or keys >= WHOLE_KEYS

    @override
    def read(self, folder: Path, hints: FormatHints) -> Read:
        raw, where = say_object(folder / CONFIG), folder / WEIGHTS
        whole = not set(raw) >= KEYS
        weights = (
            read_tensors_under(where, PREFIX)
            if whole
            else read_weights(where, columns=("decoder.weight",))
        )
        weights.pop("last_nonzero", None)  # a counter of training
        d, d_sae = _sizes(raw, weights, folder, whole)
        says = _says_whole(folder, raw) if whole else _says_alone(folder, raw)
        shapes = {
            "encoder.weight": (d_sae, d),
            "decoder.weight": (d, d_sae),
            "pre_encoder_bias": (d,),
        }
        need(weights, shapes, where)
        only(weights, set(shapes), where)
        bias = weights["pre_encoder_bias"]
        folded = Affine(
            weights["encoder.weight"].t(), weights["decoder.weight"].t(), torch.zeros(d_sae), bias
        )
        folded.subtract(bias)
        sizes: dict[str, Any] = {"d_in": d, "d_out": d, "d_sae": d_sae}
        try:
            cfg: SAEConfig = TopK(k=says.k, **sizes)
        except ConfigError as error:
            raise FormatError(f"{folder / CONFIG} has impossible settings: {error}") from error
        state = folded.state()
        if says.standardise:
            cfg, state = standardised(cfg, state, bias="shared")
        return Read(cfg, state, _card(says, hints))

    @override
    def example(self, folder: Path) -> Path:
        shapes = {"encoder.weight": (D_SAE, D_IN), "decoder.weight": (D_IN, D_SAE)}
        says = {"n_inputs": D_IN, "n_latents": D_SAE, "k": K, "standardize": True} | TRAINING
        place = folder / "mlsae-pythia-70m-deduped-x64-k3"
        write_tensors(place / WEIGHTS, random_tensors(**shapes, pre_encoder_bias=(D_IN,)))
        write_json(place / CONFIG, says)
        return place

    @override
    def write(self, sae: SAE, card: Card, folder: Path) -> Path:
        check_unscaled(card, self.name)
        if not card.pair.is_autoencoder:
            raise ConfigError(
                f"MLSAE's layout holds autoencoders; this SAE is of {card.pair.label}. Use "
                f"--format saekit."
            )
        config, weights = _converted(sae)
        write_tensors(folder / WEIGHTS, weights)
        write_json(folder / CONFIG, config)
        return folder


def _sizes(
    raw: dict[str, Any], weights: dict[str, Tensor], folder: Path, whole: bool
) -> tuple[int, int]:
    """Return d_in and d_sae, which the files of the SAE with its model say by a factor only."""
    if not whole:
        return say(raw, "n_inputs", int, folder / CONFIG), say(
            raw, "n_latents", int, folder / CONFIG
        )
    factor = say(raw, "expansion_factor", int, folder / CONFIG)
    encoder = weights.get("encoder.weight")
    if encoder is None or encoder.ndim != 2:
        raise FormatError(
            f"{folder / WEIGHTS} must hold the matrix `{PREFIX}encoder.weight`; "
            f"{'it does not' if encoder is None else f'its shape is {list(encoder.shape)}'}."
        )
    d_sae, d = encoder.shape
    if d_sae != factor * d:
        raise FormatError(
            f"{folder / CONFIG} says expansion_factor={factor} and {WEIGHTS} has {d_sae} latents "
            f"of width {d}. One is of another SAE."
        )
    return d, d_sae


def _says_alone(folder: Path, raw: dict[str, Any]) -> _Says:
    """Return what the files of the SAE alone say, and the name they are published under."""
    k = say(raw, "k", int, folder / CONFIG)
    found = _named(folder, k)
    standardise, model, layers, lens = _flag(raw, "standardize", True, folder), None, None, False
    if found is not None:
        name, size = found[1], found[2]
        model, lens = f"EleutherAI/{name}" if size else name, bool(found[5])
        layers = _every_layer(size)
    return _Says(k, standardise, model, layers, lens, 2048)


def _says_whole(folder: Path, raw: dict[str, Any]) -> _Says:
    """Return what the files of the SAE with its language model say."""
    where = folder / CONFIG
    k = say(raw, "k", int, where)
    _named(folder, k)
    model = say(raw, "model_name", str, where)
    layers = raw.get("layers")
    if layers is None:
        blocks = {m[1] for n in tensor_names(folder / WEIGHTS) if (m := _BLOCK.match(n))}
        size = re.search(r"pythia-([\d.]+[mb])", model)
        found = tuple(range(len(blocks))) or _every_layer(size[1] if size else None)
    else:
        numbers = layers if isinstance(layers, list) else []
        found = tuple(n for n in numbers if type(n) is int and n >= 0)
        if not found or len(set(found)) < len(numbers):
            raise FormatError(
                f"{where}: `layers` must be null or a list of different layers; got {layers!r}."
            )
    n_ctx = 2048 if raw.get("max_length") is None else say(raw, "max_length", int, where)
    return _Says(
        k,
        _flag(raw, "standardize", True, folder),
        model,
        found,
        _flag(raw, "tuned_lens", False, folder),
        n_ctx,
    )


def _named(folder: Path, k: int) -> re.Match[str] | None:
    """Return what a folder's published name says, if it has one.

    Raises:
        FormatError: the name and the files differ in k.
    """
    found = _REPOSITORY.search(folder.resolve().as_posix())
    if found is not None and int(found[4]) != k:
        raise FormatError(
            f"The folder's name says k={found[4]} and {folder / CONFIG} k={k}. One is of "
            f"another SAE."
        )
    return found


def _flag(raw: dict[str, Any], key: str, default: bool, folder: Path) -> bool:
    value = raw.get(key, default)
    if not isinstance(value, bool):
        raise FormatError(f"{folder / CONFIG}: `{key}` must be true or false; got {value!r}.")
    return value


def _every_layer(size: str | None) -> tuple[int, ...] | None:
    """Return the layers of a Pythia model of that size; None where it is not one."""
    return tuple(range(PYTHIA_LAYERS[size])) if size in PYTHIA_LAYERS else None


def _card(says: _Says, hints: FormatHints) -> Card:
    pair, notes = None, []
    if says.standardise:
        notes.append("codes are the published ones times the token's std, so in act units")
    if says.lens:
        notes.append("trained on activations changed by a tuned lens, which these files lack")
    elif says.layers is not None:
        pair = Pair(read=tuple(f"L{i}.resid_post" for i in says.layers), fold=len(says.layers) > 1)
    published = {
        "n_ctx": says.n_ctx,
        "bos": False,
        "corpus": "monology/pile-uncopyrighted",
        "subtracts_b_dec": True,
    }
    card = make_card(
        "mlsae", hints, model=says.model, pair=pair, says=published, notes=tuple(notes)
    )
    # It was trained on a model in float32, and codes of rounded activations are others.
    return replace(card, model=card.model | {"dtype": "float32"})


def _converted(sae: SAE) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config.json and tensors of an SAE.

    Raises:
        ConfigError: the layout cannot hold it: it has one bias for both sides.
    """
    cfg, state = sae.cfg, {n: t.detach() for n, t in sae.state_dict().items()}
    # By exact type: an architecture that is built on one of these does something else.
    standardise, moved = type(cfg) is Standardised, []
    if type(cfg) is Standardised:
        whole = cfg.build(torch.Generator().manual_seed(0)).state_dict()
        frame = [n for n in whole if not n.startswith("inner.")]
        moved = [n for n in frame if not torch.equal(whole[n], state[n])]
        moved += [] if (cfg.by, cfg.inverse) == ("std", "published") else ["inverse"]
        cfg = cfg.inner
        state = {n.removeprefix("inner."): t for n, t in state.items()}
    exact = type(cfg) in (TopK, MultiTopK)
    if not (exact and isinstance(cfg, TopK | MultiTopK)) or cfg.d_in != cfg.d_out or moved:
        raise ConfigError(
            f"MLSAE's layout holds `topk` of equal widths, plain or in `standardised` with "
            f'inverse "published" and raw activations; this SAE is `{sae.cfg.name}` around '
            f"`{cfg.name}`{', with other ' + ', '.join(moved) if moved else ''}. Use --format "
            f"saekit."
        )
    wanted = -product(state["b_dec"], state["W_enc"])
    off = float((state["b_enc"].double() - wanted).abs().max())
    if off > TOLERANCE * max(float(wanted.abs().max()), 1e-30):
        raise ConfigError(
            f"MLSAE's layout has one bias, taken off before encoding and added after decoding; "
            f"here b_enc is off -b_dec @ W_enc by up to {off:.3g}. Use --format saekit, or train "
            f'with sae.bias "shared", as --recipe mlsae does.'
        )
    config = {"n_inputs": cfg.d_in, "n_latents": cfg.d_sae, "k": cfg.k} | TRAINING
    weights = {
        "encoder.weight": state["W_enc"].t(),
        "decoder.weight": state["W_dec"].t(),
        "pre_encoder_bias": state["b_dec"],
    }
    return config | {"standardize": standardise}, weights
