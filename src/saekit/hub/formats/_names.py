"""Sites by the names other libraries give them.

A name that no site of saekit is exactly gives None: a card says "unknown" sooner than a site
one norm or one gain away from where the SAE belongs.
"""

import re

from saekit.models.sites import EMBED, POINTS, Site

_TRANSFORMER_LENS = re.compile(
    r"blocks\.(\d+)\.hook_(resid_pre|resid_mid|resid_post|attn_out|mlp_out)"
)
_BLOCK = re.compile(r"(?:model\.)?(?:layers|h|transformer\.h|gpt_neox\.layers)\.(\d+)(?:\.(\w+))?")
_HOOK = re.compile(r"blocks\.(\d+)\.(.+)")
_PART = re.compile(r"(?:model\.)?(?:layers|h|transformer\.h|gpt_neox\.layers)\.(\d+)\.(.+)")
_EMBEDDINGS = ("embed_in", "embed_tokens", "wte", "transformer.wte", "model.embed_tokens")
_DICTIONARY = re.compile(r"(resid_out|resid_post|resid|attn_out|mlp_out)_layer_?(\d+)")
_ATTENTION = ("attn", "attention", "self_attn")
# Models whose blocks normalise what attention and MLP give before adding it to the stream, so
# that a module's output is not what it adds.
_NORM_AFTER = re.compile(r"gemma-?[23]|olmo-?2", re.IGNORECASE)


def from_transformer_lens(hook: str) -> Site | None:
    """Return the site of a TransformerLens hook.

    None for ``attn.hook_z`` (heads before the output map, no site), ``ln2.hook_normalized``
    (before the norm's gain, unless it was folded away) and ``hook_mlp_in`` (before the norm).
    """
    if hook == "hook_embed":
        return EMBED
    match = _TRANSFORMER_LENS.fullmatch(hook)
    return Site(int(match[1]), match[2]) if match else None


def from_module(name: str, model: str | None, *, reads: bool = False) -> Site | None:
    """Return the site of a module's output, or of its input.

    Args:
        name: of a module of a transformers model, as ``layers.5`` or ``h.3.mlp``.
        model: the model's name, where known.
        reads: the input is meant. A block's input is the output of the block before.
    """
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    layer, part = int(match[1]), match[2]
    if part is None:
        return Site(layer, "resid_pre" if reads else "resid_post")
    if part == "mlp" and reads:
        return Site(layer, "mlp_in")
    if reads or model is None or _NORM_AFTER.search(model):
        return None
    if part == "mlp":
        return Site(layer, "mlp_out")
    return Site(layer, "attn_out") if part in _ATTENTION else None


def near(name: str, *, reads: bool = False) -> tuple[Site, ...] | None:
    """Return the sites that a name leaves possible, where the user says which it is.

    A hook or module one norm or one gain away from a site is of the same kind as that site and
    may be meant by it; an MLP is no residual stream, and heads before the output map are no
    site at all.

    Args:
        name: of a TransformerLens hook, or of a module of a transformers model.
        reads: the module's input is meant; a hook is one place.

    Returns:
        The sites; none where the name is of a place that no site is near; None where the name
        is of neither kind.
    """
    if (exact := from_transformer_lens(name)) is not None:
        return (exact,)
    if (hook := _HOOK.fullmatch(name)) is not None:
        layer = int(hook[1])
        points = {"hook_mlp_in": ("resid_mid", "mlp_in"), "ln2.hook_normalized": ("mlp_in",)}
        return tuple(Site(layer, point) for point in points.get(hook[2], ()))
    if name in _EMBEDDINGS:
        return (EMBED,)
    if (block := _BLOCK.fullmatch(name)) is not None and block[2] is None:
        return (Site(int(block[1]), "resid_pre" if reads else "resid_post"),)
    if (part := _PART.fullmatch(name)) is not None:
        layer, which = int(part[1]), part[2]
        if which == "mlp":
            return (Site(layer, "mlp_in" if reads else "mlp_out"),)
        return (Site(layer, "attn_out"),) if which in _ATTENTION and not reads else ()
    return None


def of_layer(layer: int) -> tuple[Site, ...]:
    """Return every site of a layer."""
    return tuple(Site(layer, point) for point in POINTS)


def from_dictionary(name: str, model: str | None) -> Site | None:
    """Return the site of a name as ``resid_out_layer3`` or ``resid_post_layer_3``.

    ``resid_out`` and ``resid_post`` are what a block puts out; a bare ``resid`` is too.
    """
    match = _DICTIONARY.fullmatch(name)
    if match is None:
        return None
    if match[1].startswith("resid"):
        return Site(int(match[2]), "resid_post")
    return None if _NORM_AFTER.search(model or "") else Site(int(match[2]), match[1])
