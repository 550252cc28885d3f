"""What SAELens' cfg.json says of where an SAE belongs."""

from typing import Any

from saekit.activations.pairs import Pair
from saekit.hub.card import Card
from saekit.hub.formats import _names
from saekit.hub.formats.base import Told, make_card
from saekit.models.sites import UNKNOWN

TRANSCODERS = {
    "transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"
}  # fmt: skip
BATCH = {"batchtopk", "matryoshka_batchtopk"}


def read(raw: dict[str, Any], told: Told) -> Card:
    """Return the card: model, sites, and what is worth knowing."""
    metadata, notes = raw.get("metadata") or {}, []
    hooks = [metadata.get("hook_name"), metadata.get("hook_name_out")]
    sites = [None if h is None else _names.from_transformer_lens(str(h)) for h in hooks]
    transcodes = raw["architecture"] in TRANSCODERS
    read, write = (str(s or UNKNOWN) for s in sites)
    pair = Pair(read=(read,), write=(write,) if transcodes else ())
    if hooks[0] and UNKNOWN in pair.sites:
        notes.append(f"saekit has no site that is exactly {' and '.join(h for h in hooks if h)}")
    kwargs = metadata.get("model_from_pretrained_kwargs") or {}
    if any(kwargs.get(k) for k in ("fold_ln", "center_writing_weights")):
        notes.append(
            f"trained on a TransformerLens model with {kwargs}: its activations are not those of "
            f"the model as published"
        )
    if raw.get("reshape_activations", "none") != "none":
        notes.append("takes heads flattened: [..., heads * d_head]")
    if raw["normalize_activations"] in ("layer_norm", "constant_norm_rescale"):
        notes.append("codes are SAELens' times the size of the token, so in act units")
    if raw["architecture"] in BATCH:
        notes.append("in use, latents are on above the threshold of training")
    says = {
        "n_ctx": metadata.get("context_size"),
        "bos": metadata.get("prepend_bos"),
        "corpus": metadata.get("dataset_path"),
        "hook": hooks[0], "hook_out": hooks[1],
        "architecture": raw["architecture"],
        "normalize_activations": raw["normalize_activations"],
        "subtracts_b_dec": bool(raw.get("apply_b_dec_to_input", True)) and not transcodes,
    }  # fmt: skip
    model = metadata.get("model_name")
    return make_card(
        "sae_lens", told, model=model, pair=pair, says=says, transcodes=transcodes,
        notes=tuple(notes),
    )  # fmt: skip
