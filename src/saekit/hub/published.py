"""Loading an SAE by the name it was published under, with what the registry says of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from saekit.core.errors import FormatError, UnknownNameError
from saekit.core.files import read_object
from saekit.hub.card import Card
from saekit.hub.fetch import Fetched, fetch
from saekit.hub.formats.base import FormatHints, filled, find
from saekit.hub.names import results_folder
from saekit.hub.names.resolving import ABOUT_PLACE, Published, resolve
from saekit.hub.trained import TrainedSAE
from saekit.models.short_names import full_name
from saekit.models.sites import UNKNOWN, Site, parse_site

LENS, CONFIG = "sae_lens", "cfg.json"  # the layout that a registry's factor is of
SCALED = (True, "expected_average_only_in")  # what it says where a factor is to be folded in


def load_published(  # noqa: PLR0913 - the words of `saekit.load`
    name: str,
    device: str = "cpu",
    *,
    site: str | None = None,
    scaled: bool = False,
    format: str | None = None,
    hints: FormatHints | None = None,
    catalogue: Path | str | None = None,
) -> TrainedSAE:
    """Return a published SAE; see `saekit.hub.native.load`.

    The factor and the settings of the registry go into the weights as SAELens does it: the factor
    where the files ask for one, settings over those in the files. What else it says (L0, variance
    explained), the commit and the SHA-256 of each file are in ``card.provenance["published"]``.

    Raises:
        UnknownNameError: nothing has this name.
        FormatError: the files contradict the registry.
        ResourceError: the hub cannot be reached, and the cache does not have it.
    """
    return opened_from(*fetched(name, catalogue), device, site, scaled, format, hints)


def fetched(name: str, catalogue: Path | str | None = None) -> tuple[Published, Fetched]:
    """Return what a name stands for, and its files in the hub's cache."""
    wanted = resolve(name, catalogue)
    return wanted, fetch(wanted.repo, wanted.path, wanted.revision)


def opened_from(  # noqa: PLR0913 - the words of `saekit.load`
    wanted: Published,
    files: Fetched,
    device: str = "cpu",
    site: str | None = None,
    scaled: bool = False,
    format: str | None = None,
    hints: FormatHints | None = None,
) -> TrainedSAE:
    """Return the SAE in files that were fetched, with what is said of it."""
    from saekit.hub.native import load

    said = hints or FormatHints()
    computes = sorted(set(wanted.overrides) - ABOUT_PLACE)
    if computes and (layout := find(files.at, format).name) != LENS:
        raise FormatError(
            f"The registry puts `{computes[0]}` over the files of {wanted.name}, whose layout is "
            f"`{layout}`; saekit does so with SAELens' own layout alone. Load the files by "
            f"themselves: hf:{wanted.repo}/{wanted.path}."
        )
    loaded = load(
        files.at,
        device,
        site=site,
        scaled=scaled,
        format=format,
        hints=_with_registry(said, wanted, files.at),
    )
    card = _of_model(_placed(loaded.card, wanted), wanted, said)
    about: dict[str, Any] = {
        "name": wanted.name,
        "repo": wanted.repo,
        "path": wanted.path,
        "revision": files.commit,
        "sha256": files.sha256,
        **wanted.says,
    }
    before = card.provenance.get("published") or {}
    card = replace(card, provenance=card.provenance | {"published": before | about})
    return replace(loaded, card=card, folder=results_folder(wanted.name))


def _with_registry(hints: FormatHints, wanted: Published, at: Path) -> FormatHints:
    """Return what the user says, its gaps filled with what the registry says."""
    config = at / CONFIG
    if not config.is_file():
        return hints
    raw = read_object(config)
    metadata = raw["metadata"] if isinstance(raw.get("metadata"), dict) else {}
    hook = raw.get("hook_name", raw.get("hook_point", metadata.get("hook_name")))
    told = wanted.overrides.get("hook_name")
    if told and hook and told != hook:
        raise FormatError(
            f"The registry says hook_name `{told}` of {wanted.name}; its {CONFIG} says `{hook}`. "
            f"Load it without the registry, hf:{wanted.repo}/{wanted.path}, and name the site."
        )
    norm = wanted.overrides.get("normalize_activations", raw.get("normalize_activations"))
    scale = wanted.input_scale if norm in SCALED else 0.0
    return replace(
        hints, overrides=wanted.overrides | hints.overrides, input_scale=hints.input_scale or scale
    )


def _of_model(card: Card, wanted: Published, hints: FormatHints) -> Card:
    """Return a card with the model's name on the hub: the user's, the files', the registry's."""
    said = card.model.get("name", "unknown")
    if said == "unknown" and wanted.model:
        return filled(card, FormatHints(model=wanted.model))
    if hints.model or said == "unknown" or card.run:  # a run's card names what it ran on
        return card
    name = full_name(said)
    card = replace(card, model=card.model | {"name": name})
    if not wanted.model or name.lower() == wanted.model.lower():
        return card
    note = f"the files say it is of {name}; the registry says {wanted.model}"
    notes = [*card.provenance.get("notes", []), note]
    return replace(card, provenance=card.provenance | {"notes": notes})


def _placed(card: Card, wanted: Published) -> Card:
    """Return a card whose site is the one that the name says, where the files leave it open.

    Raises:
        FormatError: the files say another one.
    """
    site = _site(wanted.site)
    if site is None or card.transcodes:
        return card
    if UNKNOWN in card.pair.sites:
        return filled(card, FormatHints(read=(str(site),)))
    if card.pair.reads != [site]:
        raise FormatError(
            f"`{wanted.name}` is of {site} by its name or the registry; its files say "
            f"{card.pair.label}. Load the files by themselves, hf:{wanted.repo}/{wanted.path}, if "
            f"you trust them more."
        )
    return card


def _site(name: str) -> Site | None:
    """Return the site of a name or hook; None: of a hook that no site is."""
    try:
        return parse_site(name) if name else None
    except UnknownNameError:
        return None
