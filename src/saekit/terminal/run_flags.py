"""Flags of the command line over a run to start from."""

from typing import Any

from saekit.core.errors import ConfigError
from saekit.training.building import width_ratio

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
        raw["latents_per_width"] = width_ratio(raw["sae"])
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


def _without_widths(sae: dict[str, Any]) -> dict[str, Any]:
    found = {k: v for k, v in sae.items() if k not in ("d_in", "d_out", "d_sae")}
    if isinstance(found.get("inner"), dict):
        found["inner"] = _without_widths(found["inner"])
    return found
