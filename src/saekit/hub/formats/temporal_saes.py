"""Temporal SAEs of Lubana and others: conf.yaml and latest_ckpt.safetensors."""

import math
import re
from pathlib import Path
from typing import Any, ClassVar, final

from torch import Tensor
from typing_extensions import override

from saekit.activations.pairs import Pair
from saekit.core.errors import FormatError
from saekit.core.files import read_settings, write_tensors, write_text
from saekit.hub.formats import _temporal
from saekit.hub.formats._examples import D_IN, random_tensors
from saekit.hub.formats._reading import read_weights
from saekit.hub.formats.base import Format, FormatHints, Read, make_card, registry, say
from saekit.models.sites import Site

CONFIG, WEIGHTS = "conf.yaml", "latest_ckpt.safetensors"
NAMES = {"D": "W_dec", "b": "b_dec", "E": "W_enc"}
MODELS = {"gemma-2-2B": "google/gemma-2-2b", "llama-3.1-8B": "meta-llama/Llama-3.1-8B"}


@final
@registry.register
class TemporalSAEs(Format):
    """canrager/temporalSAEs: what context predicts of a token, and a sparse code of the rest.

    The formula is that of `temporal`, on activations times scaling_factor. Codes are the published
    ones divided by it, so in act units; latent d_sae / 2 + i is row i as it is predicted.

    Source:
        Lubana et al. 2025, arXiv:2511.01836; sae-lens 6.54.12, `temporal_sae_huggingface_loader`.
    """

    name: ClassVar[str] = "temporal_saes"
    files: ClassVar[str] = f"{CONFIG} and {WEIGHTS}"

    @override
    def detect(self, folder: Path) -> bool:
        return (folder / CONFIG).exists() and (folder / WEIGHTS).exists()

    @override
    def read(self, place: Path, hints: FormatHints) -> Read:
        config, where = place / CONFIG, place / WEIGHTS
        raw = read_settings(config)
        groups = [raw.get(name) if isinstance(raw, dict) else None for name in ("llm", "sae")]
        llm, settings = (group if isinstance(group, dict) else {} for group in groups)
        d_in = say(llm, "dimin", int, config)
        factor, scale = (_number(settings, key, config) for key in ("exp_factor", "scaling_factor"))
        said = settings | {"d_in": d_in, "d_sae": int(d_in * factor)}
        weights = {NAMES.get(n, n): t for n, t in read_weights(where).items()}
        cfg, state = _temporal.read(said, weights, scale, config, where)
        path = place.resolve().as_posix()
        layer = re.search(r"layer_(\d+)", path)
        model = next((m for name, m in MODELS.items() if f"/{name}/" in path), None)
        pair = None if layer is None else Pair(read=(str(Site(int(layer[1]), "resid_post")),))
        notes = ("codes are the published ones divided by scaling_factor, so in act units",)
        card = make_card(
            self.name,
            hints,
            model=model,
            pair=pair,
            notes=notes,
            says={"scaling_factor": scale, "subtracts_b_dec": True},
        )
        return Read(cfg, state, card, scale)

    @override
    def example(self, folder: Path) -> Path:
        place = folder / "gemma-2-2B" / "layer_12" / "temporal"
        write_tensors(place / WEIGHTS, _example_tensors())
        write_text(
            place / CONFIG,
            f"data:\n  dtype: float32\nllm:\n  dimin: {D_IN}\nsae:\n  exp_factor: 4\n  n_heads: 2\n"
            "  n_attn_layers: 1\n  bottleneck_factor: 3\n  tied_weights: true\n"
            "  scaling_factor: 0.25\n  kval_topk: 3\n  sae_diff_type: topk\n",
        )
        return place


def _example_tensors() -> dict[str, Tensor]:
    d_dict = 4 * D_IN
    shapes: dict[str, tuple[int, ...]] = {"D": (d_dict, D_IN), "b": (D_IN,)}
    for name in _temporal.MAPS:
        width = d_dict // 3 if name in ("q_target", "k_ctx") else d_dict
        shapes[f"attn_layers.0.{name}.weight"] = (width, d_dict)
        shapes[f"attn_layers.0.{name}.bias"] = (width,)
    return random_tensors(**shapes)


def _number(raw: dict[str, Any], key: str, config: Path) -> float:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FormatError(f"{config} must say `{key}`, a number; got {value!r:.80}.")
    if value <= 0:
        raise FormatError(f"{config} must say `{key}` above 0; got {value}.")
    return float(value)
