"""Check on load that the map of sites is true of this very model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saekit.core.errors import FormatError
from saekit.models.base import LanguageModel
from saekit.models.sites import EMBED, Site

N_TOKENS = 8
# Rounding of one sum of two activations, as a share of its norm.
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def check(model: LanguageModel) -> dict[str, Any]:
    """Check sites at the first, middle and last layer with two forward passes.

    Two things are proved: replacing every site by itself leaves the logits as they were;
    and in a batch whose row r has site r set to zero, shapes are as `width` says, each zero
    moves its own row's logits, ``resid_post`` of a layer is ``resid_pre`` of the next, and
    what attention and MLP add up to is the stream, also where one of them was set to zero.

    Returns:
        What was checked: ``{"sites": [names], "max_sum_error": share of the norm}``.

    Raises:
        FormatError: the map of sites is wrong; the message names the site.

    Cost:
        Two passes, of 8 and of 8 * (sites + 1) tokens.
    """
    sites = _sites(model)
    ids = torch.arange(N_TOKENS) * 7919 % min(model.vocab_size, 50_000)
    tokens = ids[None]  # [1, n_ctx]
    _check_identity(model, tokens, sites)
    rows = tokens.expand(len(sites) + 1, -1)
    found: dict[Site, Tensor] = {}
    zeroed = {site: row for row, site in enumerate(_zeroed(sites), start=1)}
    changes = {site: _zero_row(found, site, zeroed.get(site)) for site in sites}
    logits = model.logits(rows, changes)
    for site in sites:
        if site not in found:
            raise FormatError(f"{_where(model, site)} is never reached by a forward pass.")
        want = (*rows.shape, model.width(site))
        if found[site].shape != want:
            raise FormatError(
                f"{_where(model, site)} has shape {tuple(found[site].shape)}; expected {want}."
            )
    for site, row in zeroed.items():
        if torch.equal(logits[row], logits[0]):
            raise FormatError(f"{_where(model, site)} can be set to zero and no logit moves.")
    worst = _check_sums(model, found, zeroed)
    return {"sites": [str(s) for s in sites], "max_sum_error": worst}


def _sites(model: LanguageModel) -> list[Site]:
    last = model.n_layers - 1
    layers = {0, model.n_layers // 2, last}
    # The next layer's input is there to be compared with each layer's output.
    after = {i + 1 for i in layers if i < last}
    return [
        site for site in model.sites()
        if site == EMBED
        or site.layer in layers
        or (site.layer in after and site.point == "resid_pre")
    ]


def _zeroed(sites: list[Site]) -> list[Site]:
    return sites


def _check_identity(model: LanguageModel, tokens: Tensor, sites: list[Site]) -> None:
    plain = model.logits(tokens)
    if torch.equal(model.logits(tokens, {site: _same for site in sites}), plain):
        return
    for site in sites:
        if not torch.equal(model.logits(tokens, {site: _same}), plain):
            raise FormatError(f"{_where(model, site)} replaced by itself moves the logits.")
    raise FormatError(f"Sites of {model.name} replaced by themselves together move the logits.")


def _same(x: Tensor) -> Tensor:
    return x


def _zero_row(
    found: dict[Site, Tensor], site: Site, row: int | None
) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        new = x.clone()
        if row is not None and x.ndim == 3:
            new[row] = 0
        found[site] = new
        return new

    return change
