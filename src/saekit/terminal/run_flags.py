"""Flags of the command line over a run to start from."""

import json
from typing import Any

from saekit.core.errors import ConfigError

APART = ("arch", "target", "fold")  # settings that a recipe or a config decides as a whole


def given(**flags: Any) -> dict[str, Any]:
    """Return the flags that have a value."""
    return {name: value for name, value in flags.items() if value is not None}


def over(raw: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Return a run to start from with the plain flags of the command line put over it.

    Where another model is named, the SAE's widths are left to that model, and its latents
    keep their number for a width.

    Raises:
        ConfigError: a flag has no meaning beside a recipe or a config.
    """
    for name in APART:
        if name in flags:
            raise ConfigError(
                f"`--{name}` does not go with --recipe or --config, which decide it. Change it "
                f"with --set, or start from flags alone."
            )
    raw = {**raw, "pair": dict(raw["pair"]), "sae": dict(raw["sae"])}
    for name in ("model", "tokens", "epochs", "seed"):
        if name in flags:
            raw[name] = flags[name]
    if "model" in flags:
        raw["revision"] = flags.get("revision")
        raw["latents_per_width"] = raw["sae"]["d_sae"] / raw["sae"]["d_in"]
        raw["sae"] = _without_widths(raw["sae"])
    elif "revision" in flags:
        raw["revision"] = flags["revision"]
    if "site" in flags:
        raw["pair"]["read"] = flags["site"]
    if "d_sae" in flags:
        raw["sae"]["d_sae"] = flags["d_sae"]
        raw["sae"].get("inner", {}).pop("d_sae", None)
    if "corpus" in flags:
        from saekit.data.open import open_corpus

        raw["corpus"] = open_corpus(flags["corpus"]).to_dict()
    return raw


def put(raw: dict[str, Any], path: str, value: Any) -> None:
    """Set ``a.b`` of nested dicts; groups on the way are made where they are missing.

    Raises:
        ConfigError: something on the way is a value, not a group.
    """
    *parents, last = path.split(".")
    for parent in parents:
        group = raw.get(parent)
        if group is not None and not isinstance(group, dict):
            raise ConfigError(f"`{path}`: `{parent}` is {group!r:.80}, which has no settings.")
        raw[parent] = dict(group or {})
        raw = raw[parent]
    raw[last] = value


def short_digest(*parts: Any) -> str:
    """Return a few characters that tell settings apart, for the name of a folder."""
    from saekit.core.files import digest

    return digest(json.dumps(part, sort_keys=True) for part in parts)[:6]


def k_setting(arch: str, k: float | None) -> list[str]:
    """Return what `--k` sets: the setting of an architecture that says how many latents are on."""
    if k is None:
        return []
    from saekit.core.config import field_types
    from saekit.saes.base import registry

    fields = field_types(registry.get(arch))
    if "inner" in fields:
        return [s.replace("sae.", "sae.inner.", 1) for s in k_setting("topk", k)]
    if "k" not in fields:
        near = "target_l0" if "target_l0" in fields else "l1_coefficient"
        raise ConfigError(f"`{arch}` keeps no fixed k; set its sparsity with --set sae.{near}=...")
    if fields["k"] is int and k != int(k):
        raise ConfigError(f"`k` of `{arch}` must be a whole number; got {k}.")
    return [f"sae.k={int(k) if fields['k'] is int else k}"]


def _without_widths(sae: dict[str, Any]) -> dict[str, Any]:
    found = {k: v for k, v in sae.items() if k not in ("d_in", "d_out", "d_sae")}
    if isinstance(found.get("inner"), dict):
        found["inner"] = _without_widths(found["inner"])
    return found
