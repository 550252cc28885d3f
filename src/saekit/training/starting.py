"""Starting: training that begins from the weights of an SAE, its own run's or a published one's."""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saekit.core.errors import ConfigError, FormatError
from saekit.core.processes import Mesh
from saekit.hub import native
from saekit.hub.trained import TrainedSAE, weights_digest
from saekit.models.sites import UNKNOWN
from saekit.saes.base import SAE, SAEConfig, Scaling
from saekit.training.fit import Fit
from saekit.training.scaling import Normalise, Scalings

START = "start"  # the folder, in that of a run, of the SAE that it began from
UNIT = 1e-3  # decoder rows are of length 1 to this


def started(start: TrainedSAE | Path | str) -> TrainedSAE:
    """Return the SAE that training is to begin from.

    Args:
        start: the SAE, or the folder of a run or of an SAE in any format.

    Raises:
        ConfigError: several sites share it, each with a scaling of its own.
        FormatError: there is no SAE.
    """
    found = start if isinstance(start, TrainedSAE) else native.load(start, scaled=True)
    if found.card.scalings:
        raise ConfigError(
            f"{found.folder or found!r} is shared by {found.card.pair.label}, each with a scaling "
            f"of its own; training begins from an SAE of raw activations. Begin from another."
        )
    return found


def settings_of(
    start: TrainedSAE, normalise: Normalise, *, read: Sequence[str] = (), write: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what a run that begins from an SAE takes of it, for `as_run`.

    Args:
        start: the SAE.
        normalise: that of the run.
        read: other sites than its own, as of another model; empty: its own.
        write: what is predicted there.

    Raises:
        ConfigError: its files do not say the site, and nobody did.
    """
    card = start.card
    pair = card.pair.to_dict()
    if read and pair["write"] and not write:
        raise ConfigError(
            f"The SAE to begin from predicts {', '.join(pair['write'])} from what it reads. Name "
            f"what to predict next to what to read: target=, on a command line --target."
        )
    pair |= {"read": [*read] or pair["read"], "write": [*write] or pair["write"]}
    if str(UNKNOWN) in pair["read"]:
        raise ConfigError(
            "The files of the SAE to begin from do not say its site. Name it: site=, on a command "
            "line --site."
        )
    sae = starting_config(start.sae, normalise, is_autoencoder=not pair["write"])
    rows = ({"n_ctx": card.n_ctx} if card.n_ctx else {}) | (
        {} if card.bos is None else {"bos": card.bos}
    )
    return {"pair": pair, "sae": sae.to_dict(), "start_from": weights_digest(start.sae), **rows}


def starting_config(start: SAE, normalise: Normalise, *, is_autoencoder: bool) -> SAEConfig:
    """Return the architecture and sizes with which training goes on from an SAE.

    They are its own, but for `decoder`: "unit" would bring decoder rows to length 1 at the first
    step, which changes the SAE where scaled rows are of another length. There it is "free".
    """
    cfg = start.cfg
    inside = getattr(cfg, "inner", None)
    frame = inside if isinstance(inside, SAEConfig) else cfg
    if getattr(frame, "decoder", None) != "unit":
        return cfg
    lengths = start.directions().norm(dim=-1)
    if is_autoencoder and normalise != "whiten" and bool(((lengths - 1).abs() < UNIT).all()):
        return cfg
    free = type(frame).from_dict(frame.to_dict() | {"decoder": "free"})
    return free if frame is cfg else type(cfg).from_dict(cfg.to_dict() | {"inner": free.to_dict()})


@torch.no_grad()
def scaled_weights(start: SAE, cfg: SAEConfig, scalings: Scalings) -> dict[str, Tensor]:
    """Return the weights of an SAE of raw activations as they are for scaled ones.

    The exact reverse of what ends training: `SAE.rescale` with the reverse scalings.

    Args:
        start: takes raw activations.
        cfg: that of the training.
        scalings: of the training.

    Raises:
        ConfigError: the architecture cannot take the scaling, or has other sizes.
    """
    sizes = ("name", "d_in", "d_out", "d_sae")
    if any(getattr(start.cfg, size) != getattr(cfg, size) for size in sizes):
        raise ConfigError(
            f"Architecture and sizes are those of the SAE that training begins from, {start.cfg}; "
            f"got {cfg}. Leave them out."
        )
    twin = copy.deepcopy(start).cpu()
    x = reverse(scalings.x)
    twin.rescale(x, x if scalings.y is scalings.x else reverse(scalings.y))
    return dict(twin.state_dict())


def reverse(scaling: Scaling) -> Scaling:
    """Return the scaling that takes scaled activations to raw ones.

    raw = scaled @ inverse(matrix) / (scale * site_scale) + mean
        = ((scaled - mean') @ matrix') * scale' * site_scale'
    """
    mean = scaling.mean.double()
    moved = mean if scaling.matrix is None else mean @ scaling.matrix.double()
    moved = moved * scaling.scale
    site = None if scaling.site_scale is None else scaling.site_scale.double()
    back = None if scaling.matrix is None else torch.linalg.inv(scaling.matrix.double()).float()
    return Scaling(
        mean=-(moved if site is None else moved * site).float(),
        scale=1 / scaling.scale,
        matrix=back,
        site_scale=None if site is None else (1 / site).float(),
    )


def check_start(fit: Fit, *, given: bool, mesh: Mesh) -> None:
    """Refuse a training whose weights are to be those of an SAE that is not there.

    Raises:
        ConfigError: there is none, there is one that the settings do not name, or several
            processes would share its latents.
    """
    if given != (fit.start_from is not None):
        raise ConfigError(
            f"`start_from` names weights by their SHA-256 and is set with the SAE itself: "
            f"--start-from SAE, or start_from= in Python; got start_from={fit.start_from} "
            f"{'beside' if given else 'without'} an SAE."
        )
    if given and mesh.latent.size > 1:
        raise ConfigError(
            f"Training that begins from an SAE holds all latents in each process; got "
            f"latent_shards={mesh.latent.size}. Leave it out."
        )


def keep_start(start: TrainedSAE, out: Path) -> None:
    """Leave the SAE that a run begins from in its folder, so that the run can be resumed."""
    about = {"opened_from": None if start.folder is None else str(start.folder.absolute())}
    card = dataclasses.replace(start.card, provenance=start.card.provenance | about)
    native.save(start.sae, card, out / START)


def kept_start(fit: Fit, out: Path) -> TrainedSAE | None:
    """Return the SAE that the run in a folder began from; None where it made new weights.

    Raises:
        FormatError: it is gone, or is another one.
    """
    if fit.start_from is None:
        return None
    found = native.load(out / START)
    if weights_digest(found.sae) != fit.start_from:
        raise FormatError(
            f"{out / START} does not hold the SAE that the run began from. Put it back, or train "
            f"anew."
        )
    return found


def about_start(start: TrainedSAE, fit: Fit) -> dict[str, Any]:
    """Return what a card says of the SAE that training began from, JSON-ready."""
    card = start.card
    return {
        "weights_sha256": fit.start_from,
        "folder": card.provenance.get("opened_from", start.folder and str(start.folder)),
        "model": card.model.get("name"),
        "site": card.pair.label,
        "tokens": card.tokens,
    }
