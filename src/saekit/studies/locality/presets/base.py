"""The record of a preset, and how to find one by name."""

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import saekit.studies.locality.presets as package
from saekit.core.config import Config
from saekit.core.errors import ConfigError, UnknownNameError, nearest
from saekit.models.sites import Site


@dataclass(frozen=True, kw_only=True)
class Preset(Config):
    """A model, its SAEs, and how the published runs read them.

    Args:
        key: the preset's name.
        model: by the name it is loaded under.
        n_layers: of the model.
        d_model: of the model.
        sae_format: layout of the SAE files, as `saekit list formats` names it.
        architecture: of the SAEs, in saekit's terms.
        repo: where the files are, on the hub; empty for SAEs of one's own.
        folder: of one layer's files, below the root that the repo was fetched to; ``{layer}``
            stands for the layer, ``{l0}`` for its number in `l0`.
        l0: by layer, what the release's folders are told apart by.
        sae_id: what SAELens calls one layer's files, where that is another name; a folder of
            that name below the root is read too.
        release: the name under which SAELens lists them; empty where it does not.
        site_name: what the published files call the site; ``{layer}`` stands for the layer.
        layers: that the published runs read.
        threshold: activation above which a latent counts there, act units.
        n_ctx_max: longest context of the published sweep.
        n_ctx_step: its step.
        d_sae: latents; 0 where layers differ or it is not known here.
        forgets: what the published encode leaves out of these SAEs: reproduced by
            `legacy_encode`.
    """

    name: ClassVar[str] = "locality_preset"
    key: str
    model: str
    n_layers: int
    d_model: int
    sae_format: str
    architecture: str
    repo: str
    folder: str
    l0: tuple[int, ...] = ()
    sae_id: str = ""
    release: str = ""
    site_name: str
    layers: tuple[int, ...]
    threshold: float
    n_ctx_max: int = 2048
    n_ctx_step: int = 128
    d_sae: int
    forgets: tuple[str, ...] = ()

    def site(self, layer: int) -> Site:
        """Return the site of a layer: the stream after the block.

        Raises:
            ConfigError: the model has no such layer.
        """
        if not 0 <= layer < self.n_layers:
            raise ConfigError(
                f"{self.key} has layers 0..{self.n_layers - 1}; got {layer}. Published runs read "
                f"{', '.join(map(str, self.layers))}."
            )
        return Site(layer, "resid_post")

    def place(self, layer: int) -> str:
        """Return where a layer's SAE is in the release."""
        return self.folder.format(layer=layer, l0=self.l0[layer] if self.l0 else "")

    def sae_folder(self, root: Path, layer: int) -> Path:
        """Return where a layer's SAE is, below the folder that holds the release's files."""
        named = root / self.sae_id.format(layer=layer)
        return named if self.sae_id and named.is_dir() else root / self.place(layer)

    def published_site(self, layer: int) -> str:
        """Return what the published files call the site of a layer."""
        return self.site_name.format(layer=layer)


def names() -> list[str]:
    """Return the names of all presets."""
    found = (m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "base")
    return sorted(_module(name).PRESET.key for name in found)


def preset(name: str) -> Preset:
    """Return a preset.

    Raises:
        UnknownNameError: there is none of that name.
    """
    for module in pkgutil.iter_modules(package.__path__):
        if module.name != "base" and _module(module.name).PRESET.key == name:
            return _module(module.name).PRESET
    raise UnknownNameError(
        f"There is no preset `{name}`; there are {', '.join(names())}.{nearest(name, names())}"
    )


def _module(name: str):
    return importlib.import_module(f"{package.__name__}.{name}")
