"""What a run measures: SAEs of folders or of a preset, each opened when its turn comes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from saekit.core.errors import ConfigError, FormatError
from saekit.hub.formats.base import FormatHints
from saekit.hub.native import load
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel
from saekit.models.sites import UNKNOWN, Site, parse_site
from saekit.saes.base import SAE
from saekit.saes.standardised import Standardised
from saekit.studies.locality.presets import Preset

Reads = Callable[..., TrainedSAE]  # called as `saekit.hub.native.load` is: a folder; site=, scaled=


class LoadedSAE(NamedTuple):
    """An SAE, and what the published code leaves out where it encodes with such an SAE."""

    sae: SAE
    forgets: tuple[str, ...] = ()  # of `latent_gradient.FORGETTABLE`


class Subject(NamedTuple):
    """One SAE of a run; opened when its turn comes, so that one bad file does not stop others."""

    site: Site
    source: str  # where it is from
    load: Callable[[], LoadedSAE]
    trained_on: dict[str, Any] | None = None  # the text of its training, as a dict; None: not known


class ModelName(NamedTuple):
    """What names the language model of some SAEs."""

    name: str
    revision: str | None = None  # that it must have
    hub_revision: str | None = None  # to ask the hub for


def check_subjects(lm: LanguageModel, subjects: Sequence[Subject]) -> None:
    """Refuse no SAE, two of one site, or a site that the model has not.

    Raises:
        ConfigError: there is nothing to measure, or a site twice.
        UnknownNameError: there is no such site.
    """
    names = [str(lm.check_site(s.site)) for s in subjects]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"A run needs SAEs of different sites; got {', '.join(names) or 'none'}.")


def facts(sae: SAE, subject: Subject) -> dict[str, Any]:
    """Return what a reader of results must know of an SAE, JSON-ready."""
    inner = getattr(sae.cfg, "inner", sae.cfg)
    return {
        "architecture": inner.name,
        "wrapped_in": None if inner is sae.cfg else sae.cfg.name,
        "d_in": sae.cfg.d_in,
        "d_sae": sae.cfg.d_sae,
        "source": subject.source,
    }


def forgotten(loaded: TrainedSAE) -> tuple[str, ...]:
    """Return what the published code leaves out where it encodes with this SAE.

    It reads an SAE's matrices and biases alone: it takes no b_dec off the input, which some
    layouts do, and does not normalise it.
    """
    published = loaded.card.provenance.get("published", {})
    found = ["b_dec"] if published.get("subtracts_b_dec") else []
    return (*found, *(["layer_norm"] if isinstance(loaded.sae.cfg, Standardised) else []))


def of_folders(
    folders: Sequence[Path],
    sites: Sequence[str] = (),
    layers: Sequence[int] = (),
    read: Reads = load,
) -> tuple[list[Subject], ModelName]:
    """Return the SAEs in some folders, by depth, and their language model.

    Args:
        folders: of runs or SAEs, in any format.
        sites: of those that they read; none: all. Of an SAE whose files do not say its site,
            the one that it reads.
        layers: likewise, but of SAEs whose files say their sites.
        read: reads one; where the user fills gaps of the files, it does so.

    Raises:
        ConfigError: they are of several models, or none reads a site or layer asked for.
        FormatError: a folder holds no SAE.
    """
    wanted = [parse_site(s) for s in sites]
    found: list[Subject] = []
    reading: list[str] = []
    named: ModelName | None = None
    for folder in folders:
        card = located(folder, sites, read).card
        model = card.run.get("model", card.model["name"])
        made = ModelName(model, card.model["revision"], card.run.get("revision"))
        if named is not None and named != made:
            raise ConfigError(
                f"The SAEs are of several models, {named.name} and {made.name}. Run once for each."
            )
        named = made
        source = f"{folder.name}/{(card.run.get('sae') or {}).get('name', 'sae')}"
        reading += [str(one) for one in card.pair.reads]
        reads = [
            one
            for one in card.pair.reads
            if (not wanted or one in wanted) and (not layers or one.layer in layers)
        ]
        text = card.run.get("corpus")
        found += [Subject(one, source, _opens(folder, one, read), text) for one in reads]
    missing = [str(s) for s in wanted if s not in {f.site for f in found}]
    missing += [f"layer {i}" for i in layers if i not in {f.site.layer for f in found}]
    if missing or named is None or not found:
        raise ConfigError(
            f"No SAE given reads {', '.join(missing) or 'anything'}; they read "
            f"{', '.join(reading) or 'nothing'}. Choose of these with --site or --layers."
        )
    return sorted(found, key=lambda s: (s.site.layer or 0, s.site.point)), named


def located(folder: Path, sites: Sequence[str], read: Reads) -> TrainedSAE:
    """Return the SAE in a folder, its weights as trained, at sites that are known.

    Raises:
        ConfigError: its files do not say the site, and not one was named.
    """
    loaded = read(folder, scaled=True)
    if UNKNOWN not in loaded.card.pair.reads:
        return loaded
    if len(sites) != 1:
        raise ConfigError(
            f"The SAE in {folder} does not say which site it reads. Name it: --site; of a "
            f"transcoder both, --read and --write."
        )
    return read(folder, site=sites[0], scaled=True)


def _opens(folder: Path, site: Site, read: Reads) -> Callable[[], LoadedSAE]:
    def opened() -> LoadedSAE:
        loaded = read(folder, site=str(site))
        return LoadedSAE(loaded.sae, forgotten(loaded))

    return opened


def of_preset(
    chosen: Preset, root: Path | None, layers: Sequence[int] = (), model: str | None = None
) -> tuple[list[Subject], ModelName]:
    """Return the SAEs of a preset, read from the files of its release, and its language model.

    Args:
        chosen: the preset.
        root: folder with the files, laid out as the release or as SAELens names its parts.
        layers: which; none: those that the published runs read.
        model: where the language model is, if not under the preset's name.

    Raises:
        ConfigError: there is no folder, or the model has no such layer.
        FormatError: the folder is not there.
    """
    if root is None:
        where = f"fetch them from {chosen.repo}" if chosen.repo else "train them, and use --sae"
        raise ConfigError(
            f"--preset {chosen.key} needs the files of its SAEs: {where}; then --sae-root."
        )
    if not root.is_dir():
        raise FormatError(f"There is no folder {root} (--sae-root).")

    def opens(layer: int) -> Callable[[], LoadedSAE]:
        return lambda: of_layer(chosen, root, layer)

    found = [
        Subject(chosen.site(i), f"{chosen.repo}/{chosen.place(i)}", opens(i))
        for i in layers or chosen.layers
    ]
    return found, ModelName(model or chosen.model)


def of_layer(chosen: Preset, root: Path, layer: int) -> LoadedSAE:
    """Return the SAE of a preset's layer, in the model's raw act units.

    Raises:
        FormatError: the files are missing or damaged.
        ConfigError: they are of another site or another architecture.
    """
    loaded = loaded_layer(chosen, root, layer)
    return LoadedSAE(loaded.sae, forgotten(loaded))


def loaded_layer(chosen: Preset, root: Path, layer: int) -> TrainedSAE:
    """Return the SAE of a preset's layer with its card.

    Raises:
        FormatError: the files are missing or damaged.
        ConfigError: they are of another site or another architecture.
    """
    return load(
        chosen.sae_folder(root, layer),
        site=str(chosen.site(layer)),
        format=chosen.sae_format,
        hints=FormatHints(model=chosen.model, architecture=chosen.architecture),
    )
