"""saekit: sparse autoencoders on language models.

The five verbs of a dictionary's life and the three nouns they share. Each is imported when
it is first used, so that importing the package is instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saekit.activations.harvest import Harvest as Harvest
    from saekit.core.result import Result as Result
    from saekit.hub.native import load as load
    from saekit.hub.native import save as save
    from saekit.models.hf import load as load_model  # noqa: F401
    from saekit.models.sites import Site as Site
    from saekit.training.loop import train as train
    from saekit.training.run import Run as Run

_PLACES = {
    "Harvest": "saekit.activations.harvest",
    "Result": "saekit.core.result",
    "Run": "saekit.training.run",
    "Site": "saekit.models.sites",
    "load": "saekit.hub.native",
    "load_model": "saekit.models.hf:load",
    "save": "saekit.hub.native",
    "train": "saekit.training.loop",
}
__all__ = sorted(_PLACES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"saekit has no `{name}`; it has {', '.join(__all__)}.")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return list(__all__)
