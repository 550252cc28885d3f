"""SAEs of attention's heads by Kissane and others: X.pt and X_cfg.json, several in a folder."""

from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.activations.pairs import Pair
from saekit.core.errors import FormatError
from saekit.core.files import write_json
from saekit.core.torch_files import read_state
from saekit.core.torch_writing import write_state
from saekit.hub.formats import _names
from saekit.hub.formats._examples import D_IN, affine_tensors
from saekit.hub.formats._fold import Affine
from saekit.hub.formats._torch_heads import torch_files
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
from saekit.saes.relu import ReLU


@final
@registry.register
class AttnSAEs(Format):
    """Kissane et al.: ReLU autoencoders of all heads of a layer of GPT-2 small, side by side.

    acts = relu((x - b_dec) @ W_enc + b_enc);  y_hat = acts @ W_dec + b_dec. The layout is that of
    Neel Nanda's 1L-Sparse-Autoencoder.

    Source:
        ckkissane/attn-saes-gpt2-small-all-layers (2024, arXiv:2406.17759); sae-lens 6.54.12,
        `connor_rob_hook_z_huggingface_loader`.
    """

    name: ClassVar[str] = "attn_saes"
    files: ClassVar[str] = "X.pt and X_cfg.json with the key act_name"

    @override
    def detect(self, folder: Path) -> bool:
        return bool(self.members(folder))

    @override
    def members(self, folder: Path) -> dict[str, Path]:
        found = {}
        for path in torch_files(folder):
            if not _config(path).is_file():
                continue
            try:
                hook = say_object(_config(path)).get("act_name")
            except FormatError:  # the reader says what is wrong
                hook = None
            site = _names.from_transformer_lens(hook) if isinstance(hook, str) else None
            found[path.name if site is None else str(site)] = path
        return found

    @override
    def read(self, place: Path, hints: FormatHints) -> Read:
        config = _config(place)
        raw, weights = say_object(config), read_state(place)
        d_in, d_sae = say(raw, "act_size", int, config), say(raw, "dict_size", int, config)
        hook = say(raw, "act_name", str, config)
        shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,)}
        shapes["b_dec"] = (d_in,)
        need(weights, shapes, place)
        only(weights, set(shapes), place)
        folded = Affine(*(weights[n] for n in ("W_enc", "W_dec", "b_enc", "b_dec")))
        folded.subtract(weights["b_dec"])
        model = "gpt2-small" if place.name.startswith("gpt2-small") else None
        site = _names.from_transformer_lens(hook, model)
        card = make_card(
            self.name,
            hints,
            model=model,
            pair=None if site is None else Pair(read=(str(site),)),
            says=_says(raw),
            names=Names(hook, _names.near(hook)),
        )
        return Read(ReLU(d_in=d_in, d_out=d_in, d_sae=d_sae), folded.state(), card)

    @override
    def example(self, folder: Path) -> Path:
        weights = affine_tensors()
        name = "gpt2-small_L5_Hcat_z_v9"
        says = {"act_name": "blocks.5.attn.hook_z", "act_size": D_IN, "seq_len": 128}
        write_state(folder / f"{name}.pt", weights)
        write_json(folder / f"{name}_cfg.json", says | {"dict_size": len(weights["b_enc"])})
        return folder


def _config(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix(path.suffix)}_cfg.json")


def _says(raw: dict[str, Any]) -> dict[str, Any]:
    n_ctx = raw.get("seq_len")
    return {
        "n_ctx": n_ctx if type(n_ctx) is int and n_ctx > 0 else None,
        "bos": True,
        "hook": raw["act_name"],
        "subtracts_b_dec": True,
    }
