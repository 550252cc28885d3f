"""saekit's own files of an SAE: config.json, weights.safetensors, card.json.

A published folder also holds the layout of SAELens. Tensors that are the same in both are stored
once, in SAELens' file: config.json then says which, and weights.safetensors has the rest.

An SAE that several sites share, a row each, was trained on activations brought to one size by
site. Its weights are those of scaled activations, and scalings.safetensors holds the scalings;
`load` rewrites the weights for the raw activations of the site it is given. It reads every
format of `saekit.hub.formats`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saekit.core.border import inside, reading
from saekit.core.errors import ConfigError, DataError, FormatError
from saekit.core.files import read_object, read_tensors, sha256_of, write_json, write_tensors
from saekit.core.registry import missing_explained
from saekit.hub.card import Card
from saekit.hub.formats.base import FormatHints, Read, agree, built, filled, find, member
from saekit.hub.names import is_name
from saekit.hub.trained import TrainedSAE
from saekit.models.sites import UNKNOWN, parse_site
from saekit.saes.base import SAE, SAEConfig, Scaling

FORMAT, VERSION = "saekit", 1
SHARING = 2  # version of a folder some of whose weights lie in another library's file
SCALINGS = "scalings.safetensors"
SIDES = ("read", "write")


def save(sae: SAE, card: Card, folder: Path | str) -> Path:
    """Write an SAE; `config.json` comes last, so that a folder with one is whole.

    Raises:
        DataError: a weight is not finite.
    """
    return save_next_to(sae, card, Path(folder), None)


def save_next_to(sae: SAE, card: Card, folder: Path, theirs: Path | None) -> Path:
    """Write an SAE, but for weights that another library's file in its folder holds bit for bit.

    Args:
        sae: the weights.
        card: what they were made from.
        folder: where to.
        theirs: a safetensors file in that folder, of the same SAE; None: there is no other.

    Raises:
        DataError: a weight is not finite.
    """
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
    state, shared = sae.state_dict(), {}
    if theirs is not None:
        shared = _same(state, read_tensors(theirs))
        state = {name: tensor for name, tensor in state.items() if name not in shared}
    if state:
        write_tensors(folder / "weights.safetensors", state)
    write_json(folder / "card.json", card.to_dict())
    if card.scalings:
        write_tensors(folder / SCALINGS, _tensors(card.scalings))
    config = {"format": FORMAT, "version": VERSION, "sae": sae.cfg.to_dict()}
    if state:
        config["weights_sha256"] = sha256_of(folder / "weights.safetensors")
    if card.scalings:
        config["scalings_sha256"] = sha256_of(folder / SCALINGS)
    if theirs is not None and shared:
        config |= {
            "version": SHARING,
            "shared": {"file": theirs.name, "sha256": sha256_of(theirs), "tensors": shared},
        }
    write_json(folder / "config.json", config)
    return folder


def read(folder: Path) -> Read:
    """Return what `save` wrote, checked against its checksums.

    Raises:
        FormatError: files are missing, damaged, or of another format.
    """
    raw = read_object(folder / "config.json")
    if raw.get("format") != FORMAT:
        raise FormatError(
            f"{folder / 'config.json'} is not of a {FORMAT} SAE. Name the folder of a run or of an "
            f"SAE; for files of another library say the format: --from."
        )
    if raw["version"] > SHARING:
        raise FormatError(
            f"{folder} is of format version {raw['version']}; this saekit reads up to {SHARING}. "
            f"Upgrade saekit."
        )
    state = _shared(folder, raw)
    if "weights_sha256" in raw or not state:
        own = _whole(folder / "weights.safetensors", raw["weights_sha256"])
        state |= read_tensors(own)
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
    return Read(cfg, state, card)


def load(
    folder: Path | str,
    device: str = "cpu",
    *,
    site: str | None = None,
    scaled: bool = False,
    format: str | None = None,
    hints: FormatHints | None = None,
    catalogue: Path | str | None = None,
) -> TrainedSAE:
    """Read an SAE that saekit or another library wrote; `folder` may also be a run's.

    Args:
        folder: where it is; also a file, where a layout keeps an SAE in each; or the name of a
            published one, as ``saelens:RELEASE/ID`` or ``hf:OWNER/REPO/PATH`` (docs/published.md).
        device: where it goes.
        site: whose raw activations it will be given; needed where several sites of different
            sizes share it or the folder holds several SAEs, and otherwise one of those it reads,
            or the one where its files do not say.
        scaled: of a shared SAE, the weights as trained: for activations that
            ``card.scalings[site][0].apply`` has scaled.
        format: the format of the files (`saekit list formats`), where they fit several.
        hints: what its files leave out, as the language model.
        catalogue: published SAEs of your own, a file in the shape of SAELens' registry.

    Raises:
        UnknownNameError: there is no published SAE of that name.
        ResourceError: it cannot be fetched, and is not in the local cache.
        FormatError: files are missing, damaged, or of no format or several.
        ConfigError: a site is needed, or it does not read this one; the files leave open what
            `hints` could say, or contradict it.
    """
    if is_name(folder):
        from saekit.hub.published import load_published

        return load_published(
            str(folder),
            device,
            site=site,
            scaled=scaled,
            format=format,
            hints=hints,
            catalogue=catalogue,
        )
    folder = named = Path(folder)
    if not folder.exists():
        raise FormatError(
            f"There is no folder {folder}. Give the folder that holds the files, or a run's. A "
            f"published SAE is named as saelens:RELEASE/ID or hf:OWNER/REPO/PATH."
        )
    if not (folder / "config.json").exists() and (folder / "sae" / "config.json").exists():
        folder = folder / "sae"
    layout, said = find(folder, format), hints or FormatHints()
    with reading(folder, f"an SAE of {layout.name}"):
        place = member(layout, folder, site or next(iter(said.read), None))
        found = layout.read(place, said)
        agree(found, said, place)
        sae, card = built(found, place), found.card
    if site is not None and card.pair.reads == [UNKNOWN]:
        card = filled(card, FormatHints(read=(str(parse_site(site)),)))
    if site is not None or (card.scalings and not scaled):
        site = _checked(site, card, folder)
    if card.scalings and not scaled:
        sae.rescale(*card.scalings[str(site)])
    return TrainedSAE(sae.eval().to(device), replace(card, at=site), named)


def _same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, str]:
    """Return the names of tensors that another file holds bit for bit, with its names of them."""

    def bits(tensor: Tensor) -> Tensor:
        return tensor.detach().cpu().contiguous().view(torch.uint8)  # 0.0 and -0.0 are equal

    found: dict[str, str] = {}
    for name, tensor in ours.items():
        for other, value in theirs.items():
            alike = tensor.ndim > 0 and tensor.dtype == value.dtype and tensor.shape == value.shape
            free = other not in found.values()  # no two weights lie in one place
            if alike and free and torch.equal(bits(tensor), bits(value)):
                found[name] = other
                break
    return found


def _shared(folder: Path, raw: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights that lie in another library's file in the same folder."""
    if (shared := raw.get("shared")) is None:
        return {}
    file = _whole(inside(folder, shared["file"]), shared["sha256"])
    theirs = read_tensors(file)
    if missing := [other for other in shared["tensors"].values() if other not in theirs]:
        raise FormatError(
            f"{file} lacks `{missing[0]}`, which config.json names. Put the file back that the SAE "
            f"was saved next to."
        )
    return {name: theirs[other] for name, other in shared["tensors"].items()}


def _not_finite(sae: SAE) -> str | None:
    """Return the name of a weight or buffer with NaN or infinity in it."""
    return next((n for n, w in sae.state_dict().items() if not w.isfinite().all()), None)


def _whole(file: Path, sha256: str) -> Path:
    if not file.exists() or sha256_of(file) != sha256:
        raise FormatError(
            f"{file} is missing or damaged: its SHA-256 is not the recorded one. Copy or fetch the "
            f"folder again."
        )
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
