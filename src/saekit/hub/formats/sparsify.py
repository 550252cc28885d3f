"""Sparsify (eai-sparsify): cfg.json and sae.safetensors, one folder a hookpoint."""

import re
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
from saekit.hub.formats._examples import D_IN, D_SAE, K, random_tensors
from saekit.hub.formats._fold import Affine, product
from saekit.hub.formats._reading import read_weights
from saekit.hub.formats.base import (
    Format,
    FormatHints,
    Names,
    Read,
    check_unscaled,
    make_card,
    need,
    only,
    registry,
    say,
    say_object,
)
from saekit.models.sites import UNKNOWN
from saekit.saes.abs_topk import AbsTopK
from saekit.saes.base import SAE, SAEConfig
from saekit.saes.group_max import GroupMax
from saekit.saes.multi_topk import MultiTopK
from saekit.saes.skip import Skip
from saekit.saes.topk import TopK

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


@final
@registry.register
class Sparsify(Format):
    """Sparsify: TopK and groupmax autoencoders and transcoders, plain or with a skip connection.

    b_dec is taken off the input of an autoencoder and not of a transcoder; it goes into b_enc.
    The skip connection reads the input as it is. `signed` of early versions is `abs_topk`;
    `multi_topk` changes training alone.

    Source:
        eai-sparsify 1.3.3: sparse_coder.py, fused_encoder.py; its version of 2024 for `signed`.
    """

    name: ClassVar[str] = "sparsify"
    files: ClassVar[str] = f"{CONFIG} and {WEIGHTS}"

    @override
    def detect(self, folder: Path) -> bool:
        return (folder / CONFIG).exists() and (folder / WEIGHTS).exists()

    @override
    def read(self, folder: Path, hints: FormatHints) -> Read:
        raw, where = say_object(folder / CONFIG), folder / WEIGHTS
        d = say(raw, "d_in", int, folder / CONFIG)
        k = say(raw, "k", int, folder / CONFIG)
        if raw.get("activation", "topk") not in ("topk", "groupmax"):  # first there was topk alone
            raise FormatError(
                f"{folder / CONFIG} has the activation `{raw['activation']}`; saekit reads `topk` "
                f"and `groupmax`."
            )
        d_sae = raw.get("num_latents") or d * say(raw, "expansion_factor", int, folder / CONFIG)
        weights, skips = read_weights(where), bool(raw.get("skip_connection", False))
        shapes = {
            "encoder.weight": (d_sae, d),
            "encoder.bias": (d_sae,),
            "W_dec": (d_sae, d),
            "b_dec": (d,),
        } | ({"W_skip": (d, d)} if skips else {})
        need(weights, shapes, where)
        only(weights, set(shapes), where)
        folded = Affine(
            weights["encoder.weight"].t(),
            weights["W_dec"],
            weights["encoder.bias"],
            weights["b_dec"],
        )
        if not raw.get("transcode", False):
            folded.subtract(weights["b_dec"])
        sizes: dict[str, Any] = {"d_in": d, "d_out": d, "d_sae": d_sae}
        try:
            cfg, state = _variant(raw, k, sizes), folded.state()
        except ConfigError as error:
            raise FormatError(f"{folder / CONFIG} has impossible settings: {error}") from error
        if skips:
            cfg = Skip(inner=cfg, **sizes)
            state = {f"inner.{n}": t for n, t in state.items()}
            state |= {"W_skip": weights["W_skip"].float().t(), "centre": torch.zeros(d)}
        return Read(cfg, state, _card(folder, raw, hints))

    @override
    def example(self, folder: Path) -> Path:
        shapes = {"encoder.weight": (D_SAE, D_IN), "encoder.bias": (D_SAE,)}
        shapes |= {"W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
        says = {"activation": "topk", "num_latents": D_SAE, "k": K, "d_in": D_IN}
        place = folder / "layers.2"
        write_tensors(place / WEIGHTS, random_tensors(**shapes))
        write_json(place / CONFIG, says | {"transcode": False})
        return place

    @override
    def write(self, sae: SAE, card: Card, folder: Path) -> Path:
        check_unscaled(card, self.name)
        config, weights = _converted(sae, card)
        write_tensors(folder / WEIGHTS, weights)
        write_json(folder / CONFIG, config)
        return folder


def _variant(raw: dict[str, Any], k: int, sizes: dict[str, Any]) -> SAEConfig:
    if raw.get("activation") == "groupmax":
        return GroupMax(k=k, decoder="free", **sizes)
    if raw.get("signed", False):
        return AbsTopK(k=k, decoder="free", **sizes)
    if raw.get("multi_topk", False) and k < sizes["d_sae"]:
        return MultiTopK(k=k, decoder="free", **sizes)
    return TopK(k=k, decoder="free", **sizes)


def _transcodes(raw: dict[str, Any], run: dict[str, Any]) -> bool | None:
    """Return whether it predicts another site than it reads; None: the files leave that open.

    Until February 2025 cfg.json had no `transcode`: it stood in the run's config.json, one folder
    up. A skip connection was for transcoders alone, and before it there were none.
    """
    if (said := raw.get("transcode", run.get("transcode"))) is not None:
        return bool(said)
    if "skip_connection" not in raw:
        return False
    return True if raw["skip_connection"] else None


def _card(folder: Path, raw: dict[str, Any], hints: FormatHints) -> Card:
    place = folder.resolve()
    place = place.parent if re.fullmatch(r"seed\d+", place.name) else place
    run = place.parent / "config.json"
    says = say_object(run) if run.exists() else {}
    model = says.get("model") if isinstance(says.get("model"), str) else None
    transcode = _transcodes(raw, says)
    write = _names.from_module(place.name, hints.model or model)
    read = _names.from_module(place.name, hints.model or model, reads=True) if transcode else write
    notes: list[str] = []
    pair = Pair(read=(str(read or UNKNOWN),), write=(str(write or UNKNOWN),) if transcode else ())
    if raw.get("transcode") is None and says.get("transcode") is None and transcode is not False:
        pair = Pair(read=(str(UNKNOWN),))
        notes.append(
            f"files of this age say in config.json one folder up whether it is a transcoder, and "
            f"that file is missing{': it has a skip connection, so it is one' * bool(transcode)}"
        )
    elif UNKNOWN in pair.sites:
        notes.append(f"what saekit calls the place of the module `{place.name}` is not certain")
    if says.get("loss_fn", "fvu") != "fvu":
        notes.append(f"trained end to end for {says['loss_fn']}, not for reconstruction")
    kept = {
        "n_ctx": says.get("ctx_len"),
        "corpus": says.get("dataset"),
        "hook": place.name,
        "signed": bool(raw.get("signed", False)),
        "subtracts_b_dec": not raw.get("transcode", False),
    }
    near = _names.near(place.name, reads=transcode is not False), _names.near(place.name)
    if transcode is None and near[0] is not None and near[1] is not None:  # one or the other
        near = (tuple(dict.fromkeys(near[0] + near[1])), near[1])
    return make_card(
        "sparsify",
        hints,
        model=model,
        pair=pair,
        says=kept,
        transcodes=transcode,
        notes=tuple(notes),
        names=Names(place.name, *near),
    )


def _converted(sae: SAE, card: Card) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return cfg.json and tensors of an SAE.

    Raises:
        ConfigError: sparsify has nothing that does the same.
    """
    cfg, state = sae.cfg, {n: t.detach() for n, t in sae.state_dict().items()}
    skip = offset = None
    if type(cfg) is Skip:
        skip, offset = state["W_skip"], state["centre"] @ state["W_skip"]
        state = {n.removeprefix("inner."): t for n, t in state.items()}
        cfg = cfg.inner
    # An architecture that is built on one of these does something else.
    exact = type(cfg) in (TopK, MultiTopK, GroupMax)
    if not (exact and isinstance(cfg, TopK | MultiTopK | GroupMax)) or cfg.d_in != cfg.d_out:
        raise ConfigError(
            f"Sparsify has TopK and groupmax of equal widths, plain or with a skip; this SAE is "
            f"`{sae.cfg.name}` from {sae.cfg.d_in} to {sae.cfg.d_out}. Use --format saekit."
        )
    transcode = not card.pair.is_autoencoder
    b_dec = state["b_dec"] if offset is None else state["b_dec"] - offset
    b_enc = state["b_enc"].double()
    if not transcode:
        b_enc = b_enc + product(b_dec, state["W_enc"])
    weights = {
        "encoder.weight": state["W_enc"].t(),
        "encoder.bias": b_enc.float(),
        "W_dec": state["W_dec"],
        "b_dec": b_dec,
    }
    config = {
        "activation": "groupmax" if isinstance(cfg, GroupMax) else "topk",
        "expansion_factor": 32,
        "normalize_decoder": cfg.decoder == "unit",
        "num_latents": cfg.d_sae,
        "k": cfg.k,
        "multi_topk": isinstance(cfg, MultiTopK),
        "skip_connection": skip is not None,
        "transcode": transcode,
        "d_in": cfg.d_in,
    }
    return config, weights if skip is None else weights | {"W_skip": skip.t()}
