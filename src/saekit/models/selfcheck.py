"""Check on load that the map of sites is true of this very model."""

from typing import Any

import torch
from torch import Tensor

from saekit.core.errors import FormatError, SaekitError
from saekit.models.base import Replace
from saekit.models.hf import HFModel
from saekit.models.sites import EMBED, Site

N_TOKENS = 6
# Rounding allowed in sums of activations, as a share of the norm of what is added.
_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


def check(model: HFModel) -> dict[str, Any]:
    """Check the sites of the first, middle and last layer, and of a layer of each kind.

    Replacing every site by itself must leave the logits as they were. Then a batch of equal
    rows is run in which site r is set to zero in row r. Shapes must be as `width` says; each
    zero must move the logits of its row; what attention and MLP add to the stream must sum to
    the stream, also where a part of it was set to zero; ``resid_post`` of a layer must be
    ``resid_pre`` of the next; the output maps of attention and MLP must make what these add of
    ``z`` and ``mlp_acts``; and ``mlp_normalized`` must be the stream, normalised. In the last row
    the last token's embedding is zero, which may move no logit before it.

    Returns:
        ``{"sites": names of the sites checked, "max_sum_error": share of the norm}``.

    Raises:
        FormatError: the map of sites is wrong; the message names the site.

    Cost:
        Three passes: two of 6 tokens, one of 6 * (sites + 2).
    """
    try:
        return _checked(model)
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        if isinstance(error, SaekitError | torch.OutOfMemoryError):
            raise
        raise FormatError(
            f"{model.name} ({model.family}) cannot be checked, for it does not run: {error}. It "
            f"takes rows of tokens otherwise than other language models of transformers."
        ) from error


def _checked(model: HFModel) -> dict[str, Any]:
    sites = _sites(model)
    tokens = (torch.arange(N_TOKENS) * 7919 % model.vocab_size)[None]  # [1, n_ctx]
    _check_identity(model, tokens, [site for site in sites if model.tap(site).listed])
    row_of = {site: row for row, site in enumerate(sites, start=1)}
    seen: dict[Site, Tensor] = {}
    changes = {site: _zero_row(seen, site, row) for site, row in row_of.items()}
    rows = tokens.expand(len(sites) + 2, -1)
    logits = model._logits(rows, changes)
    for site in sites:
        width = model.width(site) if model.tap(site).listed else model.d_model
        if site not in seen:
            raise FormatError(f"{_where(model, site)} is not reached by a forward pass.")
        if seen[site].shape != (*rows.shape, width):
            raise FormatError(
                f"{_where(model, site)} has shape {tuple(seen[site].shape)}; expected "
                f"{(*rows.shape, width)}."
            )
    _check_moved(model, logits, row_of)
    worst = 0.0
    for layer in sorted(_layers(model)):
        worst = max(worst, _check_sums(model, seen, row_of, layer))
        _check_maps(model, seen, row_of, layer)
    return {"sites": [str(s) for s in sites if model.tap(s).listed], "max_sum_error": worst}


def _layers(model: HFModel) -> set[int]:
    kinds: dict[Any, int] = {}
    for i, points in enumerate(model.layers):
        kinds.setdefault(tuple(points.items()), i)
    return {0, model.n_layers // 2, model.n_layers - 1, *kinds.values()}


def _sites(model: HFModel) -> list[Site]:
    """Return the sites to check, in the order of a pass, those too that are known for sums."""
    layers = _layers(model)
    found = [EMBED]
    for i, points in enumerate(model.layers):
        # Of the layer after one that is checked its input, to be compared with that one's output.
        wanted = points if i in layers else ["resid_pre"] if i - 1 in layers else []
        found += [Site(i, point) for point in wanted]
    return found


def _check_identity(model: HFModel, tokens: Tensor, sites: list[Site]) -> None:
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


def _check_moved(model: HFModel, logits: Tensor, row_of: dict[Site, int]) -> None:
    least = _TOLERANCE[model.dtype] * logits[0].float().std()
    for site, row in row_of.items():
        if (logits[row] - logits[0]).abs().max() <= least:
            raise FormatError(f"{_where(model, site)} can be set to zero and no logit moves.")
    if (logits[-1] - logits[0])[:-1].abs().max() > 10 * least:
        raise FormatError(
            f"{model.name} ({model.family}) is no causal language model: its logits depend on "
            f"tokens that come later."
        )


def _check_sums(
    model: HFModel, seen: dict[Site, Tensor], row_of: dict[Site, int], layer: int
) -> float:
    """Return the largest error of the sums of one block, as a share of the norm."""
    points = model.layers[layer]
    added = [point for point in ("attn_out", "mlp_out") if point in points]
    sums = {"resid_post": ["resid_pre", *added]} if added else {}
    if "resid_mid" in points:
        sums = {"resid_mid": ["resid_pre", "attn_out"]}
        if "mlp_out" in points:
            sums["resid_post"] = ["resid_mid", "mlp_out"]
    claims = [
        (Site(layer, total), [Site(layer, part) for part in parts]) for total, parts in sums.items()
    ]
    if layer + 1 < model.n_layers:
        claims.append((Site(layer + 1, "resid_pre"), [Site(layer, "resid_post")]))
    worst = 0.0
    for total, parts in claims:
        terms = torch.stack([seen[part].float() * model.tap(part).scale for part in parts])
        share = _share(seen[total].float() - terms.sum(0), terms.norm(dim=-1).sum(0))
        share[row_of[total]] = 0  # in this row the total itself was set to zero
        if not share.max() <= _TOLERANCE[model.dtype]:
            raise FormatError(
                f"{_where(model, total)} is not {' + '.join(map(str, parts))}: they differ by "
                f"{share.max():.2g} of their norm."
            )
        worst = max(worst, float(share.max()))
    return worst


def _check_maps(
    model: HFModel, seen: dict[Site, Tensor], row_of: dict[Site, int], layer: int
) -> None:
    """Check what is inside attention and MLP against what they give and take."""
    points = model.layers[layer]
    least = max(_TOLERANCE[model.dtype], _TOLERANCE[torch.float32])
    for inside, gives in (("z", "attn_out"), ("mlp_acts", "mlp_out")):
        of, whole = points.get(inside), points.get(gives)
        if of is None or whole is None or not f"{of.module}.".startswith(f"{whole.module}."):
            continue  # a norm is between them, so the sums prove them together
        site, total = Site(layer, inside), Site(layer, gives)
        with torch.no_grad():
            made = model.module_at(site)(seen[site]).float()
        share = _share(seen[total].float() - made, made.norm(dim=-1))
        share[row_of[total]] = 0
        if not share.max() <= least:
            raise FormatError(
                f"{_where(model, site)} does not make {total} in `{of.module}`: they differ by "
                f"{share.max():.2g} of their norm."
            )
    if "mlp_normalized" in points:
        site = Site(layer, "mlp_normalized")
        stream = seen[Site(layer, "resid_mid" if "resid_mid" in points else "resid_pre")][0].float()
        says, got = model.normalised(site, stream), seen[site][0].float()
        # Directions alone: of a short row the norm's epsilon is a part.
        share = _share(
            says / says.norm(dim=-1, keepdim=True) - got / got.norm(dim=-1, keepdim=True), 1.0
        )
        if not share.max() <= 10 * least or got.square().mean(-1).max() > 1 + 10 * least:
            raise FormatError(
                f"{_where(model, site)} is not the stream before the MLP, normalised: they differ "
                f"by {share.max():.2g}."
            )


def _share(error: Tensor, scale: Tensor | float) -> Tensor:
    """Return errors as a share of a norm, ``[row, n_ctx]``."""
    return error.norm(dim=-1) / torch.as_tensor(scale).clamp_min(1e-30)


def _same(x: Tensor) -> Tensor:
    return x


def _zero_row(seen: dict[Site, Tensor], site: Site, row: int) -> Replace:
    def change(x: Tensor) -> Tensor:
        new = x.clone()
        if len(new) > row:
            new[row] = 0
            if site == EMBED:
                new[-1, -1] = 0
        seen[site] = new
        return new

    return change


def _where(model: HFModel, site: Site) -> str:
    return f"The map of sites of {model.family} is wrong for {model.name}: `{site}`"
