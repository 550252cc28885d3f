"""Qwen Scope: layerN.sae.pt for each layer, and mostly a config.json for all of them."""

import re
from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError, FormatError, ShapeError
from saekit.core.files import write_json
from saekit.core.torch_files import read_state
from saekit.core.torch_writing import write_state
from saekit.hub.formats._examples import D_IN, D_SAE, K, random_tensors
from saekit.hub.formats._fold import Affine
from saekit.hub.formats.base import (
    Format,
    FormatHints,
    Read,
    make_card,
    need,
    only,
    registry,
    say_object,
)
from saekit.models.sites import Site
from saekit.saes.topk import TopK

CONFIG = "config.json"
_FILE = re.compile(r"layer(\d+)\.sae\.pt")
_REPOSITORY = re.compile(r"SAE-Res-(.+?)-W(\d+)K-L0_(\d+)")


@final
@registry.register
class QwenScope(Format):
    """Qwen Scope: TopK autoencoders of the residual stream of Qwen 3 and 3.5, a file a layer.

    acts = the k largest of x @ W_enc.T + b_enc, with nothing taken off the input;
    y_hat = acts @ W_dec.T + b_dec

    The model card's own code keeps the k largest also where one is below 0, which a token of this
    width does not have; here, as in sae-lens, such a one is 0.

    Source:
        The model cards of Qwen/SAE-Res-*, "Feature Activation Extraction" (2026);
        sae-lens 6.54.12, `qwen_scope_sae_huggingface_loader`.
    """

    name: ClassVar[str] = "qwen_scope"
    files: ClassVar[str] = "layerN.sae.pt, mostly with config.json"

    @override
    def detect(self, folder: Path) -> bool:
        return bool(self.members(folder))

    @override
    def members(self, folder: Path) -> dict[str, Path]:
        layers = sorted((int(m[1]), p) for p in folder.iterdir() if (m := _FILE.fullmatch(p.name)))
        return {str(Site(layer, "resid_post")): path for layer, path in layers}

    @override
    def read(self, place: Path, hints: FormatHints) -> Read:
        layer, said = _FILE.fullmatch(place.name), _said(place.parent, hints)
        if layer is None:
            raise FormatError(f"{place} must be named as layer3.sae.pt: its name says the layer.")
        weights = read_state(place)
        need(weights, {}, place, names=("W_enc", "W_dec", "b_enc", "b_dec"))
        only(weights, {"W_enc", "W_dec", "b_enc", "b_dec"}, place)
        if weights["W_enc"].ndim != 2:
            raise ShapeError(
                f"`W_enc` in {place} must have two axes; got {list(weights['W_enc'].shape)}."
            )
        d_sae, d_in = weights["W_enc"].shape
        shapes = {"W_dec": (d_in, d_sae), "b_enc": (d_sae,), "b_dec": (d_in,)}
        need(weights, shapes, place)
        for key, size in (("d_sae", d_sae), ("d_model", d_in)):
            if said.get(key, size) != size:
                raise ShapeError(
                    f"{place.parent} says {key} {said[key]}, and {place.name} has {size}. One is "
                    f"of another SAE."
                )
        W_enc, W_dec = weights["W_enc"].t(), weights["W_dec"].t()
        folded = Affine(W_enc, W_dec, weights["b_enc"], weights["b_dec"])
        try:
            cfg = TopK(k=said["k"], d_in=d_in, d_out=d_in, d_sae=d_sae, decoder="free")
        except ConfigError as error:
            raise FormatError(f"{place.parent} has impossible settings: {error}") from error
        site = Site(int(layer[1]), "resid_post")
        card = make_card(
            self.name,
            hints,
            model=said.get("model"),
            pair=Pair(read=(str(site),)),
            says={"subtracts_b_dec": False},
        )
        return Read(cfg, folded.state(), card)

    @override
    def example(self, folder: Path) -> Path:
        place = folder / "Tiny-Scope"
        shapes = {"W_enc": (D_SAE, D_IN), "W_dec": (D_IN, D_SAE), "b_enc": (D_SAE,)}
        says = {
            "model_type": "topk_sae",
            "base_model": "Qwen/Qwen3-1.7B-Base",
            "d_model": D_IN,
            "d_sae": D_SAE,
            "k": K,
            "num_layers": 28,
            "hook_point": "resid_post",
        }
        write_state(place / "layer3.sae.pt", random_tensors(**shapes, b_dec=(D_IN,)))
        write_json(place / CONFIG, says)
        return place


def _said(folder: Path, hints: FormatHints) -> dict[str, Any]:
    """Return k, and where they are known the model and the sizes.

    config.json says them; where it is missing, the name that the folder is published under.

    Raises:
        FormatError: config.json is of something else, or leaves one of them out.
        ConfigError: neither says k.
    """
    if not (folder / CONFIG).exists():
        if (found := _REPOSITORY.search(folder.resolve().as_posix())) is not None:
            return {"model": f"Qwen/{found[1]}", "d_sae": 1024 * int(found[2]), "k": int(found[3])}
        if not hints.k:
            raise ConfigError(
                f"{folder} has no {CONFIG}, and its name does not say k as "
                f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_50 does. Give it: k=, on a command line --k."
            )
        return {"k": int(hints.k)}
    raw = say_object(folder / CONFIG)
    if raw.get("model_type") != "topk_sae" or raw.get("hook_point", "resid_post") != "resid_post":
        raise FormatError(
            f"{folder / CONFIG} must be of model_type `topk_sae` and hook_point `resid_post`; got "
            f"{raw.get('model_type')!r} and {raw.get('hook_point')!r}."
        )
    said: dict[str, Any] = {"model": raw.get("base_model")}
    for key in ("k", "d_sae", "d_model"):
        said[key] = raw.get(key)
        if type(said[key]) is not int:
            raise FormatError(f"{folder / CONFIG} must say `{key}` (int); got {said[key]!r:.80}.")
    if not isinstance(said["model"], str):
        raise FormatError(f"{folder / CONFIG} must name the `base_model`; got {said['model']!r}.")
    return said
