"""saekit's own files of an SAE: config.json, weights.safetensors, card.json."""

from pathlib import Path
from typing import NamedTuple

import torch

from saekit.core.errors import ConfigError, DataError, FormatError
from saekit.core.files import read_json, read_tensors, sha256_of, write_json, write_tensors
from saekit.hub.card import Card
from saekit.saes.base import SAE, SAEConfig

FORMAT, VERSION = "saekit", 1


class Loaded(NamedTuple):
    """An SAE and where it is from."""

    sae: SAE
    card: Card


def save(sae: SAE, card: Card, folder: Path) -> Path:
    """Write an SAE; `config.json` comes last, so that a folder with one is whole.

    Raises:
        DataError: a weight is not finite.
    """
    for name, weight in sae.state_dict().items():
        if not weight.isfinite().all():
            raise DataError(f"`{name}` has values that are not finite; the SAE was not saved.")
    write_tensors(folder / "weights.safetensors", sae.state_dict())
    write_json(folder / "card.json", card.to_dict())
    config = {
        "format": FORMAT,
        "version": VERSION,
        "sae": sae.cfg.to_dict(),
        "weights_sha256": sha256_of(folder / "weights.safetensors"),
    }
    write_json(folder / "config.json", config)
    return folder


def load(folder: Path | str, device: str = "cpu") -> Loaded:
    """Read an SAE that `save` wrote; `folder` may also be a run that holds one in `sae/`.

    Raises:
        FormatError: files are missing, damaged, or of another format.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists() and (folder / "sae" / "config.json").exists():
        folder = folder / "sae"
    if not folder.exists():
        raise FormatError(f"There is no folder {folder}. Give a run's folder or its `sae` folder.")
    raw = read_json(folder / "config.json")
    if raw.get("format") != FORMAT:
        raise FormatError(f"{folder / 'config.json'} is not of a {FORMAT} SAE.")
    if raw["version"] > VERSION:
        raise FormatError(
            f"{folder} is of format version {raw['version']}; this saekit reads up to {VERSION}. "
            f"Upgrade saekit."
        )
    weights = folder / "weights.safetensors"
    if not weights.exists() or sha256_of(weights) != raw["weights_sha256"]:
        raise FormatError(f"{weights} is missing or damaged: its SHA-256 is not the recorded one.")
    try:
        sae = SAEConfig.from_dict(raw["sae"]).build(torch.Generator().manual_seed(0))
        sae.load_state_dict(read_tensors(weights))
        card = Card.from_dict(read_json(folder / "card.json"))
    except (ConfigError, RuntimeError, KeyError, TypeError) as error:
        raise FormatError(f"{folder} does not hold what its config says: {error}") from error
    return Loaded(sae.eval().to(device), card)
