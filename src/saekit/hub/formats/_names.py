"""Sites by the names other libraries give them.

A name that no site of saekit is exactly gives None: a card says "unknown" sooner than a site
one norm or one gain away from where the SAE belongs.
"""

import re

from saekit.core.errors import UnknownNameError
from saekit.models.sites import EMBED, POINTS, Site, parse_site

_HOOK = re.compile(r"blocks\.(\d{1,6})\.(.+)")
_PART = re.compile(
    r"(?:(?:model|language_model|transformer|gpt_neox)\.)*(?:layers|h)\.(\d{1,6})(?:\.(.+))?"
)
_EMBEDDINGS = ("embed_in", "embed_tokens", "wte", "transformer.wte", "model.embed_tokens")
_DICTIONARY = re.compile(
    r"(resid_out|resid_post|resid|attn_out|mlp_out)_layer_?(\d{1,6})(?:_checkpoints)?"
)
_ATTENTION = ("attn", "attention", "self_attn")
# Models whose blocks normalise what attention and MLP give before adding it to the stream, so
# that a module's output is not what it adds.
_NORM_AFTER = re.compile(r"gemma-?[23]|olmo-?2", re.IGNORECASE)
# Sides of modules, as `module.input` and `module.output`, that are one site in every model that
# has a module of that name.
_SIDES = {
    "self_attn.o_proj.input": "z",
    "attn.c_proj.input": "z",
    "attention.dense.input": "z",
    "mlp.down_proj.input": "mlp_acts",
    "mlp.c_proj.input": "mlp_acts",
    "mlp.dense_4h_to_h.input": "mlp_acts",
    "mlp.input": "mlp_in",
    "pre_feedforward_layernorm.output": "mlp_in",
    "post_feedforward_layernorm.output": "mlp_out",
    "input": "resid_pre",
    "output": "resid_post",
}


def from_transformer_lens(hook: str, model: str | None = None) -> Site | None:
    """Return the site of a TransformerLens hook, or of one that circuit-tracer adds to its MLPs.

    None for ``hook_mlp_in`` (before the norm), and for what is left of ``mlp.hook_out`` where the
    model is unknown or normalises it before it is added.
    """
    if (match := _HOOK.fullmatch(hook)) is None:
        return EMBED if hook == "hook_embed" else None
    if match[2] == "mlp.hook_in":
        return Site(int(match[1]), "mlp_in")
    if match[2] == "mlp.hook_out":
        adds = model is not None and not _NORM_AFTER.search(model)
        return Site(int(match[1]), "mlp_out") if adds else None
    try:
        return parse_site(hook)
    except UnknownNameError:
        return None


def from_module(name: str, model: str | None, *, reads: bool = False) -> Site | None:
    """Return the site of a module's output, or of its input.

    Args:
        name: of a module of a transformers model, as ``layers.5`` or ``h.3.mlp``; ``.input`` or
            ``.output`` behind it says which side is meant.
        model: the model's name, where known.
        reads: the input is meant, where the name does not say. A block's input is the output of
            the block before.
    """
    match = _PART.fullmatch(name)
    if match is None:
        return None
    layer, part = int(match[1]), match[2]
    if part in _SIDES:
        return Site(layer, _SIDES[part])
    part = None if part is None else part.removesuffix(".output")
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
    may be meant by it; an MLP is no residual stream, and queries are no site at all.

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
        points = {"hook_mlp_in": ("resid_mid", "mlp_in"), "mlp.hook_out": ("mlp_out",)}
        return tuple(Site(int(hook[1]), point) for point in points.get(hook[2], ()))
    if name in _EMBEDDINGS:
        return (EMBED,)
    if (match := _PART.fullmatch(name)) is None:
        return None
    if (sure := from_module(name, None, reads=reads)) is not None:
        return (sure,)
    layer, which = int(match[1]), match[2].removesuffix(".output")
    if which == "mlp":
        return (Site(layer, "mlp_out"),)
    return (Site(layer, "attn_out"),) if which in _ATTENTION and not reads else ()


def of_layer(layer: int) -> tuple[Site, ...]:
    """Return every site of a layer."""
    return tuple(Site(layer, point) for point in POINTS)


def from_dictionary(name: str, model: str | None) -> Site | None:
    """Return the site of a name as ``resid_out_layer3`` or ``resid_post_layer_3``.

    ``resid_out`` and ``resid_post`` are what a block puts out; a bare ``resid`` is too. Folders of
    checkpoints have ``_checkpoints`` behind it.
    """
    match = _DICTIONARY.fullmatch(name)
    if match is None:
        return None
    if match[1].startswith("resid"):
        return Site(int(match[2]), "resid_post")
    return None if _NORM_AFTER.search(model or "") else Site(int(match[2]), match[1])
