"""bartbussmann/BatchTopK, which FaithfulSAE trains with: sae.pt and config.json."""

from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import write_json
from saekit.core.torch_files import read_state
from saekit.core.torch_writing import write_state
from saekit.hub.card import Card
from saekit.hub.formats import _names
from saekit.hub.formats._examples import D_IN, D_SAE, K, affine_tensors
from saekit.hub.formats._fold import Affine
from saekit.hub.formats._parts import jumping, standardised
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
from saekit.saes.base import SAEConfig
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.relu import ReLU
from saekit.saes.topk import TopK

CONFIG, WEIGHTS, LOG = "config.json", "sae.pt", "jumprelu.log_threshold"
KINDS = ("vanilla", "topk", "batchtopk", "jumprelu")


@final
@registry.register
class BussmannBatchTopK(Format):
    """BatchTopK's own library, and FaithfulSAE: vanilla, topk, batchtopk and jumprelu.

    pre = (z - b_dec) @ W_enc, and + b_enc for vanilla and jumprelu; y_hat = acts @ W_dec + b_dec.
    With `input_unit_norm` z = (x - mean) / (std + 1e-5) of each token and the prediction is times
    std plus mean; else z = x.

    Source:
        bartbussmann/BatchTopK: sae.py, logs.py (2024, arXiv:2412.06410); seonglae/FaithfulSAE
        (2025, arXiv:2506.17673).
    """

    name: ClassVar[str] = "batch_topk"
    files: ClassVar[str] = f"{WEIGHTS} and {CONFIG}"

    @override
    def detect(self, folder: Path) -> bool:
        return (folder / WEIGHTS).exists() and (folder / CONFIG).exists()

    @override
    def read(self, place: Path, hints: FormatHints) -> Read:
        config, where = place / CONFIG, place / WEIGHTS
        raw, weights = say_object(config), read_state(where)
        kind = _check(raw, config)
        d_in, d_sae = say(raw, "act_size", int, config), say(raw, "dict_size", int, config)
        shapes: dict[str, tuple[int, ...]] = {
            "W_enc": (d_in, d_sae),
            "W_dec": (d_sae, d_in),
            "b_enc": (d_sae,),
            "b_dec": (d_in,),
        }
        shapes |= {LOG: (d_sae,)} if kind == "jumprelu" else {}
        shapes |= {"threshold": ()} if "threshold" in weights and kind == "batchtopk" else {}
        need(weights, shapes, where)
        only(weights, set(shapes), where)
        b_enc = weights["b_enc"]
        if kind in ("topk", "batchtopk") and not raw.get("use_encoder_bias", False):
            if "use_encoder_bias" not in raw and b_enc.any():
                raise FormatError(
                    f"`b_enc` in {where} is not 0. BatchTopK's `{kind}` does not use it, and other "
                    f"libraries of the same layout do: what wrote this file?"
                )
            b_enc = torch.zeros(d_sae)
        folded = Affine(weights["W_enc"], weights["W_dec"], b_enc, weights["b_dec"])
        folded.subtract(weights["b_dec"])
        sizes: dict[str, Any] = {"d_in": d_in, "d_out": d_in, "d_sae": d_sae}
        try:
            cfg, state = _variant(kind, raw, folded, weights, sizes, place)
        except ConfigError as error:
            raise FormatError(f"{config} has impossible settings: {error}") from error
        if raw["input_unit_norm"]:
            cfg, state = standardised(cfg, state)
        return Read(cfg, state, _card(raw, config, hints))

    @override
    def example(self, folder: Path) -> Path:
        weights = affine_tensors()
        weights["b_enc"] = torch.zeros(D_SAE)
        says = {
            "act_size": D_IN,
            "dict_size": D_SAE,
            "top_k": K,
            "sae_type": "topk",
            "layer": 8,
            "input_unit_norm": True,
            "hook_point": "blocks.8.hook_resid_pre",
            "seq_len": 128,
            "model_name": "gpt2-small",
            "dataset_path": "Skylion007/openwebtext",
        }
        write_state(folder / WEIGHTS, weights)
        write_json(folder / CONFIG, says)
        return folder


def _check(raw: dict[str, Any], config: Path) -> str:
    """Return the kind of SAE, after refusing what saekit cannot run exactly.

    Raises:
        FormatError: it is another kind, or leaves out what decides a number.
    """
    kind = say(raw, "sae_type", str, config)
    if kind not in KINDS:
        raise FormatError(
            f"{config} of BatchTopK is of the kind `{kind}`; saekit reads {', '.join(KINDS)}."
        )
    say(raw, "input_unit_norm", bool, config)
    for key, plain in (("activation", "relu"), ("tied_weights", False)):
        if raw.get(key, plain) != plain:
            raise FormatError(f"{config} has {key} {raw[key]!r:.40}; saekit reads {plain!r}.")
    if not isinstance(raw.get("use_encoder_bias", False), bool):
        raise FormatError(f"{config}: `use_encoder_bias` must be true or false.")
    return kind


def _variant(
    kind: str,
    raw: dict[str, Any],
    folded: Affine,
    weights: dict[str, Tensor],
    sizes: dict[str, Any],
    place: Path,
) -> tuple[SAEConfig, dict[str, Tensor]]:
    if kind == "vanilla":
        return ReLU(**sizes), folded.state()
    if kind == "jumprelu":
        return jumping(folded, weights[LOG].double().exp())
    k = say(raw, "top_k", int, place / CONFIG)
    if kind == "topk":
        return TopK(k=k, decoder="free", **sizes), folded.state()
    if "threshold" not in weights:
        raise FormatError(
            f"{place} is of a BatchTopK whose files keep no threshold: which latents are on "
            f"depends on the batch that is read. A later version of its library keeps one."
        )
    cut = max(float(weights["threshold"]), 0.0)
    state = folded.state() | {"cutoff_sum": torch.tensor(cut, dtype=torch.float64)}
    state["cutoff_weight"] = torch.ones((), dtype=torch.float64)
    return BatchTopK(k=float(k), decoder="free", **sizes), state


def _card(raw: dict[str, Any], config: Path, hints: FormatHints) -> Card:
    hook = say(raw, "hook_point", str, config)
    model = raw.get("model_name") if isinstance(raw.get("model_name"), str) else None
    site = _names.from_transformer_lens(hook, model)
    notes = () if site is not None else (f"saekit has no site that is exactly {hook}",)
    if raw["input_unit_norm"]:
        notes += ("codes are the published ones times the token's std, so in act units",)
    n_ctx, corpus = raw.get("seq_len"), raw.get("dataset_path")
    says = {
        "n_ctx": n_ctx if type(n_ctx) is int and n_ctx > 0 else None,
        "corpus": corpus if isinstance(corpus, str) else None,
        "hook": hook,
        "sae_type": raw["sae_type"],
        "subtracts_b_dec": True,
    }
    return make_card(
        "batch_topk",
        hints,
        model=model,
        pair=None if site is None else Pair(read=(str(site),)),
        says=says,
        notes=notes,
        names=Names(hook, _names.near(hook)),
    )
