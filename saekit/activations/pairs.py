"""Pair: which sites an SAE reads and which it predicts."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.config import Config
from saekit.core.errors import ConfigError
from saekit.models.base import LanguageModel
from saekit.models.sites import Site, parse_site


@dataclass(frozen=True, kw_only=True)
class Pair(Config):
    """What is read and what is predicted, by site name.

    One site read and none written is an autoencoder; one read and another written a
    transcoder; several read and folded a multi-layer SAE, where each site of a token is a
    row of its own; several read and not folded a crosscoder, where they are one event.

    Args:
        read: sites read, as ``("L10.resid_post",)``.
        write: sites predicted; empty: those read.
        fold: each site of a token is a row of its own.

    Raises:
        ConfigError: no site, a site twice, or numbers of sites that do not match.
        UnknownNameError: a name that is no site.
    """

    name: ClassVar[str] = "pair"
    read: tuple[str, ...]
    write: tuple[str, ...] = ()
    fold: bool = False

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
        self, acts: list[Float[Tensor, "n width"]]
    ) -> Float[Tensor, "rows *event width"]:
        """Return activations of the sites of one side as the SAE takes them."""
        if len(acts) == 1:
            return acts[0]
        return torch.cat(acts) if self.fold else torch.stack(acts, dim=1)
