"""Gemma Scope: one params.npz a folder, JumpReLU; where it belongs is in the path alone."""

import re
from pathlib import Path
from typing import ClassVar, NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError, ShapeError
from saekit.core.files import replace_with
from saekit.core.npz import read_npz
from saekit.hub.card import Card
from saekit.hub.formats import _names
from saekit.hub.formats._examples import affine_tensors
from saekit.hub.formats._parts import NAMES, affine, jumping
from saekit.hub.formats.base import (
    Format,
    FormatHints,
    Names,
    Read,
    check_unscaled,
    make_card,
    registry,
)
from saekit.models.sites import EMBED, UNKNOWN, Site
from saekit.saes.base import SAE
from saekit.saes.jumprelu import JumpReLU

WEIGHTS = "params.npz"
# What a set reads and predicts ("": the same): attention before the output map, transcoders the
# MLP's input after its norm and before the norm's gain.
_POINTS = {
    "res": ("resid_post", ""),
    "mlp": ("mlp_out", ""),
    "att": ("z", ""),
    "transcoders": ("mlp_normalized", "mlp_out"),
}
_REPOSITORY = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)")


class _Place(NamedTuple):
    """What the path says, as .../gemma-scope-2b-pt-res/layer_20/width_16k/...."""

    model: str | None
    read: Site | None  # None: the path does not say
    write: Site | None = None  # of a transcoder
    transcodes: bool = False
    note: str = ""
    names: Names | None = None  # what could be meant, where there is no certain site


@final
@registry.register
class GemmaScope(Format):
    """Gemma Scope: JumpReLU autoencoders and transcoders of Gemma 2, from params.npz.

    pre = x @ W_enc + b_enc with nothing taken off the input; a latent is on above its threshold
    and above 0. The model and the layer are those of the path, where it still has them. Those of
    embeddings are of embeddings before Gemma multiplies them by sqrt(d_model), which is folded in:
    the site `embed` is after it.

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
    def read(self, place: Path, hints: FormatHints) -> Read:
        where = place / WEIGHTS
        weights = {n.replace("w_", "W_"): t for n, t in _tensors(where).items()}
        folded = affine(weights, where)
        d_in, d_out = len(folded.W_enc), folded.W_dec.shape[1]
        said = _place(place.resolve().as_posix())
        if said.model is not None and not said.transcodes and d_in != d_out:
            raise ShapeError(
                f"{place} names an autoencoder; `W_enc` in {where} reads {d_in} dimensions and "
                f"`W_dec` writes {d_out}."
            )
        if said.read == EMBED:
            folded.scaled(d_in**-0.5)
        cfg, state = jumping(folded, weights["threshold"])
        said = said._replace(transcodes=said.transcodes or d_in != d_out)
        return Read(cfg, state, _card(place, said, hints))

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
        if _place(folder.resolve().as_posix()).read == EMBED:
            back = sae.cfg.d_in**0.5
            state["W_enc"] = state["W_enc"] * back
            state |= {n: state[n] / back for n in ("W_dec", "b_dec")}
        write_npz(folder / WEIGHTS, {n: state[n] for n in sorted(NAMES)})
        return folder


def _tensors(path: Path) -> dict[str, Tensor]:
    arrays = read_npz(path, kinds="fiu", laid=_laid)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _laid(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array with the encoder's columns together, as saekit keeps them."""
    return np.asfortranarray(array) if name.lower() == "w_enc" else array


def write_npz(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as arrays of a .npz file, whole or not at all."""
    import io

    buffer = io.BytesIO()
    np.savez(buffer, **{name: t.cpu().numpy() for name, t in tensors.items()})  # pyright: ignore[reportArgumentType]
    replace_with(path, buffer.getvalue())


def _card(folder: Path, place: _Place, hints: FormatHints) -> Card:
    pair = None
    if place.read is not None or place.write is not None:
        write = (str(place.write or UNKNOWN),) if place.transcodes else ()
        pair = Pair(read=(str(place.read or UNKNOWN),), write=write)
    width = re.search(r"width_(\w+?)/", folder.resolve().as_posix() + "/")
    says = {"n_ctx": 1024, "bos": True, "width": width[1] if width else None}
    notes = (place.note,) if place.note else ()
    return make_card(
        "gemma_scope",
        hints,
        model=place.model,
        pair=pair,
        says=says,
        notes=notes,
        transcodes=place.transcodes,
        names=place.names,
    )


def _place(path: str) -> _Place:
    """Return what a path says. Layers count from 0, and layer L is that of block L."""
    found, layer = _REPOSITORY.search(path), re.search(r"layer_(\d+)", path)
    number = None if layer is None else int(layer[1])
    if found is None:
        if layer is None or number is None:
            return _Place(None, None)
        here = _names.of_layer(number)
        note = f"the path names layer {number} of an unnamed set"
        return _Place(None, None, note=note, names=Names(layer[0], here, here))
    size, tuned, kind = found.groups()
    model = f"google/gemma-2-{size}{'-it' if tuned == 'it' else ''}"
    if "/embedding" in path and kind == "res":
        return _Place(model, EMBED)
    read, write = _POINTS[kind]
    if number is None:
        return _Place(model, None, transcodes=bool(write))
    return _Place(
        model, Site(number, read), Site(number, write) if write else None, transcodes=bool(write)
    )
