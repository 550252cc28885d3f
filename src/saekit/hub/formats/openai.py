"""OpenAI's sparse_autoencoder: one torch file an SAE, with the activation's name in it."""

import re
from pathlib import Path
from typing import Any, ClassVar, final

from torch import Tensor
from typing_extensions import override

from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError, FormatError, ShapeError
from saekit.core.torch_files import read_torch
from saekit.core.torch_writing import write_state
from saekit.hub.card import Card
from saekit.hub.formats._examples import D_IN, D_SAE, random_tensors
from saekit.hub.formats._fold import Affine
from saekit.hub.formats._parts import standardised
from saekit.hub.formats._torch_heads import names_all, torch_files
from saekit.hub.formats.base import Format, FormatHints, Read, make_card, need, only, registry
from saekit.models.sites import Site
from saekit.saes.base import SAEConfig
from saekit.saes.relu import ReLU
from saekit.saes.topk import TopK

NAMES = {"pre_bias", "encoder.weight", "latent_bias", "decoder.weight"}
COUNTERS = {"stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"}
# What OpenAI calls a place of GPT-2 small, with the version behind it.
_POINTS = {
    "resid_post_mlp": "resid_post",
    "resid_post_attn": "resid_mid",
    "resid_delta_mlp": "mlp_out",
    "resid_delta_attn": "attn_out",
    "mlp_post_act": "mlp_acts",
}
_PLACE = re.compile(rf"gpt2-small/({'|'.join(_POINTS)})(?:_v\w+)?/autoencoders/(\d+)\.pt$")


@final
@registry.register
class OpenAI(Format):
    """OpenAI's SAEs of GPT-2 small: ReLU (v1, v4), and TopK on standardised tokens (v5).

    z = (x - mean) / (std + 1e-5) of each token where the activation is TopK, else z = x;
    acts = activation((z - pre_bias) @ W_enc.T + latent_bias);
    y_hat = acts @ W_dec.T + pre_bias, times std plus mean. Codes of a TopK one are the published
    ones times the token's std.

    Source:
        openai/sparse_autoencoder: model.py, paths.py (Gao et al. 2024, arXiv:2406.04093).
    """

    name: ClassVar[str] = "openai"
    files: ClassVar[str] = "N.pt with pre_bias and latent_bias"

    @override
    def detect(self, folder: Path) -> bool:
        return bool(self.members(folder))

    @override
    def members(self, folder: Path) -> dict[str, Path]:
        own = [p for p in torch_files(folder) if names_all(p, "pre_bias", "latent_bias")]
        return {(p.name if (site := _site(p)) is None else str(site)): p for p in own}

    @override
    def read(self, place: Path, hints: FormatHints) -> Read:
        raw = read_torch(place)
        if not isinstance(raw, dict):
            raise FormatError(f"{place} must hold tensors by name; it is {type(raw).__name__}.")
        weights = {n: t for n, t in raw.items() if isinstance(t, Tensor) and n not in COUNTERS}
        if "decoder.linear.weight" in weights:  # tied: the encoder, kept once more
            weights.pop("decoder.linear.weight")
            need(weights, {}, place, names=("encoder.weight",))
            weights["decoder.weight"] = weights["encoder.weight"].t()
        need(weights, {}, place, names=tuple(sorted(NAMES)))
        only(weights, NAMES, place)
        if weights["encoder.weight"].ndim != 2:
            raise ShapeError(
                f"`encoder.weight` in {place} must have two axes; got "
                f"{list(weights['encoder.weight'].shape)}."
            )
        d_sae, d_in = weights["encoder.weight"].shape
        shapes = {"decoder.weight": (d_in, d_sae), "latent_bias": (d_sae,), "pre_bias": (d_in,)}
        need(weights, shapes, place)
        bias = weights["pre_bias"]
        folded = Affine(
            weights["encoder.weight"].t(),
            weights["decoder.weight"].t(),
            weights["latent_bias"],
            bias,
        )
        folded.subtract(bias)
        sizes: dict[str, Any] = {"d_in": d_in, "d_out": d_in, "d_sae": d_sae}
        try:
            cfg, state, notes = _variant(raw, folded, sizes, place)
        except ConfigError as error:
            raise FormatError(f"{place} has impossible settings: {error}") from error
        return Read(cfg, state, _card(place, hints, notes))

    @override
    def example(self, folder: Path) -> Path:
        place = folder / "gpt2-small" / "resid_delta_mlp_v1" / "autoencoders"
        shapes = {"encoder.weight": (D_SAE, D_IN), "decoder.weight": (D_IN, D_SAE)}
        shapes |= {"latent_bias": (D_SAE,), "pre_bias": (D_IN,)}
        write_state(place / "8.pt", random_tensors(**shapes))
        return place


def _variant(
    raw: dict[str, Any], folded: Affine, sizes: dict[str, Any], place: Path
) -> tuple[SAEConfig, dict[str, Tensor], tuple[str, ...]]:
    """Return the SAE of the activation that the file names; ReLU where it names none, as theirs."""
    function, settings = raw.get("activation", "ReLU"), raw.get("activation_state_dict") or {}
    if function == "ReLU":
        return ReLU(**sizes), folded.state(), ()
    k = settings.get("k") if isinstance(settings, dict) else None
    if function != "TopK" or settings.get("postact_fn", "ReLU") != "ReLU":
        raise FormatError(
            f"{place} of OpenAI's sparse_autoencoder has the activation {function!r:.40} with "
            f"{settings!r:.80}; saekit reads ReLU, and TopK of ReLU."
        )
    if isinstance(k, Tensor):
        k = k.item()
    if type(k) is not int:
        raise FormatError(f"{place} must say how many latents are kept, `k`; got {k!r:.40}.")
    cfg, state = standardised(TopK(k=k, decoder="free", **sizes), folded.state())
    return cfg, state, ("codes are the published ones times the token's std, so in act units",)


def _site(path: Path) -> Site | None:
    found = _PLACE.search(path.absolute().as_posix())  # unresolved: the hub's cache has links
    return None if found is None else Site(int(found[2]), _POINTS[found[1]])


def _card(place: Path, hints: FormatHints, notes: tuple[str, ...]) -> Card:
    site = _site(place)
    return make_card(
        "openai",
        hints,
        model=None if site is None else "gpt2-small",
        pair=None if site is None else Pair(read=(str(site),)),
        says={"subtracts_b_dec": True},
        notes=notes,
    )
