"""Card: what an SAE was made from, and what it needs to be used rightly."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saekit.activations.pairs import Pair
from saekit.activations.rules import FittedRule, keep_everywhere
from saekit.core.errors import ConfigError
from saekit.models.base import Tokenizer
from saekit.models.sites import UNKNOWN, Site, parse_site
from saekit.saes.base import Scaling

NO_MODEL = "none"  # of an SAE of vectors that no language model gave, as far as anybody said


@dataclass(frozen=True, kw_only=True)
class Card:
    """Travels with the weights.

    Args:
        model: name, revision, dtype and tokenizer of the language model.
        pair: sites read and predicted.
        rules: which tokens count, by site, with the rule's numbers. A token counts where it
            does at the site read and at the one predicted from it.
        corpus: identity of the training text.
        n_ctx: tokens of a row.
        bos: whether rows began with BOS, as they really did; None: not known.
        tokens: training tokens seen, over all epochs.
        run: the run's settings, as `Run.to_dict` gives them; empty for SAEs from elsewhere.
        provenance: see `saekit.core.provenance.collect`.
        scalings: by site read, of what is read and what is predicted: what brings activations
            of sites that share the SAE to the size it was trained at; empty where the SAE
            takes raw activations. Not part of the record: `hub.native` keeps them as tensors.
        at: the site whose raw activations the weights beside this card take, where one was
            named on loading. Not part of the record.
    """

    model: dict[str, Any]
    pair: Pair
    rules: dict[str, FittedRule]
    corpus: dict[str, Any]
    n_ctx: int
    bos: bool | None
    tokens: int
    run: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    scalings: dict[str, tuple[Scaling, Scaling]] = field(default_factory=dict)
    at: str | None = None

    @property
    def site(self) -> Site:
        """The site whose raw activations the weights beside this card take."""
        return parse_site(self.at) if self.at else self.pair.reads[0]

    @property
    def transcodes(self) -> bool:
        """Whether it predicts another site than it reads, as far as is known."""
        published = self.provenance.get("published") or {}
        return not self.pair.is_autoencoder or bool(published.get("transcodes"))

    def check_model(self) -> None:
        """Refuse an SAE of vectors alone where a language model would be run.

        Raises:
            ConfigError: it is one, and nobody said its site.
        """
        if self.model.get("name") == NO_MODEL and UNKNOWN in self.pair.sites:
            raise ConfigError(
                "This SAE was fitted to vectors, not to a site of a language model, so nothing can "
                "be run through one: measure it with saekit.score(sae, vectors). If a model gave "
                "the vectors, say which site when it is loaded: saekit.load(..., site=...)."
            )

    def bos_id(self, tokenizer: Tokenizer) -> int | None:
        """Return the token that rows begin with for this SAE; None: they begin with text.

        Where the card does not know, it is what the tokenizer does when it is left alone.
        """
        begins = tokenizer.adds_bos if self.bos is None else self.bos
        return tokenizer.bos_id if begins else None

    def row(self, text: str, tokenizer: Tokenizer) -> Int[Tensor, "1 n_ctx"]:
        """Return a text as a row of tokens such as this SAE was trained on: BOS, if it had one."""
        bos = self.bos_id(tokenizer)
        ids = tokenizer.encode([text])[0]
        return torch.tensor([ids if bos is None else [bos, *ids]])

    def written(self, read: Site) -> Site:
        """Return the site that is predicted from this one; itself for an autoencoder."""
        return dict(zip(self.pair.reads, self.pair.writes, strict=True))[read]

    def sites_of(self, read: Site) -> list[Site]:
        """Return the sites whose activations decide which tokens count at `read`."""
        return list(dict.fromkeys((read, self.written(read))))

    def keep(
        self, read: Site, tokens: Int[Tensor, "*shape"], acts: Mapping[Site, Tensor]
    ) -> Bool[Tensor, "*shape"]:
        """Return which tokens count where the SAE reads `read`.

        Args:
            read: one of the sites read.
            tokens: ids.
            acts: activations ``[*shape, width]``, of `sites_of` at least.
        """
        return keep_everywhere(self.rules, tokens, {s: acts[s] for s in self.sites_of(read)})

    @property
    def lacking_rules(self) -> list[Site]:
        """The sites predicted whose rule is not here, as in cards of earlier versions."""
        return [s for s in self.pair.sites if str(s) not in self.rules] if self.rules else []

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        rules = {site: rule.to_dict() for site, rule in self.rules.items()}
        apart = ("pair", "rules", "scalings", "at")
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        return plain | {"pair": self.pair.to_dict(), "rules": rules}

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> "Card":
        """Read what `to_dict` gave."""
        rules = {site: FittedRule.from_dict(rule) for site, rule in raw["rules"].items()}
        pair, corpus = Pair.from_dict(raw["pair"]), raw["corpus"]
        # Earlier versions wrote the setting of the run; whether there was a BOS, the text says.
        bos = corpus["bos_id"] is not None if "bos_id" in corpus else raw["bos"]
        return Card(**{**raw, "pair": pair, "rules": rules, "bos": bos})
