"""Autoencoders of relu that are published as one torch file, named by model and layer."""

import re
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError, ShapeError
from saekit.core.torch_files import read_state
from saekit.core.torch_writing import write_state
from saekit.hub.formats._examples import D_IN, D_SAE, random_tensors
from saekit.hub.formats._fold import Affine
from saekit.hub.formats._torch_heads import names_all, torch_files
from saekit.hub.formats.base import Format, FormatHints, Read, make_card, need, only
from saekit.models.sites import Site
from saekit.saes.relu import ReLU

_NAMED = re.compile(r"(.+)-SAE-l(\d+)\.pth?")
OWNERS = {"Llama": "meta-llama", "DeepSeek": "deepseek-ai", "Qwen": "Qwen"}


class SingleFile(Format):
    """A layout of one torch file with four tensors, which a subclass names."""

    names: ClassVar[tuple[str, str, str, str]]  # W_enc, b_enc, W_dec, b_dec: see `read`
    sample: ClassVar[str]  # what a published file is called

    @override
    def detect(self, folder: Path) -> bool:
        return bool(self.members(folder))

    @override
    def members(self, folder: Path) -> dict[str, Path]:
        return found(folder, self.names)

    @override
    def read(self, place: Path, hints: FormatHints) -> Read:
        return read(place, hints, self.names, self.name)

    @override
    def example(self, folder: Path) -> Path:
        return example(folder, self.sample, self.names)


def found(folder: Path, names: tuple[str, str, str, str]) -> dict[str, Path]:
    """Return the files that have these four tensors, by site where their names say the layer."""
    own = [
        p
        for p in torch_files(folder)
        if names_all(p, *names) and not re.fullmatch(r"ae(_\d+)?\.pt", p.name)
    ]
    return {(p.name if (site := _site(p)) is None else str(site)): p for p in own}


def read(
    place: Path, hints: FormatHints, names: tuple[str, str, str, str], format_name: str
) -> Read:
    """Read acts = relu(x @ W_enc.T + b_enc), y_hat = acts @ W_dec.T + b_dec.

    Args:
        place: the file.
        hints: what the user says.
        names: of W_enc ``[d_sae, d_in]``, b_enc, W_dec ``[d_in, d_sae]`` and b_dec.
        format_name: whose layout it is.

    Raises:
        FormatError: a tensor is missing, or there is one too many.
        ConfigError: the file's name is not a published one, and nobody says that it is of relu.
    """
    if _NAMED.fullmatch(place.name) is None and hints.architecture != "relu":
        raise ConfigError(
            f"{place} has tensors as `{format_name}` names them and does not say which latents are "
            f"on, nor is it named as Llama-3.1-8B-Instruct-SAE-l19.pth. If a rectifier decides, "
            f"say so: architecture=relu, on a command line --architecture relu."
        )
    weights = read_state(place)
    need(weights, {}, place, names=names)
    only(weights, set(names), place)
    W_enc, b_enc, W_dec, b_dec = (weights[n] for n in names)
    if W_enc.ndim != 2:
        raise ShapeError(f"`{names[0]}` in {place} must have two axes; got {list(W_enc.shape)}.")
    d_sae, d_in = W_enc.shape
    need(weights, {names[1]: (d_sae,), names[2]: (d_in, d_sae), names[3]: (d_in,)}, place)
    folded = Affine(W_enc.t(), W_dec.t(), b_enc, b_dec)
    site, named = _site(place), _NAMED.fullmatch(place.name)
    model = None
    if named is not None:
        owner = next((o for start, o in OWNERS.items() if named[1].startswith(start)), None)
        model = f"{owner}/{named[1]}" if owner else None
    card = make_card(
        format_name,
        hints,
        model=model,
        pair=None if site is None else Pair(read=(str(site),)),
        says={"subtracts_b_dec": False},
    )
    return Read(ReLU(d_in=d_in, d_out=d_in, d_sae=d_sae), folded.state(), card)


def example(folder: Path, file: str, names: tuple[str, str, str, str]) -> Path:
    """Lay a small SAE with tensors of these names in a file."""
    shapes: dict[str, tuple[int, ...]] = {
        names[0]: (D_SAE, D_IN),
        names[1]: (D_SAE,),
        names[2]: (D_IN, D_SAE),
        names[3]: (D_IN,),
    }
    write_state(folder / file, random_tensors(**shapes))
    return folder


def _site(path: Path) -> Site | None:
    named = _NAMED.fullmatch(path.name)
    return None if named is None else Site(int(named[2]), "resid_post")
