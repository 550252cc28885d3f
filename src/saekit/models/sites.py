"""Site: a place in a language model where activations are read and written."""

import re
from typing import NamedTuple

from saekit.core.errors import UnknownNameError, nearest

# In the order in which a forward pass of a usual block meets them.
POINTS = (
    "resid_pre",
    "z",
    "attn_out",
    "resid_mid",
    "mlp_normalized",
    "mlp_in",
    "mlp_acts",
    "mlp_out",
    "resid_post",
)
_OURS = re.compile(r"L(\d+)\.(\w+?)(?:\.h(\d+))?")
_TRANSFORMER_LENS = re.compile(r"blocks\.(\d+)\.(.+)")
# Names of TransformerLens that are not `hook_` and the point.
_HOOKS = {"attn.hook_z": "z", "mlp.hook_post": "mlp_acts", "ln2.hook_normalized": "mlp_normalized"}
_HOOKS |= {f"hook_{p}": p for p in POINTS if p not in ("mlp_in", *_HOOKS.values())}
# A name of TransformerLens that looks like `mlp_in` and is taken elsewhere.
_OTHER = {"hook_mlp_in": "it is the stream before the norm, L{0}.resid_mid"}


class Site(NamedTuple):
    """Layer and point; `layer` is None for the token embedding alone.

    Written ``L12.resid_post`` or ``embed``; where several models are read together, with the short
    name of one in front, ``base:L12.resid_post``. Points of a block: ``resid_pre`` (its input),
    ``resid_mid`` (after attention is added; absent where attention and MLP run in
    parallel), ``resid_post`` (its output), ``attn_out`` and ``mlp_out`` (what each adds to
    the stream), ``mlp_in`` (what the MLP reads, after its norm), ``mlp_normalized`` (the same
    before the norm's gain and bias), ``z`` (what the heads give the attention's output map, side by
    side; ``L12.z.h3`` is head 3 alone) and ``mlp_acts`` (what the MLP gives its output map). Layers
    and heads count from 0.
    """

    layer: int | None
    point: str
    model: str = ""  # short name of its model, where there are several
    head: int | None = None  # of `z`: one head's part

    def __str__(self) -> str:
        place = self.point if self.layer is None else f"L{self.layer}.{self.point}"
        place = place if self.head is None else f"{place}.h{self.head}"
        return f"{self.model}:{place}" if self.model else place


EMBED = Site(None, "embed")
UNKNOWN = Site(None, "unknown")  # of an SAE whose files do not say; no model has it


def parse_site(text: str) -> Site:
    """Return the site a name stands for; TransformerLens names are aliases.

    Raises:
        UnknownNameError: it is no site of any model.
    """
    model, sign, place = text.partition(":")
    if sign and model:
        return parse_site(place)._replace(model=model)
    if text in ("embed", "hook_embed"):
        return EMBED
    if text == str(UNKNOWN):
        return UNKNOWN
    lens = _TRANSFORMER_LENS.fullmatch(text)
    if lens and lens[2] in _OTHER:
        raise UnknownNameError(
            f"`{text}` is not L{lens[1]}.mlp_in, what the MLP reads after its norm: "
            f"{_OTHER[lens[2]].format(lens[1])}. Name the one you mean."
        )
    if lens and lens[2] in _HOOKS:
        return Site(int(lens[1]), _HOOKS[lens[2]])
    match = _OURS.fullmatch(text)
    if match and match[2] in POINTS and (match[3] is None or match[2] == "z"):
        return Site(int(match[1]), match[2], head=None if match[3] is None else int(match[3]))
    layer = next((m[1] for m in (match, lens, re.fullmatch(r"L?(\d+)", text)) if m), None)
    if layer and not (match or lens):
        raise UnknownNameError(
            f"`{text}` is not a site: it names a layer, and not what of it. Give the point too, as "
            f"L{layer}.resid_post; there are {', '.join(POINTS)}."
        )
    names = [f"L{layer or 0}.{p}" for p in POINTS] + ["embed"]
    raise UnknownNameError(
        f"`{text}` is not a site; sites read `embed` or `L<layer>.<point>` with a point of "
        f"{', '.join(POINTS)}.{nearest(text, names)}"
    )


def transformer_lens_name(site: Site) -> str:
    """Return the name TransformerLens gives the same activation.

    Raises:
        UnknownNameError: it has none.
    """
    if site.layer is None:
        return "hook_embed"
    hook = next((hook for hook, point in _HOOKS.items() if point == site.point), None)
    if hook is None or site.head is not None:
        why = (
            "its own are before the norm or before the norm's gain"
            if hook is None
            else "its own are of all heads"
        )
        raise UnknownNameError(
            f"TransformerLens has no name for {site}: {why}. Give the name to write (`saekit cache "
            f"export --column`)."
        )
    return f"blocks.{site.layer}.{hook}"
