"""Several sites in one word: ``L*.resid_post``, ``L0-5.resid_post``, ``L0,3,7.mlp_out``."""

import re
from collections.abc import Sequence

from saekit.core.errors import UnknownNameError
from saekit.models.base import LanguageModel
from saekit.models.sites import POINTS, Site, parse_site

_SEVERAL = re.compile(r"L(?P<layers>\*|[\d,-]*[,-][\d,-]*)\.(?P<point>\w+)")
_ONE_OR_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def expand_sites(names: Sequence[str], model: LanguageModel) -> list[str]:
    """Return site names with patterns written out, in the order given, each once.

    Args:
        names: sites, or patterns: ``*`` is every layer, ``0-5`` a range with both ends,
            ``0,3,7-9`` a list of layers and ranges.
        model: which layers there are.

    Raises:
        UnknownNameError: a name is no site, or the model has not the layer or point.
    """
    found: dict[Site, None] = {}
    for name in names:
        of, _, pattern = name.rpartition(":")  # the model's short name, where there are several
        match = _SEVERAL.fullmatch(pattern)
        if match is None:
            found[model.check_site(parse_site(name))] = None
            continue
        if match["point"] not in POINTS:
            parse_site(f"L0.{match['point']}")  # says what points there are
        for layer in _layers(match["layers"], name, model):
            found[model.check_site(Site(layer, match["point"], of))] = None
    return [str(site) for site in found]


def _layers(text: str, name: str, model: LanguageModel) -> list[int]:
    if text == "*":
        return list(range(model.n_layers))
    found: list[int] = []
    for part in text.split(","):
        match = _ONE_OR_RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise UnknownNameError(
                f"`{name}` names no layers: `{part}` is neither a layer nor a range as 0-5. "
                f"Write L*.resid_post, L0-5.resid_post or L0,3,7.resid_post."
            )
        found += range(first, last + 1)
    return found
