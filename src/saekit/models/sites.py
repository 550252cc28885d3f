"""Site: a place in a language model where activations are read and written."""

import re
from typing import NamedTuple

from saekit.core.errors import UnknownNameError, nearest

POINTS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "mlp_out")
_OURS = re.compile(r"L(\d+)\.(\w+)")
_TRANSFORMER_LENS = re.compile(r"blocks\.(\d+)\.hook_(\w+)")
# Names of TransformerLens that look like `mlp_in` and are taken elsewhere: why, and what is meant.
_OTHER = {
    "hook_mlp_in": "it is the stream before the norm, L{0}.resid_mid",
    "ln2.hook_normalized": "it is before the norm's gain unless weights were folded",
}


class Site(NamedTuple):
    """Layer and point; `layer` is None for the token embedding alone.

    Written ``L12.resid_post`` or ``embed``; where several models are read together, with the short
    name of one in front, ``base:L12.resid_post``. Points of a block: ``resid_pre`` (its input),
    ``resid_mid`` (after attention is added; absent where attention and MLP run in
    parallel), ``resid_post`` (its output), ``attn_out`` and ``mlp_out`` (what each adds to
    the stream), ``mlp_in`` (what the MLP reads, after its norm). Layers count from 0.
    """

    layer: int | None
    point: str
    model: str = ""  # short name of its model, where there are several

    def __str__(self) -> str:
        place = self.point if self.layer is None else f"L{self.layer}.{self.point}"
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
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", text)
    if match and match[2] in _OTHER:
        raise UnknownNameError(
            f"`{text}` is not L{match[1]}.mlp_in, what the MLP reads after its norm: "
            f"{_OTHER[match[2]].format(match[1])}. Name the one you mean."
        )
    match = _OURS.fullmatch(text) or _TRANSFORMER_LENS.fullmatch(text)
    if match and match[2] in POINTS:
        return Site(int(match[1]), match[2])
    names = [f"L{match[1] if match else 0}.{p}" for p in POINTS] + ["embed"]
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
    if site.point == "mlp_in":
        raise UnknownNameError(
            f"TransformerLens has no name for {site}: its own are before the norm or before the "
            f"norm's gain. Give the name to write (`saekit cache export --column`)."
        )
    return f"blocks.{site.layer}.hook_{site.point}"
