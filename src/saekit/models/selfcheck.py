"""Check on load that the map of sites is true of this very model."""

from typing import Any

import torch
from torch import Tensor

from saekit.core.errors import FormatError
from saekit.models.base import LanguageModel, Replace
from saekit.models.sites import EMBED, Site

N_TOKENS = 6
# Rounding allowed in sums of activations, as a share of the norm of what is added.
_TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 4e-3,
    torch.bfloat16: 2e-2,
}


def check(model: LanguageModel) -> dict[str, Any]:
    """Check the sites of the first, middle and last layer.

    Replacing every site by itself must leave the logits as they were. Then a batch of equal
    rows is run in which site r is set to zero in row r. Shapes must be as `width` says; each
    zero must move the logits of its row; what attention and MLP add to the stream must sum to
    the stream, also where a part of it was set to zero; and ``resid_post`` of a layer must be
    ``resid_pre`` of the next.

    Returns:
        ``{"sites": names of the sites checked, "max_sum_error": share of the norm}``.

    Raises:
        FormatError: the map of sites is wrong; the message names the site.

    Cost:
        Three passes: two of 6 tokens, one of 6 * (sites + 1).
    """
    sites = _sites(model)
    tokens = (torch.arange(N_TOKENS) * 7919 % model.vocab_size)[None]  # [1, n_ctx]
    _check_identity(model, tokens, sites)
    row_of = {site: row for row, site in enumerate(sites, start=1)}
    seen: dict[Site, Tensor] = {}
    changes = {site: _zero_row(seen, site, row) for site, row in row_of.items()}
    rows = tokens.expand(len(sites) + 1, -1)
    logits = model.logits(rows, changes)
    for site in sites:
        want = (*rows.shape, model.width(site))
        if site not in seen:
            raise FormatError(f"{_where(model, site)} is not reached by a forward pass.")
        if seen[site].shape != want:
            raise FormatError(
                f"{_where(model, site)} has shape {tuple(seen[site].shape)}; expected {want}."
            )
    _check_moved(model, logits, row_of)
    worst = max(
        [_check_sums(model, seen, row_of, layer) for layer in sorted(_layers(model))]
    )
    return {"sites": [str(site) for site in sites], "max_sum_error": worst}


def _layers(model: LanguageModel) -> set[int]:
    return {0, model.n_layers // 2, model.n_layers - 1}


def _sites(model: LanguageModel) -> list[Site]:
    layers = _layers(model)
    return [
        site for site in model.sites()
        if site == EMBED
        or site.layer in layers
        # The next layer's input, to be compared with a checked layer's output.
        or (site.layer is not None and site.layer - 1 in layers and site.point == "resid_pre")
    ]


def _check_identity(model: LanguageModel, tokens: Tensor, sites: list[Site]) -> None:
    plain = model.logits(tokens)
    if not plain.isfinite().all():
        raise FormatError(
            f"{model.name} gives logits that are not finite in {model.dtype}. The weights are "
            f"damaged, or overflow in this dtype: try dtype float32."
        )
    if torch.equal(model.logits(tokens, {site: _same for site in sites}), plain):
        return
    for site in sites:
        if not torch.equal(model.logits(tokens, {site: _same}), plain):
            raise FormatError(f"{_where(model, site)}, replaced by itself, moves the logits.")
    raise FormatError(f"Sites of {model.name}, all replaced by themselves, move the logits.")


def _check_moved(model: LanguageModel, logits: Tensor, row_of: dict[Site, int]) -> None:
    least = _TOLERANCE[model.dtype] * logits[0].float().std()
    for site, row in row_of.items():
        if (logits[row] - logits[0]).abs().max() <= least:
            raise FormatError(f"{_where(model, site)} can be set to zero and no logit moves.")


def _check_sums(
    model: LanguageModel, seen: dict[Site, Tensor], row_of: dict[Site, int], layer: int
) -> float:
    """Return the largest error of the sums of one block, as a share of the norm."""
    sums = {"resid_post": ["resid_pre", "attn_out", "mlp_out"]}
    if Site(layer, "resid_mid") in seen:
        sums = {"resid_mid": ["resid_pre", "attn_out"], "resid_post": ["resid_mid", "mlp_out"]}
    claims = [
        (Site(layer, total), [Site(layer, part) for part in parts])
        for total, parts in sums.items()
    ]
    if layer + 1 < model.n_layers:
        claims.append((Site(layer + 1, "resid_pre"), [Site(layer, "resid_post")]))
    worst = 0.0
    for total, parts in claims:
        terms = [seen[part].float() for part in parts]
        error = (seen[total].float() - torch.stack(terms).sum(0)).norm(dim=-1)
        scale = torch.stack(terms).norm(dim=-1).sum(0)
        share = error / scale.clamp_min(1e-30)  # [row, n_ctx]
        share[row_of[total]] = 0  # in this row the total itself was set to zero
        if not share.max() <= _TOLERANCE[model.dtype]:
            raise FormatError(
                f"{_where(model, total)} is not {' + '.join(map(str, parts))}: they differ by "
                f"{share.max():.2g} of their norm."
            )
        worst = max(worst, float(share.max()))
    return worst


def _same(x: Tensor) -> Tensor:
    return x


def _zero_row(seen: dict[Site, Tensor], site: Site, row: int) -> Replace:
    def change(x: Tensor) -> Tensor:
        new = x.clone()
        if len(new) > row:
            new[row] = 0
        seen[site] = new
        return new

    return change


def _where(model: LanguageModel, site: Site) -> str:
    return f"The map of sites of {model.family} is wrong for {model.name}: `{site}`"
