"""Short names of SAEs that papers use: SAEBench's and Gemma Scope's of gemma-2-2b.

``{py|gem}_{4k|16k|65k}_{type}_s{0-5}``: py is pythia-160m-deduped at layer 8, gem is gemma-2-2b at
layer 12. ``gscope[_layer{N}]_{width}_l0_{l0}``: the layer is 12 where none is named.
"""

import re
from typing import NamedTuple

from saekit.core.errors import ResourceError, UnknownNameError, nearest
from saekit.hub.names.registry import entries_of, releases

_WIDTHS = {"4k": "2pow12", "16k": "2pow14", "65k": "2pow16"}
_SPARSITIES = tuple(f"s{i}" for i in range(6))
# By type: the folder's name in repositories of one spelling and of the other.
_TYPES = {
    "matbtopk": ("MatryoshkaBatchTopK", "matryoshka_batch_top_k"),
    "btopk": ("BatchTopK", "batch_top_k"),
    "topk": ("TopK", "top_k"),
    "relu": ("Standard", "standard_new"),
    "jumprelu": ("JumpRelu", "jump_relu"),
    "gated": ("GatedSAE", "gated"),
    "pan": ("PAnneal", "p_anneal"),
}
_SCOPE = re.compile(r"gscope(?:_layer(\d+))?_([^_]+)_l0_([^_]+)")
_SCOPE_REPO, _SCOPE_LAYER = "google/gemma-scope-2b-pt-res", 12
_SCOPE_ID = re.compile(r"layer_(\d+)/width_(\w+)/average_l0_(\d+)")
# Mean L0 of the SAEs that exist at layer 12, so that the usual names need no registry.
_L0: dict[str, tuple[int, ...]] = {
    "16k": (22, 41, 82, 176, 445),
    "32k": (12, 22, 40, 76, 155, 360),
    "65k": (21, 38, 72, 141, 297),
    "131k": (12, 20, 36, 67, 129, 264),
    "262k": (11, 21, 36, 67, 121, 243),
    "524k": (22, 29, 46, 65, 115, 227),
    "1m": (19, 26, 58, 73, 107, 207),
}
_ROUNDED = {"128k": "131k", "64k": "65k", "256k": "262k", "512k": "524k", "1024k": "1m"}


class Short(NamedTuple):
    """What a short name stands for."""

    repo: str
    path: str
    model: str
    site: str
    l0: float | None = None


def short(name: str) -> Short:
    """Return where the SAE of a short name is.

    Raises:
        UnknownNameError: a part of the name is none that exists; the nearest are named.
    """
    return _scope(name) if name.startswith("gscope") else _bench(name)


def _bench(name: str) -> Short:
    start, _, rest = name.partition("_")
    parts = rest.split("_")
    allowed = (tuple(_WIDTHS), tuple(_TYPES), _SPARSITIES)
    wrong = [
        f"{what} is one of {', '.join(known)}, not `{part}`"
        for part, known, what in zip(
            parts, allowed, ("the width", "the type", "the sparsity"), strict=False
        )
        if part not in known
    ]
    if len(parts) != len(allowed) or wrong:
        every = [f"{start}_{w}_{t}_{s}" for w in _WIDTHS for t in _TYPES for s in _SPARSITIES]
        why = "; ".join(wrong) or "it reads {py|gem}_WIDTH_TYPE_SPARSITY, as py_4k_topk_s0"
        raise UnknownNameError(f"`{name}` is no SAE of SAEBench: {why}.{nearest(name, every)}")
    width, kind, level = parts
    power, trainer = _WIDTHS[width], f"trainer_{level[1:]}"
    model, layer = ("pythia-160m-deduped", 8) if start == "py" else ("gemma-2-2b", 12)
    here = f"resid_post_layer_{layer}/{trainer}"
    if start == "gem" and width != "4k":
        repo = f"canrager/saebench_{model}_width-{power}_date-0107"
        path = f"{model}_{_TYPES[kind][1]}_width-{power}_date-0107/{here}"
    else:
        repo = f"adamkarvonen/saebench_{model}_width-{power}_date-0108"
        path = f"{_TYPES[kind][0]}_{model}__0108/{here}"
    return Short(repo, path, model, f"L{layer}.resid_post")


def _scope(name: str) -> Short:
    match = _SCOPE.fullmatch(name)
    if match is None:
        raise UnknownNameError(
            f"`{name}` is no SAE of Gemma Scope; names read gscope_WIDTH_l0_L0 or "
            f"gscope_layerN_WIDTH_l0_L0, as gscope_16k_l0_82."
        )
    layer, width, l0 = int(match[1] or _SCOPE_LAYER), match[2], match[3]
    known = _L0 if layer == _SCOPE_LAYER else _of_layer(layer, name)
    start = f"gscope_layer{layer}" if match[1] else "gscope"
    if width not in known:
        other = _ROUNDED.get(width)
        hint = f" Gemma Scope calls it {other}: widths are powers of 2." if other in known else ""
        raise UnknownNameError(
            f"`{name}`: layer {layer} has the widths {', '.join(known)}; got `{width}`.{hint}"
        )
    levels = known[width]
    if not l0.isdigit() or int(l0) not in levels:
        near = ""
        if l0.isdigit():
            closest = min(levels, key=lambda level: abs(level - int(l0)))
            near = f" The nearest is {start}_{width}_l0_{closest}."
        raise UnknownNameError(
            f"`{name}`: at layer {layer} and width {width} there are SAEs of L0 "
            f"{', '.join(map(str, levels))}; got {l0}.{near}"
        )
    path = f"layer_{layer}/width_{width}/average_l0_{l0}"
    return Short(_SCOPE_REPO, path, "gemma-2-2b", f"L{layer}.resid_post", float(l0))


def _of_layer(layer: int, name: str) -> dict[str, tuple[int, ...]]:
    """Return the L0 values of each width at a layer, from the registry."""
    release = _SCOPE_REPO.partition("/")[2]
    try:
        found = entries_of(release, releases()[release])
    except KeyError:
        raise UnknownNameError(
            f"`{name}`: the registry in use has no release `{release}`, so it is not known which "
            f"SAEs layer {layer} has. Name the folder: hf:{_SCOPE_REPO}/layer_{layer}/width_16k/..."
        ) from None
    except ResourceError as error:
        raise ResourceError(f"`{name}` is looked up in the registry. {error}") from error
    places = [m for one in found if (m := _SCOPE_ID.fullmatch(one.path)) is not None]
    levels: dict[str, list[int]] = {}
    for place in places:
        if int(place[1]) == layer:
            levels.setdefault(place[2], []).append(int(place[3]))
    if not levels:
        layers = sorted({int(place[1]) for place in places})
        raise UnknownNameError(
            f"`{name}`: {release} has layers {layers[0]} to {layers[-1]}; got {layer}."
        )
    return {width: tuple(sorted(values)) for width, values in levels.items()}
