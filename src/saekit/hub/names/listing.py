"""A list of published SAEs: the registry and the user's catalogue, filtered."""

import math
import re
from pathlib import Path

from saekit.core.errors import ConfigError
from saekit.core.result import Table
from saekit.hub.names.registry import Entry, entries_of, releases
from saekit.models.short_names import full_name
from saekit.models.sites import parse_site

# Where names of entries say layer and place. Those of a layer alone are of sets whose release says
# the place.
_HOOK = re.compile(r"blocks\.(\d+)\.(?:attn\.|ln2\.|mlp\.)?hook_(\w+?)(?:_\d+)?(?:__.*)?$")
_LAYER = re.compile(r"(?:^|[/_-])(?:layer_?|L|l)(\d+)(?=[RAMram_./-]|$)|^(\d+)-")
_PLACES = (
    (r"transcoder", "transcoder"),
    (r"lxa", "attn_out"),
    (r"[-_]att(?:n_out)?(?![a-z])", "z"),
    (r"mlp|lxm", "mlp_out"),
    (r"res(?:id)?|lxr|L\d+R|topk|scope", "resid_post"),
)
_WIDTHS = (
    r"2pow(?P<power>\d+)",
    r"(?<![a-z0-9.])w?(?P<number>1|2|4|8|16|32|64|65|80|128|131|262|524)(?P<unit>k|m)(?![a-z0-9])",
    r"_(?:ds|fs)?(?P<number>[1-9]\d{2,5})(?=[_:-]|$)",
)
_UNITS = {"k": 2**10, "m": 2**20, None: 1}


def published(
    query: str = "",
    *,
    model: str | None = None,
    site: str | None = None,
    width: str | int | None = None,
    l0: str | float | None = None,
    catalogue: Path | str | None = None,
) -> Table:
    """Return the published SAEs that fit, a row each, as their registry names them.

    Args:
        query: words that the name or the model must have, in any order and case.
        model: part of the model's name, as ``gemma-2-2b``.
        site: a layer, as ``L12``, or with the place, as ``L12.resid_post``.
        width: latents, as 16384 or ``16k``.
        l0: largest published L0, or a range as ``20-60``; SAEs without one do not fit.
        catalogue: published SAEs of your own; None: those of SAEKIT_CATALOGUE.

    Returns:
        ``name`` (what `saekit.load` takes), ``model``, ``site`` and ``width`` as far as the names
        say them, ``l0`` and ``variance_explained`` as published, ``neuronpedia``.

    Raises:
        ConfigError: `l0` or `width` is no number.
        FormatError, ResourceError: the registry is damaged, or not here.
    """
    latents = None if width is None else _latents(str(width))
    place, between, words = _site_words(site), _range(l0), query.lower().split()

    def fits(one: Entry, about: str) -> bool:
        text, where = f"{about} {one.id} {one.path}".lower(), site_of(one)
        return (
            all(word in text for word in words)
            and (between is None or (one.l0 is not None and between[0] <= one.l0 <= between[1]))
            and (not place or where == place or where.startswith(f"{place}."))
            and (latents is None or width_of(one) == latents)
        )

    found: list[Entry] = []
    for release, raw in releases(catalogue).items():
        about = f"{release} {raw['model']} {full_name(raw['model'])}".lower()
        if model is None or model.lower() in about:
            found += [one for one in entries_of(release, raw) if fits(one, about)]
    return Table(
        columns={
            "name": [one.name for one in found],
            "model": [full_name(one.model) for one in found],
            "site": [site_of(one) or None for one in found],
            "width": [width_of(one) for one in found],
            "l0": [one.l0 for one in found],
            "variance_explained": [one.variance_explained for one in found],
            "neuronpedia": [one.neuronpedia or None for one in found],
        },
        units={"width": "latents", "l0": "latents/token"},
    )


def site_of(one: Entry) -> str:
    """Return layer and place as the names of an entry say them; "": they do not."""
    if "embedding" in one.path:
        return "embed"
    for text in (one.id, one.path):
        if hook := _HOOK.search(text):
            return f"L{hook[1]}.{hook[2]}"
    layer = next((m for text in (one.id, one.path) if (m := _LAYER.search(text))), None)
    if layer is None:
        return ""
    text = f"{one.release} {one.path}"
    place = next((name for pattern, name in _PLACES if re.search(pattern, text)), "")
    return f"L{layer[1] or layer[2]}.{place}" if place else f"L{layer[1] or layer[2]}"


def width_of(one: Entry) -> int | None:
    """Return the number of latents as the names of an entry say it; None: they do not."""
    # A release may be named after a model, whose size is no width.
    release = re.sub(r"pythia-?\d+m|\d+\.\d+m", "", one.release)
    for text in (one.path, one.id, release, one.neuronpedia):
        for pattern in _WIDTHS:
            if match := re.search(pattern, text):
                said = match.groupdict()
                if "power" in said:
                    return 2 ** int(said["power"])
                return _exact(int(said["number"]), said.get("unit"))
    return None


def _latents(text: str) -> int:
    match = re.fullmatch(r"(\d[\d,_]*)\s*(k|m)?", text.lower())
    if match is None:
        raise ConfigError(f"A width is a number of latents, as 16384 or 16k; got `{text}`.")
    return _exact(int(re.sub(r"[,_]", "", match[1])), match[2])


def _exact(number: int, unit: str | None) -> int:
    """Return latents of a rounded number: 131k is 131,072, and 16k is 16,384."""
    latents = number * _UNITS[unit]
    power = 2 ** round(math.log2(latents)) if latents else 0
    return power if unit is not None and abs(latents / power - 1) < 0.03 else latents


def _range(l0: str | float | None) -> tuple[float, float] | None:
    if l0 is None:
        return None
    parts = str(l0).split("-")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        return 0.0, numbers[0]
    if len(numbers) == 2:
        return numbers[0], numbers[1]
    raise ConfigError(f"An L0 is a number, or a range as 20-60; got `{l0}`.")


def _site_words(site: str | None) -> str:
    if site is None:
        return ""
    if re.fullmatch(r"[lL]?\d+", site):
        return f"L{site.lstrip('lL')}"
    if site.startswith("blocks."):
        return str(parse_site(site))
    return site
