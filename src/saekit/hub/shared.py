"""SharedSAE: one SAE at several sites, as it was trained, and what brings each site to it."""

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saekit.activations.rules import FittedRule
from saekit.core.codes import Codes
from saekit.core.errors import ConfigError, ShapeError
from saekit.hub.card import Card
from saekit.models.base import LanguageModel
from saekit.models.sites import Site, parse_site
from saekit.saes._wrapped import WrappedConfig
from saekit.saes.base import SAE, Loss, Scaling, Step
from saekit.saes.standardised import StandardisedSAE


class SiteCodes(NamedTuple):
    """Codes of activations of one site, and how strong each is in units all sites share."""

    codes: Codes  # as the SAE gives them: `SharedSAE.predict` takes these
    strengths: Float[Tensor, "nnz"]  # at least 0, in the units the SAE was trained in


class SharedSAE:
    """An SAE that several sites share, a row each.

    One copy of the weights serves every site. What a latent gives at two layers can only be
    compared in the units that the SAE was trained in: those of activations brought to one
    size by site, and, for `standardised`, divided by the deviation of the token. Act units
    of a residual stream grow tenfold and more from the first layer to the last.

    Args:
        sae: as trained, from ``saekit.hub.native.load(folder, scaled=True)``.
        card: its card.
        sites: which of the sites it reads, in this order; all where None.

    Raises:
        ConfigError: it codes several sites or positions jointly, or does not read a site.
    """

    def __init__(self, sae: SAE, card: Card, sites: Sequence[str] | None = None):
        if sae.cfg.event:
            raise ConfigError(
                f"`{sae.cfg.name}` codes {' and '.join(sae.cfg.event)} jointly; here an SAE must "
                f"code single activations, one or several sites folded. Train with --fold."
            )
        if card.at is not None and card.scalings:
            raise ConfigError(
                f"The SAE was loaded for {card.at} alone. Load it with scaled=True for all sites."
            )
        reads, writes = card.pair.reads, card.pair.writes
        wanted = reads if sites is None else [parse_site(name) for name in sites]
        if not wanted or len(set(wanted)) < len(wanted):
            raise ConfigError(
                f"Name at least one site, and none twice; got {', '.join(map(str, wanted))}."
            )
        for site in wanted:
            if site not in reads:
                raise ConfigError(
                    f"The SAE reads {', '.join(map(str, reads))}; got {site}. Choose among those."
                )
        self.sae, self.card = sae, card
        self.sites: tuple[Site, ...] = tuple(wanted)
        self._writes = dict(zip(reads, writes, strict=True))

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.sae.cfg.d_sae

    @property
    def numbers(self) -> list[int]:
        """The layer of every site: that of the model, -1 for the embedding.

        Where two sites are of one layer, as of attention and MLP, places in the list.
        """
        layers = [-1 if site.layer is None else site.layer for site in self.sites]
        return layers if len(set(layers)) == len(layers) else list(range(len(layers)))

    @property
    def k(self) -> float | None:
        """Latents kept per token; None where the architecture fixes no number."""
        cfg = self.sae.cfg
        return getattr(cfg.inner if isinstance(cfg, WrappedConfig) else cfg, "k", None)

    def facts(self) -> dict[str, Any]:
        """Return what tells SAEs of one study apart, as columns of a table."""
        cfg = self.sae.cfg
        return {
            "model": self.card.model.get("name"),
            "n_latents": cfg.d_sae,
            "expansion": cfg.d_sae / cfg.d_in,
            "k": self.k,
        }

    def check(self, lm: LanguageModel) -> None:
        """Refuse a language model whose activations it cannot read.

        Raises:
            UnknownNameError: the model has no such site.
            ShapeError: widths differ.
        """
        for site in self.sites:
            pairs = ((site, self.sae.cfg.d_in), (self._writes[site], self.sae.cfg.d_out))
            for place, width in pairs:
                found = lm.width(lm.check_site(place))
                if found != width:
                    raise ShapeError(
                        f"The SAE has width {width} at {place}, where {lm.name} has {found}. Use "
                        f"the model that it was trained on: {self.card.model.get('name')}."
                    )

    def rule(self, site: Site) -> FittedRule:
        """Return which tokens count at a site, by what is read there."""
        return self.card.rules[str(site)]

    def written_rule(self, site: Site) -> FittedRule | None:
        """Return which tokens count at the site predicted from this one, if it is another."""
        written = self.written(site)
        return None if written == site else self.card.rules.get(str(written))

    def written(self, site: Site) -> Site:
        """Return the site predicted from this one; itself for an autoencoder."""
        return self._writes[site]

    def scaling(self, site: Site) -> tuple[Scaling, Scaling] | None:
        """Return how what is read and what is predicted were scaled; None: not at all."""
        return self.card.scalings.get(str(site))

    def scaled(self, site: Site, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
        """Return activations of a site, in act units, as the SAE takes them: float32."""
        found = self.scaling(site)
        return x.float() if found is None else found[0].apply(x.float())

    @torch.no_grad()
    def encode(self, site: Site, x: Float[Tensor, "n d_in"]) -> SiteCodes:
        """Return the codes of activations of a site; without latents whose value is 0.

        Args:
            site: where they are from.
            x: act units.
        """
        scaled = self.scaled(site, x)
        codes = self.sae.encode(scaled).live()
        strengths = codes.values.abs()
        if isinstance(self.sae, StandardisedSAE):
            strengths = strengths / self.sae.deviations(scaled)[codes.rows()]
        return SiteCodes(codes, strengths)

    @torch.no_grad()
    def active(self, parts: Sequence[tuple[Site, Float[Tensor, "n d_in"]]]) -> Codes:
        """Return the active latents of activations of some sites, in units all sites share.

        Sites are coded as one batch, in which encoders are fastest; rows come in the order of
        `parts`. The values are the `strengths` of `encode`, up to rounding, without what only a
        prediction needs.
        """
        scaled = torch.cat([self.scaled(site, x) for site, x in parts])
        sae = self.sae
        if isinstance(sae, StandardisedSAE):
            codes = sae.inner.encode(sae.standardised(scaled))
        else:
            codes = sae.encode(scaled)
        if not bool(codes.values.all()):
            codes = codes.live()
        return codes._replace(values=codes.values.abs(), shift=None)

    @torch.no_grad()
    def predict(self, site: Site, codes: Codes) -> Float[Tensor, "n d_out"]:
        """Return what codes of a site predict, in act units of the site it writes."""
        y_hat = self.sae.decode(codes)
        found = self.scaling(site)
        return y_hat if found is None else unscaled(found[1], y_hat)

    def directions(self, site: Site) -> Float[Tensor, "d_sae d_out"]:
        """Return what one unit of each latent's code writes at a site, act units."""
        found = self.scaling(site)
        rows = self.sae.directions().detach()
        return rows if found is None else unscaled(found[1]._replace(mean=rows.new_zeros(1)), rows)

    def at(self, site: Site) -> SAE:
        """Return a view of the SAE that takes and gives raw activations of a site."""
        return AtSite(self, site)


def unscaled(scaling: Scaling, y: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
    """Return what `Scaling.apply` made of activations, undone exactly."""
    out = y / scaling.scale
    if scaling.matrix is not None:
        out = torch.linalg.solve(scaling.matrix.to(out), out, left=False)
    return out + scaling.mean.to(out)


@final
class AtSite(SAE):
    """A shared SAE seen from one site; weights are those of the shared one, not copied.

    Codes are in act units of the site where its scaling has no matrix.

    Args:
        shared: the SAE.
        site: one of its sites.
    """

    def __init__(self, shared: SharedSAE, site: Site):
        super().__init__()
        self.cfg = shared.sae.cfg
        self.inner = shared.sae
        self._shared, self._site = shared, site
        found = shared.scaling(site)
        self._scale = 1.0 if found is None else found[0].scale

    @override
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        flat = x.reshape(-1, x.shape[-1])
        codes = self.inner.encode(self._shared.scaled(self._site, flat))
        return codes._replace(values=codes.values / self._scale, batch=tuple(x.shape[:-1]))

    @override
    def decode(self, acts: Codes) -> Float[Tensor, "..."]:
        flat = acts._replace(values=acts.values * self._scale, batch=(acts.n_rows,))
        y_hat = self.inner.decode(flat)
        found = self._shared.scaling(self._site)
        y_hat = y_hat if found is None else unscaled(found[1], y_hat)
        return y_hat.view(*acts.batch, y_hat.shape[-1])

    @override
    def directions(self) -> Float[Tensor, "d_sae d_out"]:
        return self._shared.directions(self._site) * self._scale

    @override
    def loss(self, x: Float[Tensor, "..."], y: Float[Tensor, "..."], step: Step) -> Loss:
        raise ConfigError("A view of a shared SAE is not trained; train the SAE itself.")

    @override
    def rescale(self, x: Scaling, y: Scaling) -> None:
        raise ConfigError("A view of a shared SAE is not rescaled; load it for one site.")
