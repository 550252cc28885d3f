"""How alike the residual vectors of one token are at neighbouring layers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from saekit.activations.rules import FittedRule
from saekit.core.errors import ConfigError, DataError
from saekit.core.progress import Progress
from saekit.core.result import Table
from saekit.data.tokenise import TokenStream
from saekit.models.base import LanguageModel
from saekit.models.sites import Site
from saekit.studies.layers.lens import Lens


class _Moments:
    """Sums of some values of each layer, in float64."""

    def __init__(self, n: int):
        self.n, self.sum, self.square = 0, *torch.zeros(2, n, dtype=torch.float64)

    def add(self, values: Float[Tensor, "layers tokens"]) -> None:
        wide = values.double().cpu()
        self.n += wide.shape[1]
        self.sum += wide.sum(1)
        self.square += wide.square().sum(1)

    def columns(self, name: str) -> dict[str, list[float]]:
        """Return mean, unbiased variance, deviation and standard error."""
        mean = self.sum / self.n
        variance = ((self.square - self.n * mean.square()) / max(self.n - 1, 1)).clamp_min(0)
        std = variance.sqrt()
        found = {"mean": mean, "variance": variance, "std": std, "sem": std / math.sqrt(self.n)}
        return {f"{name}_{k}": v.tolist() for k, v in found.items()}


class StreamCosines(NamedTuple):
    """One row a pair of neighbouring layers, and one row a layer."""

    pairs: Table  # cosines with the mean vector of each layer taken off, and as they are
    norms: Table  # lengths of residual vectors, act units
    n_tokens: int  # that count at every layer


def adjacent_cosines(
    lm: LanguageModel,
    stream: TokenStream,
    rules: Mapping[str, FittedRule],
    sites: Sequence[Site],
    *,
    n_rows: int,
    lens: Lens | None = None,
    shown: bool = True,
) -> StreamCosines:
    """Return the cosines of residual vectors of one token at neighbouring layers.

    Two passes over the same rows: the first finds the mean vector of each layer, which is taken
    off before cosines are (vectors of a layer share a large part). Only tokens that count at
    every layer are looked at. Tokens stand in for independent units in the standard error,
    which they are not; it is what the source gives.

    Args:
        lm: the model.
        stream: the text.
        rules: which tokens count, by site.
        sites: at least two, in order.
        n_rows: rows of text.
        lens: a change of basis to look at vectors in.
        shown: show progress on stderr.

    Raises:
        ConfigError: fewer than two sites.
        DataError: no token counts at every layer.

    Source:
        Lawson et al. 2024, arXiv:2409.04185, figure 1; mlsae figures/resid_cos_sim.py.
        Differs: special and massive-norm tokens are left out.
    """
    if len(sites) < 2:
        raise ConfigError(f"Neighbours need at least two layers; got {len(sites)}.")
    bar = Progress("cosines", 2 * n_rows * stream.n_ctx, shown=shown)

    def batches() -> Iterator[Float[Tensor, "layers tokens width"]]:
        for rows in stream.rows(16, n_rows=n_rows):
            acts = lm.read(rows.tokens.to(lm.device), sites)
            keep = torch.stack([rules[str(s)].keep(rows.tokens, acts[s]) for s in sites]).all(0)
            lensed = (acts[s][keep].float() for s in sites)
            if lens is not None:
                lensed = (lens.apply(s, acts[s][keep]) for s in sites)
            yield torch.stack(list(lensed))
            bar.add(rows.tokens.numel())

    n, total = 0, torch.zeros(len(sites), lm.d_model, dtype=torch.float64, device=lm.device)
    for x in batches():
        n, total = n + x.shape[1], total + x.double().sum(1)
    if not n:
        raise DataError("No token counts at every layer; give more text.")
    mean = (total / n).float()[:, None]
    centred, raw, norms = _Moments(len(sites) - 1), _Moments(len(sites) - 1), _Moments(len(sites))
    for x in batches():
        norms.add(x.norm(dim=-1))
        for moments, values in ((raw, x), (centred, x - mean)):
            unit = normalize(values, dim=-1)
            moments.add((unit[1:] * unit[:-1]).sum(-1))
    bar.close()
    names = [str(s) for s in sites]
    pairs = {"site": names[:-1], "next": names[1:], "tokens": [n] * (len(names) - 1)}
    columns = pairs | centred.columns("cosine") | raw.columns("uncentred_cosine")
    lengths = {"site": names, "tokens": [n] * len(names)} | norms.columns("norm")
    return StreamCosines(Table(columns=columns), Table(columns=lengths), n)
