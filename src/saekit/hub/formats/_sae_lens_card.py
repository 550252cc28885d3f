"""What SAELens' cfg.json says of where an SAE belongs."""

from typing import Any

from saekit.activations.pairs import Pair
from saekit.hub.card import Card
from saekit.hub.formats import _names
from saekit.hub.formats.base import FormatHints, Names, make_card
from saekit.models.sites import UNKNOWN, Site

TRANSCODERS = {"transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"}
BATCH = {"batchtopk", "matryoshka_batchtopk"}


def read(raw: dict[str, Any], hints: FormatHints) -> Card:
    """Return the card: model, sites, and what is worth knowing."""
    metadata, notes = raw.get("metadata") or {}, []
    model = metadata.get("model_name")
    model = model if isinstance(model, str) else None
    if hints.overrides:
        notes.append(f"settings of the files were overridden: {sorted(hints.overrides)}")
    transcodes = raw["architecture"] in TRANSCODERS
    ends = ("", "_out") if transcodes else ("",)
    hooks = [metadata.get(f"hook_name{end}") for end in ends]
    sites = [site_of(metadata, end) for end in ends]
    pair = Pair(
        read=(str(sites[0] or UNKNOWN),), write=(str(sites[1] or UNKNOWN),) if transcodes else ()
    )
    lost = [str(h) for h, site in zip(hooks, sites, strict=True) if h and site is None]
    if lost:
        notes.append(f"saekit has no site that is exactly {' and '.join(lost)}")
    if metadata.get("hook_head_index") is not None and (sites[0] is None or sites[0].head is None):
        notes.append(f"of head {metadata['hook_head_index']} of its hook alone")
    if metadata.get("seqpos_slice") not in (None, [None], [None, None], []):
        notes.append(f"trained on the positions {metadata['seqpos_slice']} of each row alone")
    kwargs = metadata.get("model_from_pretrained_kwargs") or {}
    if any(kwargs.get(k) for k in ("fold_ln", "center_writing_weights")):
        notes.append(
            f"trained on a TransformerLens model with {kwargs}: its activations are not those of "
            f"the model as published"
        )
    if raw.get("reshape_activations", "none") != "none" and sites[0] is None:
        notes.append("takes heads flattened: [..., heads * d_head]")
    if raw["normalize_activations"] in ("layer_norm", "constant_norm_rescale"):
        notes.append("codes are SAELens' times the size of the token, so in act units")
    if raw["architecture"] in BATCH:
        notes.append("in use, latents are on above the threshold of training")
    says = {
        "n_ctx": metadata.get("context_size"),
        "bos": metadata.get("prepend_bos"),
        "corpus": metadata.get("dataset_path"),
        "metadata": metadata,
        "reshape_activations": raw.get("reshape_activations", "none"),
        "architecture": raw["architecture"],
        "normalize_activations": raw["normalize_activations"],
        "subtracts_b_dec": bool(raw.get("apply_b_dec_to_input", True)) and not transcodes,
    }
    near = [_near(h, site) for h, site in zip(hooks, sites, strict=True)]
    names = Names(" and ".join(str(h) for h in hooks if h), *near) if any(hooks) else None
    return make_card(
        "sae_lens",
        hints,
        model=model,
        pair=pair,
        says=says,
        transcodes=transcodes,
        notes=tuple(notes),
        names=names,
    )


def site_of(metadata: dict[str, Any], end: str) -> Site | None:
    """Return the site read (`end` "") or predicted ("_out"), where the names are exactly one.

    A hook has TransformerLens' name or a module's of a transformers model; ``hf_hook_name`` says
    the module where the hook's own name leaves the site open.
    """
    hook, model = metadata.get(f"hook_name{end}"), metadata.get("model_name")
    model = model if isinstance(model, str) else None
    site = None
    if isinstance(hook, str):
        site = _names.from_transformer_lens(hook, model) or _names.from_module(hook, model)
    if site is None and isinstance(module := metadata.get(f"hf_hook_name{end}"), str):
        site = _names.from_module(module, model)
    head = metadata.get(f"hook_head_index{end}")
    if site is None or head is None:
        return site
    return site._replace(head=head) if site.point == "z" and type(head) is int else None


def _near(hook: Any, site: Site | None) -> tuple[Site, ...] | None:
    if hook is None:
        return None
    return _names.near(str(hook)) if site is None else (site,)
