"""Pair: which sites an SAE reads and which it predicts, of single tokens or of windows."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError
from saekit.models.base import LanguageModel
from saekit.models.sites import Site, parse_site
from saekit.saes.base import SAEConfig


@dataclass(frozen=True, kw_only=True)
class Pair(Config):
    """What is read and what is predicted, by site name.

    One site read and none written is an autoencoder; one read and another written a
    transcoder; several read and folded a multi-layer SAE, where each site of a token is a
    row of its own; several read and not folded a crosscoder, where they are one event. With
    a window, consecutive tokens of a row are one event, as for a temporal SAE.

    Args:
        read: sites that are read, as ``["L10.resid_post"]``.
        write: sites that are predicted; empty: those that are read.
        fold: each site of a token is an example of its own, for one SAE that they share.
        window: consecutive tokens of a row that are encoded together; 0: single tokens. A window
            holds only tokens that the token rule keeps, so it never reaches over a special token or
            one of very large norm; a run of kept tokens is cut from its beginning, and a rest
            shorter than a window is left out.

    Raises:
        ConfigError: no site, a site twice, numbers of sites that do not match, or a window
            of fewer than 0 tokens.
        UnknownNameError: a name that is no site.
    """

    name: ClassVar[str] = "pair"
    read: tuple[str, ...]
    write: tuple[str, ...] = ()
    fold: bool = False
    window: int = setting(0, least=0, hint="0 is single tokens.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.read:
            raise ConfigError("`read` needs at least one site, as L10.resid_post.")
        for names in (self.read, self.write):
            if len({parse_site(n) for n in names}) != len(names):
                raise ConfigError(f"A site is named twice in {', '.join(names)}.")
        if self.write and len(self.write) != len(self.read):
            raise ConfigError(
                f"As many sites must be written as read; got {len(self.read)} read and "
                f"{len(self.write)} written."
            )

    @property
    def event(self) -> tuple[str, ...]:
        """The axes between the batch and the width, as architectures name them."""
        site = ("site",) if len(self.read) > 1 and not self.fold else ()
        return site + (("seq",) if self.window else ())

    @property
    def event_tokens(self) -> int:
        """Tokens of an event; a site of a token counts as one where sites are folded."""
        return self.window or 1

    @property
    def shares(self) -> bool:
        """Whether several sites share one SAE, a row each."""
        return self.fold and len(self.read) > 1

    @property
    def reads(self) -> list[Site]:
        """The sites read."""
        return [parse_site(n) for n in self.read]

    @property
    def writes(self) -> list[Site]:
        """The sites predicted."""
        return [parse_site(n) for n in self.write] or self.reads

    @property
    def sites(self) -> list[Site]:
        """All sites, each once."""
        return list(dict.fromkeys([*self.reads, *self.writes]))

    @property
    def is_autoencoder(self) -> bool:
        """Whether what is predicted is what is read."""
        return self.reads == self.writes

    @property
    def label(self) -> str:
        """A short name for the reader, as ``L3.mlp_in -> L3.mlp_out``."""
        read = "+".join(map(str, self.reads))
        return read if self.is_autoencoder else f"{read} -> {'+'.join(map(str, self.writes))}"

    def widths(self, model: LanguageModel) -> tuple[int, int]:
        """Return d_in and d_out.

        Raises:
            UnknownNameError: the model has no such site.
            ConfigError: sites that are stacked or folded have different widths.
        """
        found = []
        for sites in (self.reads, self.writes):
            widths = {model.width(model.check_site(s)) for s in sites}
            if len(widths) > 1:
                raise ConfigError(f"Sites of widths {sorted(widths)} cannot share one SAE.")
            found.append(widths.pop())
        return found[0], found[1]

    def arrange(
        self, acts: list[Float[Tensor, "_ *seq width"]]
    ) -> Float[Tensor, "rows *event width"]:
        """Return activations of the sites of one side as the SAE takes them."""
        if len(acts) == 1:
            return acts[0]
        return torch.cat(acts) if self.fold else torch.stack(acts, dim=1)


def check_event(pair: Pair, sae: SAEConfig, *, n_ctx: int, batch_tokens: int) -> None:
    """Refuse a pair that does not give the events an architecture codes.

    Args:
        pair: the sites, and the window.
        sae: the architecture.
        n_ctx: tokens of a row, special ones included.
        batch_tokens: tokens of an optimiser step.

    Raises:
        ConfigError: sites or positions are coded jointly by one and not by the other, their
            numbers differ, or a window is longer than a row or a batch.
    """
    for axis, given, advice in (
        (
            "site",
            f"{len(pair.read)} sites, {'folded' if pair.fold else 'not folded'}",
            (
                "Name several sites to read, without fold.",
                "Fold the sites, train one SAE for each, or use an architecture that codes "
                "sites jointly, as crosscoder.",
            ),
        ),
        (
            "seq",
            f"window={pair.window}",
            (
                "Set `pair.window` to the tokens of a window.",
                "Set `pair.window` to 0, or use an architecture that codes windows, as temporal.",
            ),
        ),
    ):
        if (axis in sae.event) != (axis in pair.event):
            codes = "jointly" if axis in sae.event else "one by one"
            what = "sites" if axis == "site" else "the tokens of a window"
            raise ConfigError(
                f"`{sae.name}` codes {what} {codes}; the pair {pair.label} has {given}. "
                f"{advice[axis not in sae.event]}"
            )
    n_sites = getattr(sae, "n_sites", len(pair.read))
    if "site" in sae.event and n_sites != len(pair.read):
        raise ConfigError(
            f"The SAE has n_sites={n_sites}; the pair {pair.label} reads {len(pair.read)}. Make "
            f"them equal."
        )
    if "seq" in sae.event and not pair.is_autoencoder:
        raise ConfigError(
            f"`{sae.name}` predicts the windows it reads; the pair is {pair.label}. Leave "
            f"`write` out."
        )
    for name, longest in (("n_ctx", n_ctx), ("batch_tokens", batch_tokens)):
        if pair.window > longest:
            raise ConfigError(
                f"`pair.window` must be at most `{name}`; got window={pair.window}, "
                f"{name}={longest}. Lower the window or raise `{name}`."
            )
