"""Gemma Scope: one params.npz a folder, JumpReLU; where it belongs is in the path alone."""

import re
from pathlib import Path
from typing import ClassVar, NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError, FormatError, ShapeError
from saekit.core.files import replace_with
from saekit.core.npz import read_npz
from saekit.hub.card import Card
from saekit.hub.formats import _names
from saekit.hub.formats._examples import affine_tensors
from saekit.hub.formats._fold import Affine
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
)
from saekit.models.sites import EMBED, UNKNOWN, Site
from saekit.saes.base import SAE
from saekit.saes.jumprelu import JumpReLU

WEIGHTS = "params.npz"
NAMES = {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}
_REPOSITORY = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)")


class _Place(NamedTuple):
    model: str | None
    site: Site | None
    transcodes: bool
    note: str
    names: Names | None = None  # what could be meant, where there is no certain site


@final
@registry.register
class GemmaScope(Format):
    """Gemma Scope: JumpReLU autoencoders and transcoders of Gemma 2, from params.npz.

    pre = x @ W_enc + b_enc with nothing taken off the input; a latent is on above its threshold
    and above 0. The model and the layer are those of the path, where it still has them.

    Source:
        Lieberum et al. 2024, arXiv:2408.05147 (layout, sites: section 3 and appendix);
        sae-lens 6.54.12, `gemma_2_sae_huggingface_loader`.
    """

    name: ClassVar[str] = "gemma_scope"
    files: ClassVar[str] = WEIGHTS

    @override
    def detect(self, folder: Path) -> bool:
        return (folder / WEIGHTS).exists()

    @override
    def read(self, folder: Path, hints: FormatHints) -> Read:
        where = folder / WEIGHTS
        weights = {n.replace("w_", "W_"): t for n, t in _tensors(where).items()}
        only(weights, NAMES, where)
        if missing := NAMES - set(weights):
            raise FormatError(f"{where} lacks {', '.join(sorted(missing))}.")
        if weights["W_enc"].ndim != 2 or weights["W_dec"].ndim != 2:
            raise ShapeError(
                f"`W_enc` and `W_dec` in {where} must have two axes; got "
                f"{list(weights['W_enc'].shape)} and {list(weights['W_dec'].shape)}."
            )
        (d_in, d_sae), d_out = weights["W_enc"].shape, weights["W_dec"].shape[1]
        need(weights, {"W_dec": (d_sae, d_out), "b_dec": (d_out,)}, where)
        need(weights, {"b_enc": (d_sae,), "threshold": (d_sae,)}, where)
        folded = Affine(*(weights[n] for n in ("W_enc", "W_dec", "b_enc", "b_dec")))
        state = folded.state() | {"threshold": weights["threshold"].float().clamp_min(0)}
        target = min(32.0, d_sae)
        cfg = JumpReLU(d_in=d_in, d_out=d_out, d_sae=d_sae, decoder="free", target_l0=target)
        place = _place(folder.resolve().as_posix())
        if place.model is not None and not place.transcodes and d_in != d_out:
            raise ShapeError(
                f"{folder} names an autoencoder; `W_enc` in {where} reads {d_in} dimensions and "
                f"`W_dec` writes {d_out}."
            )
        place = place._replace(transcodes=place.transcodes or d_in != d_out)
        return Read(cfg, state, _card(folder, place, hints))

    @override
    def example(self, folder: Path) -> Path:
        weights = affine_tensors()
        weights["threshold"] = 0.3 * weights["b_enc"].abs()
        place = folder / "gemma-scope-9b-it-res" / "layer_20" / "width_16k" / "average_l0_88"
        write_npz(place / WEIGHTS, weights)
        return place

    @override
    def write(self, sae: SAE, card: Card, folder: Path) -> Path:
        check_unscaled(card, self.name)
        if type(sae.cfg) is not JumpReLU:  # one built on it does something else
            raise ConfigError(
                f"Gemma Scope's layout holds `jumprelu` alone; this SAE is `{sae.cfg.name}`. Use "
                f"--format sae_lens or saekit."
            )
        state = {n: t.detach().float().contiguous() for n, t in sae.state_dict().items()}
        write_npz(folder / WEIGHTS, {n: state[n] for n in sorted(NAMES)})
        return folder


def _tensors(path: Path) -> dict[str, Tensor]:
    arrays = read_npz(path, kinds="fiu")
    return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}


def write_npz(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as arrays of a .npz file, whole or not at all."""
    import io

    buffer = io.BytesIO()
    np.savez(buffer, **{name: t.cpu().numpy() for name, t in tensors.items()})  # pyright: ignore[reportArgumentType]
    replace_with(path, buffer.getvalue())


def _card(folder: Path, place: _Place, hints: FormatHints) -> Card:
    pair = None
    if place.site is not None and place.transcodes:
        pair = Pair(read=(str(UNKNOWN),), write=(str(place.site),))
    elif place.site is not None:
        pair = Pair(read=(str(place.site),))
    width = re.search(r"width_(\w+?)/", folder.resolve().as_posix() + "/")
    says = {"n_ctx": 1024, "bos": True, "width": width[1] if width else None}
    notes = (place.note,) if place.note else ()
    return make_card(
        "gemma_scope", hints, model=place.model, pair=pair, says=says, notes=notes,
        transcodes=place.transcodes, names=place.names,
    )  # fmt: skip


def _place(path: str) -> _Place:
    """Return what a path says, as .../gemma-scope-2b-pt-res/layer_20/width_16k/....

    Layers count from 0, and layer L of `res` is what block L puts out.
    """
    found, layer = _REPOSITORY.search(path), re.search(r"layer_(\d+)", path)
    if found is None:
        note = f"the path names layer {layer[1]} of an unnamed set" if layer else ""
        here = _names.of_layer(int(layer[1])) if layer else None
        names = Names(layer[0], here, here) if layer else None
        return _Place(None, None, False, note, names)
    size, tuned, kind = found.groups()
    model = f"google/gemma-2-{size}{'-it' if tuned == 'it' else ''}"
    if "/embedding" in path:
        note = "takes token embeddings before Gemma multiplies them by sqrt(d_model)"
        return _Place(model, None, False, note, Names("embedding", (EMBED,)))
    if kind == "att":
        note = "takes heads flattened before the output map, which is no site of saekit"
        return _Place(model, None, False, note, Names(found[0], ()))
    if kind == "transcoders":
        note = (
            "reads the MLP's input after its norm and before the norm's gain, which is no site of "
            "saekit, and predicts mlp_out"
        )
        if layer is None:
            return _Place(model, None, True, note)
        mlp_in, mlp_out = (Site(int(layer[1]), point) for point in ("mlp_in", "mlp_out"))
        names = Names(f"{found[0]}/{layer[0]}", (mlp_in,), (mlp_out,))
        return _Place(model, mlp_out, True, note, names)
    point = "resid_post" if kind == "res" else "mlp_out"
    return _Place(model, Site(int(layer[1]), point) if layer else None, False, "")
