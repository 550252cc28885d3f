"""saekit's own files of an SAE: config.json, weights.safetensors, card.json.

An SAE that several sites share, a row each, was trained on activations brought to one size by
site. Its weights are those of scaled activations, and scalings.safetensors holds the scalings;
`load` rewrites the weights for the raw activations of the site it is given. It reads every
format of `saekit.hub.formats`.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from saekit.core.border import reading
from saekit.core.errors import ConfigError, DataError, FormatError
from saekit.core.files import read_object, read_tensors, sha256_of, write_json, write_tensors
from saekit.core.registry import missing_explained
from saekit.hub.card import Card
from saekit.hub.formats.base import FormatHints, Read, agree, built, filled, find
from saekit.hub.trained import TrainedSAE
from saekit.models.sites import UNKNOWN, parse_site
from saekit.saes.base import SAE, SAEConfig, Scaling

FORMAT, VERSION = "saekit", 1
SCALINGS = "scalings.safetensors"
SIDES = ("read", "write")


def save(sae: SAE, card: Card, folder: Path | str) -> Path:
    """Write an SAE; `config.json` comes last, so that a folder with one is whole.

    Raises:
        DataError: a weight is not finite.
    """
    folder = Path(folder)
    if card.scalings and card.at is not None:
        raise ConfigError(
            f"These weights are those for {card.at} alone, of an SAE that several sites share. "
            f"Saved with the scalings of all, they would be scaled twice. Load it with scaled=True "
            f"to save all of it."
        )
    if (folder / "run.json").exists() or (folder / "fit.json").exists():
        raise ConfigError(
            f"{folder} holds a run, which has an SAE of its own. Choose another folder to save in."
        )
    if name := _not_finite(sae):
        raise DataError(f"`{name}` has values that are not finite; the SAE was not saved.")
    write_tensors(folder / "weights.safetensors", sae.state_dict())
    write_json(folder / "card.json", card.to_dict())
    if card.scalings:
        write_tensors(folder / SCALINGS, _tensors(card.scalings))
    config = {
        "format": FORMAT,
        "version": VERSION,
        "sae": sae.cfg.to_dict(),
        "weights_sha256": sha256_of(folder / "weights.safetensors"),
    }
    if card.scalings:
        config["scalings_sha256"] = sha256_of(folder / SCALINGS)
    write_json(folder / "config.json", config)
    return folder


def read(folder: Path) -> Read:
    """Return what `save` wrote, checked against its checksums.

    Raises:
        FormatError: files are missing, damaged, or of another format.
    """
    raw = read_object(folder / "config.json")
    if raw.get("format") != FORMAT:
        raise FormatError(f"{folder / 'config.json'} is not of a {FORMAT} SAE.")
    if raw["version"] > VERSION:
        raise FormatError(
            f"{folder} is of format version {raw['version']}; this saekit reads up to {VERSION}. "
            f"Upgrade saekit."
        )
    weights = _whole(folder / "weights.safetensors", raw["weights_sha256"])
    try:
        card = Card.from_dict(read_object(folder / "card.json"))
        with missing_explained(card.provenance.get("parts")):
            cfg = SAEConfig.from_dict(raw["sae"])
        if "scalings_sha256" in raw:
            tensors = read_tensors(_whole(folder / SCALINGS, raw["scalings_sha256"]))
            card = replace(card, scalings=_scalings(tensors))
    except (ConfigError, KeyError, TypeError) as error:
        raise FormatError(f"{folder} does not hold what its config says: {error}") from error
    if lacking := card.lacking_rules:
        note = (
            f"made by an earlier version, whose training did not look at norms at "
            f"{', '.join(map(str, lacking))}: tokens of massive norm there were trained on"
        )
        notes = list(dict.fromkeys([*card.provenance.get("notes", []), note]))
        card = replace(card, provenance=card.provenance | {"notes": notes})
    return Read(cfg, read_tensors(weights), card)


def load(
    folder: Path | str,
    device: str = "cpu",
    *,
    site: str | None = None,
    scaled: bool = False,
    format: str | None = None,
    hints: FormatHints | None = None,
) -> TrainedSAE:
    """Read an SAE that saekit or another library wrote; `folder` may also be a run's.

    Args:
        folder: where it is.
        device: where it goes.
        site: whose raw activations it will be given; needed where several sites of different
            sizes share it, and otherwise one of those it reads, or the one where its files do
            not say.
        scaled: of a shared SAE, the weights as trained: for activations that
            ``card.scalings[site][0].apply`` has scaled.
        format: the format of the files (`saekit list formats`), where they fit several.
        hints: what its files leave out, as the language model.

    Raises:
        FormatError: files are missing, damaged, or of no format or several.
        ConfigError: a site is needed, or it does not read this one; the files leave open what
            `hints` could say, or contradict it.
    """
    folder = named = Path(folder)
    if not (folder / "config.json").exists() and (folder / "sae" / "config.json").exists():
        folder = folder / "sae"
    layout, said = find(folder, format), hints or FormatHints()
    with reading(folder, f"an SAE of {layout.name}"):
        found = layout.read(folder, said)
        agree(found, said, folder)
        sae, card = built(found, folder), found.card
    if site is not None and card.pair.reads == [UNKNOWN]:
        card = filled(card, FormatHints(read=(str(parse_site(site)),)))
    if site is not None or (card.scalings and not scaled):
        site = _checked(site, card, folder)
    if card.scalings and not scaled:
        sae.rescale(*card.scalings[str(site)])
    return TrainedSAE(sae.eval().to(device), replace(card, at=site), named)


def _not_finite(sae: SAE) -> str | None:
    """Return the name of a weight or buffer with NaN or infinity in it."""
    return next((n for n, w in sae.state_dict().items() if not w.isfinite().all()), None)


def _whole(file: Path, sha256: str) -> Path:
    if not file.exists() or sha256_of(file) != sha256:
        raise FormatError(f"{file} is missing or damaged: its SHA-256 is not the recorded one.")
    return file


def _checked(site: str | None, card: Card, folder: Path) -> str:
    reads = [str(s) for s in card.pair.reads]
    found = None if site is None else str(parse_site(site))
    if found not in reads:
        why = "each with a size of its own" if card.scalings else "and no other"
        raise ConfigError(
            f"The SAE in {folder} reads {', '.join(reads)}, {why}; got {site or 'no site'}. Name "
            f"the one whose activations it will be given: site=, on a command line --site."
        )
    return str(found)


def _tensors(scalings: dict[str, tuple[Scaling, Scaling]]) -> dict[str, Tensor]:
    found = {}
    for site, both in scalings.items():
        for side, scaling in zip(SIDES, both if both[0] is not both[1] else both[:1], strict=False):
            found[f"{site}/{side}/mean"] = scaling.mean
            found[f"{site}/{side}/scale"] = torch.tensor(scaling.scale, dtype=torch.float64)
            if scaling.matrix is not None:
                found[f"{site}/{side}/matrix"] = scaling.matrix
    return found


def _scalings(tensors: dict[str, Tensor]) -> dict[str, tuple[Scaling, Scaling]]:
    def one(start: str) -> Scaling:
        mean, scale = tensors[f"{start}/mean"], float(tensors[f"{start}/scale"])
        return Scaling(mean, scale, tensors.get(f"{start}/matrix"))

    found = {}
    for site in dict.fromkeys(name.split("/")[0] for name in tensors):
        read = one(f"{site}/{SIDES[0]}")
        target = f"{site}/{SIDES[1]}"  # left out where it is what is read
        found[site] = (read, one(target) if f"{target}/mean" in tensors else read)
    return found
