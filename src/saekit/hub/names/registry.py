"""SAELens' registry of published SAEs, and catalogues of your own in the same shape.

A file of YAML: release -> repo_id, model, conversion_func (the layout; null: SAELens' own),
config_overrides, saes: [{id, path, l0, variance_explained, neuronpedia, norm_scaling_factor}].
It is parsed once and kept as JSON, which is read 30 times as fast.
"""

import contextlib
import importlib.util
import os
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saekit.core.border import ordinary, reading
from saekit.core.errors import FormatError, ResourceError, SaekitError, UnknownNameError, nearest
from saekit.core.files import cache_folder, read_object, replace_with, sha256_of, write_json
from saekit.core.wheels import Wheel, fetch

FILE = "pretrained_saes.yaml"
REGISTRY, CATALOGUE = "SAEKIT_REGISTRY", "SAEKIT_CATALOGUE"
PREFIX = "saelens:"
SAE_LENS = Wheel(
    "sae-lens",
    "6.54.12",
    "a8f533bde5024f067de482fece4fb975b39f341d0cb781ca5afedce1b2e91c31",
    1,
    "MIT",
)
Releases = dict[str, dict[str, Any]]

_MOST_BYTES = 2**26
_SHOWN = 5
# `&name` at the start of a value: what it stands for would be repeated wherever it is mentioned.
_ANCHOR = re.compile(r"(?:^|[:\-,\[{?])\s*&\w", re.MULTILINE)
# What an entry may say. One of SAELens' own repeats its release inside; that says nothing new.
_SAID = {"id", "path", "l0", "variance_explained", "neuronpedia", "norm_scaling_factor"}
_REPEATED = {"repo_id", "model", "conversion_func", "links", "saes"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One published SAE: where its files are, and what the registry says of it.

    Args:
        release: of which it is one.
        id: its name there.
        repo: ``owner/name`` on the hub.
        path: of its folder or file in it.
        loader: SAELens' name of the layout; "": its own.
        model: the language model, as the registry spells it.
        l0: latents that are on, per token, as published; None: not said.
        variance_explained: as published; None: not said.
        neuronpedia: its page there, ``model/layer-set``; "": not said.
        norm_scaling_factor: what multiplied activations in training; 0: not said.
        overrides: settings that go over those in the files.
        unknown: fields that saekit does not know.
    """

    release: str
    id: str
    repo: str
    path: str
    loader: str = ""
    model: str = ""
    l0: float | None = None
    variance_explained: float | None = None
    neuronpedia: str = ""
    norm_scaling_factor: float = 0.0
    overrides: dict[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What `saekit.load` takes."""
        return f"{PREFIX}{self.release}/{self.id}"


def releases(catalogue: Path | str | None = None) -> Releases:
    """Return every release of the registry and of the user's catalogue.

    Args:
        catalogue: a file of the user's own; None: that of SAEKIT_CATALOGUE, where it is set.

    Raises:
        FormatError: a file is damaged or of another shape, or both have the same release.
        ResourceError: the registry is not here and cannot be fetched.
    """
    own = catalogue or os.environ.get(CATALOGUE)
    mine = read_file(Path(own).expanduser()) if own else {}
    try:
        theirs = read_file(registry_file())
    except ResourceError:
        if not mine:
            raise
        theirs = {}
    if both := sorted(set(mine) & set(theirs)):
        raise FormatError(
            f"{own} and the registry both have a release `{both[0]}`. Give yours another name."
        )
    return mine | theirs


def entry(name: str, catalogue: Path | str | None = None) -> Entry:
    """Return what ``RELEASE/ID`` stands for.

    Raises:
        UnknownNameError: there is no such release, or no such SAE of it; the nearest are named.
        FormatError, ResourceError: as `releases`.
    """
    known = releases(catalogue)
    release, _, sae_id = name.partition("/")
    if release not in known:
        raise UnknownNameError(
            f"There is no release `{release}` among the {len(known)} of the registry"
            f"{_and_mine(catalogue)}.{nearest(release, known)} `saekit published WORDS` looks for "
            f"one."
        )
    found = {one.id: one for one in entries_of(release, known[release])}
    if sae_id in found:
        return found[sae_id]
    if not sae_id:
        some = ", ".join(list(found)[:_SHOWN])
        raise UnknownNameError(
            f"`{PREFIX}{release}` is a release of {len(found)} SAEs. Name one, as "
            f"{next(iter(found.values())).name}; the first are {some}."
        )
    near = nearest(sae_id, found)
    first = "" if near else f" The first of its {len(found)} are {', '.join(list(found)[:_SHOWN])}."
    raise UnknownNameError(
        f"The release `{release}` has no SAE `{sae_id}`.{near}{first} `saekit published "
        f"{release}` lists them."
    )


def entries_of(release: str, raw: dict[str, Any]) -> list[Entry]:
    """Return the SAEs of a release."""
    return [
        Entry(
            release=release,
            id=str(one["id"]),
            repo=raw["repo_id"],
            path=str(one["path"]),
            loader=raw.get("conversion_func") or "",
            model=raw["model"],
            l0=_number(one.get("l0")),
            variance_explained=_number(one.get("variance_explained")),
            neuronpedia=one.get("neuronpedia") or "",
            norm_scaling_factor=_number(one.get("norm_scaling_factor")) or 0.0,
            overrides=dict(raw.get("config_overrides") or {}),
            unknown=tuple(sorted(set(one) - _SAID - _REPEATED)),
        )
        for one in raw["saes"]
    ]


def registry_file() -> Path:
    """Return the registry: that of SAEKIT_REGISTRY, of an installed sae-lens, or of its wheel.

    Raises:
        ResourceError: it cannot be fetched, or the network is not to be used.
    """
    if given := os.environ.get(REGISTRY):
        return Path(given).expanduser()
    installed = importlib.util.find_spec("sae_lens")
    for folder in (installed.submodule_search_locations or ()) if installed else ():
        if (Path(folder) / FILE).is_file():
            return Path(folder) / FILE
    kept = _kept(f"{SAE_LENS.package}-{SAE_LENS.version}.yaml")
    if kept.is_file():
        return kept
    advice = f"Install sae-lens, or name a copy of its {FILE} in {REGISTRY}."
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ResourceError(
            f"The registry of published SAEs is not on this machine, and HF_HUB_OFFLINE is set, so "
            f"it is not fetched. {advice}"
        )
    try:
        wheel = fetch(SAE_LENS)
    except ResourceError as error:
        raise ResourceError(
            f"The registry of published SAEs is not here. {error} {advice}"
        ) from error
    with reading(wheel, "a wheel"), zipfile.ZipFile(wheel) as files:
        replace_with(kept, files.read(f"sae_lens/{FILE}"))
    return kept


def read_file(path: Path) -> Releases:
    """Return the releases in a file.

    Raises:
        FormatError: it is missing, too large, or not of the registry's shape.
    """
    ordinary(path, _MOST_BYTES)
    kept = _kept(f"{sha256_of(path)}.json")
    if kept.is_file():
        with contextlib.suppress(SaekitError):
            return read_object(kept)
    with reading(path, "YAML"):
        found = _checked(_parsed(path), path)
    with contextlib.suppress(SaekitError):  # a cache that cannot be written costs time alone
        write_json(kept, found)
    return found


def _parsed(path: Path) -> Any:
    import yaml

    text = path.read_text(encoding="utf-8")
    if _ANCHOR.search(text):
        raise FormatError(f"{path} has anchors (`&name`), which are not read. Write values out.")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506


def _checked(raw: Any, path: Path) -> Releases:
    """Return a registry in which every entry says where its files are.

    Raises:
        FormatError: one does not.
    """
    if not isinstance(raw, dict):
        raise FormatError(f"{path} must map releases to what they are; got {type(raw).__name__}.")
    for release, said in raw.items():
        if wrong := _wrong_release(release, said):
            raise FormatError(f"{path}: {wrong}")
        for one in said["saes"]:
            if wrong := _wrong_entry(one):
                raise FormatError(f"{path}: of `saes` of `{release}`, {wrong}")
    return raw


def _wrong_release(release: Any, said: Any) -> str:
    """Return what is wrong with a release; "": nothing is."""
    if not isinstance(release, str) or "/" in release:
        return f"the name of a release is text without `/`; got {release!r}."
    if not isinstance(said, dict) or not isinstance(said.get("saes"), list):
        return f"`{release}` must have a list `saes`."
    if lacking := [k for k in ("repo_id", "model") if not isinstance(said.get(k), str)]:
        return f"`{release}` must say `{lacking[0]}`, as text."
    if not isinstance(said.get("config_overrides") or {}, dict):
        return f"`config_overrides` of `{release}` must be settings by name."
    return ""


def _wrong_entry(one: Any) -> str:
    """Return what is wrong with one of the SAEs of a release; "": nothing is."""
    if not isinstance(one, dict) or "id" not in one or "path" not in one:
        return "each must say `id` and `path`."
    for key in ("l0", "variance_explained", "norm_scaling_factor"):
        if one.get(key) is not None and _number(one[key]) is None:
            return f"`{key}` of `{one['id']}` must be a number; got {one[key]!r}."
    return ""


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None


def _kept(name: str) -> Path:
    return cache_folder() / "registries" / name


def _and_mine(catalogue: Path | str | None) -> str:
    own = catalogue or os.environ.get(CATALOGUE)
    return f" and {own}" if own else ""
