"""From the name of a published SAE to where its files are, before anything is downloaded."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saekit.core.errors import FormatError, UnknownNameError
from saekit.hub.names import registry
from saekit.hub.names.registry import Entry
from saekit.hub.names.short import short
from saekit.models.short_names import full_name

_REVISION = r"refs/(?:pr|convert)/[^/@]+|[^/@]+"
HF = re.compile(rf"([\w.-]+/[\w.-]+)(?:@({_REVISION}))?(?:/(.*))?")
# Settings that say where an SAE belongs. Any other may decide what it computes.
ABOUT_PLACE = {
    "dataset_path",
    "model_name",
    "hook_name",
    "hook_layer",
    "context_size",
    "prepend_bos",
    "neuronpedia_id",
    "model_from_pretrained_kwargs",
    "revision",
}


@dataclass(frozen=True, kw_only=True)
class Published:
    """Where a published SAE is, and what is said of it beside its files.

    Args:
        name: as it was given.
        repo: ``owner/name`` on the hub.
        path: of its folder or file there; "": the repository itself.
        revision: branch, tag or commit; None: the main branch.
        model: the language model, by its name on the hub; "": not said.
        site: the one it reads; "": not said.
        overrides: settings that go over those in the files.
        input_scale: what multiplied activations in training, where the files say that something
            did; 0: not said.
        says: what the registry says of it, JSON-ready.
    """

    name: str
    repo: str
    path: str
    revision: str | None = None
    model: str = ""
    site: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    input_scale: float = 0.0
    says: dict[str, Any] = field(default_factory=dict)


def resolve(name: str, catalogue: Path | str | None = None) -> Published:
    """Return what a name stands for.

    Args:
        name: as `saekit.hub.names` lists them.
        catalogue: a file of the user's own, in the shape of SAELens' registry.

    Raises:
        UnknownNameError: nothing has this name; the nearest names are in the message.
        FormatError: the registry says of it what saekit cannot do.
        ResourceError: the registry is needed, not here, and cannot be fetched.
    """
    if name.startswith("hf:"):
        return _of_hub(name)
    if name.startswith(registry.PREFIX):
        return _of_entry(name, registry.entry(name.removeprefix(registry.PREFIX), catalogue))
    found = short(name)
    says = {} if found.l0 is None else {"l0": found.l0}
    return Published(
        name=name,
        repo=found.repo,
        path=found.path,
        model=full_name(found.model),
        site=found.site,
        says=says,
    )


def _of_hub(name: str) -> Published:
    match = HF.fullmatch(name.removeprefix("hf:").strip("/"))
    parts = (match[3] or "").split("/") if match else []
    if match is None or any(part in (".", "..") or "\\" in part for part in parts):
        raise UnknownNameError(
            f"`{name}` must read hf:OWNER/REPO/PATH or hf:OWNER/REPO@REVISION/PATH, with the path "
            f"of a folder or file in that repository."
        )
    path = "/".join(part for part in parts if part)
    return Published(name=name, repo=match[1], path=path, revision=match[2])


def _of_entry(name: str, entry: Entry) -> Published:
    if entry.unknown:
        raise FormatError(
            f"The registry says `{entry.unknown[0]}` of {entry.release}/{entry.id}, which saekit "
            f"does not know and which may decide what the SAE computes. Upgrade saekit, or load it "
            f"without the registry: hf:{entry.repo}/{entry.path}."
        )
    said = {
        "release": entry.release,
        "id": entry.id,
        "l0": entry.l0,
        "variance_explained": entry.variance_explained,
        "neuronpedia": entry.neuronpedia,
        "norm_scaling_factor": entry.norm_scaling_factor or None,
        "config_overrides": entry.overrides,
    }
    model = entry.overrides.get("model_name") or entry.model
    return Published(
        name=name,
        repo=entry.repo,
        path=entry.path,
        revision=entry.overrides.get("revision"),
        model=full_name(model),
        site=str(entry.overrides.get("hook_name") or ""),
        overrides={k: v for k, v in entry.overrides.items() if k != "revision"},
        input_scale=entry.norm_scaling_factor,
        says={key: value for key, value in said.items() if value not in (None, "", {})},
    )
