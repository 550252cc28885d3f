"""Traces: a latent's activation on the tokens around its peaks."""

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.activations.latents import LatentStore
from saekit.activations.text_axis import pieces
from saekit.analysis.document_peaks import DocPeaks
from saekit.core.errors import ConfigError


def traces(store: LatentStore, peaks: DocPeaks, radius: int = 64) -> Float[Tensor, "m window"]:
    """Return f(peak - radius .. peak + radius) / f(peak) of each peak.

    The centre is 1, and negative is where the latent has the other sign. A token outside the
    document, or one that the token rule left out, so that its activation is not known, is NaN; a
    token on which the latent is off is 0.

    Args:
        store: where the peaks are from.
        peaks: from `DocumentPeaks.peaks`.
        radius: tokens to each side, at least 1; the window is ``2 * radius + 1``.

    Raises:
        ConfigError: `radius` is below 1.
    """
    if radius < 1:
        raise ConfigError(f"`radius` must be at least 1 token; got {radius}.")
    place = peaks.place[:, None] + torch.arange(-radius, radius + 1)  # [m, window]
    out = torch.full(place.shape, torch.nan)
    for piece in pieces(store):
        n = len(piece.doc)
        row, column = ((place >= piece.first) & (place < piece.first + n)).nonzero(as_tuple=True)
        at = place[row, column] - piece.first
        known = piece.kept[at] & (piece.stretch[at] == peaks.stretch[row])
        row, column, at = row[known], column[known], at[known]
        out[row, column] = 0.0
        if not len(piece.value):
            continue
        keys = piece.latent * n + piece.at  # sorted: by latent, then by place
        wanted = peaks.latent[row] * n + at
        spot = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        there = keys[spot] == wanted
        out[row[there], column[there]] = piece.value[spot[there]]
    return out / peaks.value[:, None]


def mean_trace(store: LatentStore, peaks: DocPeaks, radius: int = 64) -> list[float]:
    """Return the mean of the traces of some peaks, by place; of none, nothing.

    A token that is not known at a peak is left out there; see `traces`.
    """
    return traces(store, peaks, radius).nanmean(0).tolist() if len(peaks.latent) else []
