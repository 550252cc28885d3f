"""MLSAE: config.json and model.safetensors of a TopK SAE that every layer shares."""

import re
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import read_tensors, write_json, write_tensors
from saekit.hub.card import Card
from saekit.hub.formats._fold import Affine, product
from saekit.hub.formats.base import (
    Format,
    FormatHints,
    Read,
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
KEYS = {"n_inputs", "n_latents", "k"}
_REPOSITORY = re.compile(r"mlsae-(pythia-([\d.]+[mb])(?:-deduped)?|.+?)-x(\d+)-k(\d+)(-lens)?")
PYTHIA_LAYERS = {"14m": 6, "31m": 6, "70m": 6, "160m": 12, "410m": 24, "1b": 16, "1.4b": 24,
                 "2.8b": 32, "6.9b": 32, "12b": 36}  # fmt: skip
# What the constructor asks for and use does not: the values of its own default training.
TRAINING = {"dead_steps_threshold": 76, "dead_threshold": 1e-3, "auxk": 256}
TOLERANCE = 1e-5  # of the largest bias, within which b_enc is what the layout can hold


@final
@registry.register
class MLSAE(Format):
    """MLSAE: one TopK SAE for the residual stream after every layer, tokens standardised.

    z = (x - mean) / (std + 1e-5) of each token, latents from W_enc (z - b_pre), and the
    prediction times std plus mean. b_pre goes into b_enc, and standardising is the wrapper
    `standardised`, whose codes are the published ones times the token's std.

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
            return set(say_object(folder / CONFIG)) >= KEYS
        except FormatError:
            return False

    @override
    def read(self, folder: Path, hints: FormatHints) -> Read:
        raw, where = say_object(folder / CONFIG), folder / WEIGHTS
        d, d_sae, k = (say(raw, n, int, folder / CONFIG) for n in ("n_inputs", "n_latents", "k"))
        standardise = raw.get("standardize", True)
        if not isinstance(standardise, bool):
            raise FormatError(
                f"{folder / CONFIG}: `standardize` must be true or false; got {standardise!r}."
            )
        weights = read_tensors(where)
        weights.pop("last_nonzero", None)  # a counter of training
        shapes = {
            "encoder.weight": (d_sae, d), "decoder.weight": (d, d_sae), "pre_encoder_bias": (d,)
        }  # fmt: skip
        need(weights, shapes, where)
        only(weights, set(shapes), where)
        bias = weights["pre_encoder_bias"]
        folded = Affine(
            weights["encoder.weight"].t(), weights["decoder.weight"].t(), torch.zeros(d_sae), bias
        )
        folded.subtract(bias)
        sizes: dict[str, Any] = {"d_in": d, "d_out": d, "d_sae": d_sae}
        try:
            cfg: SAEConfig = TopK(k=k, **sizes)
        except ConfigError as error:
            raise FormatError(f"{folder / CONFIG} cannot be: {error}") from error
        state = folded.state()
        if standardise:
            cfg = Standardised(inverse="published", inner=cfg, **sizes)
            frame = cfg.build(torch.Generator().manual_seed(0)).state_dict()
            inner = {f"inner.{name}": value for name, value in state.items()}
            state = {n: t for n, t in frame.items() if not n.startswith("inner.")} | inner
        return Read(cfg, state, _card(folder, raw, hints))

    @override
    def write(self, sae: SAE, card: Card, folder: Path) -> Path:
        if not card.pair.is_autoencoder:
            raise ConfigError(
                f"MLSAE's layout holds autoencoders; this SAE is of {card.pair.label}. Use "
                f"--format saekit."
            )
        config, weights = _converted(sae)
        write_tensors(folder / WEIGHTS, weights)
        write_json(folder / CONFIG, config)
        return folder


def _card(folder: Path, raw: dict[str, Any], hints: FormatHints) -> Card:
    found = _REPOSITORY.search(folder.resolve().as_posix())
    model, pair, notes = None, None, []
    if raw.get("standardize", True):
        notes.append("codes are the published ones times the token's std, so in act units")
    if found is not None:
        name, size, _, k, lens = found.groups()
        model = f"EleutherAI/{name}" if size else name
        if int(k) != raw["k"]:
            raise FormatError(
                f"The folder's name says k={k} and {folder / CONFIG} k={raw['k']}. One is of "
                f"another SAE."
            )
        if lens:
            notes.append("trained on activations changed by a tuned lens, which these files lack")
        elif size in PYTHIA_LAYERS:
            read = tuple(f"L{i}.resid_post" for i in range(PYTHIA_LAYERS[size]))
            pair = Pair(read=read, fold=True)
    says = {
        "n_ctx": 2048, "bos": False, "corpus": "monology/pile-uncopyrighted",
        "subtracts_b_dec": True,
    }  # fmt: skip
    return make_card("mlsae", hints, model=model, pair=pair, says=says, notes=tuple(notes))


def _converted(sae: SAE) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config.json and tensors of an SAE.

    Raises:
        ConfigError: the layout cannot hold it: it has one bias for both sides.
    """
    cfg, state = sae.cfg, {n: t.detach() for n, t in sae.state_dict().items()}
    standardise, moved = isinstance(cfg, Standardised), []
    if isinstance(cfg, Standardised):
        whole = cfg.build(torch.Generator().manual_seed(0)).state_dict()
        frame = [n for n in whole if not n.startswith("inner.")]
        moved = [n for n in frame if not torch.equal(whole[n], state[n])]
        moved += [] if (cfg.by, cfg.inverse) == ("std", "published") else ["inverse"]
        cfg = cfg.inner
        state = {n.removeprefix("inner."): t for n, t in state.items()}
    if not isinstance(cfg, TopK | MultiTopK) or cfg.d_in != cfg.d_out or moved:
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
            f"here b_enc is off -b_dec @ W_enc by up to {off:.3g}. Use --format saekit."
        )
    config = {"n_inputs": cfg.d_in, "n_latents": cfg.d_sae, "k": cfg.k} | TRAINING
    weights = {
        "encoder.weight": state["W_enc"].t(), "decoder.weight": state["W_dec"].t(),
        "pre_encoder_bias": state["b_dec"],
    }  # fmt: skip
    return config | {"standardize": standardise}, weights
