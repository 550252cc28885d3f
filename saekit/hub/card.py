"""Card: what an SAE was made from, and what it needs to be used rightly."""

from dataclasses import dataclass, field, fields
from typing import Any

from saekit.activations.pairs import Pair
from saekit.activations.rules import FittedRule
from saekit.models.sites import Site, parse_site
from saekit.saes.base import Scaling


@dataclass(frozen=True, kw_only=True)
class Card:
    """Travels with the weights.

    Args:
        model: name, revision, dtype and tokenizer of the language model.
        pair: sites read and predicted.
        rules: which tokens count at each site read, with the rule's numbers.
        corpus: identity of the training text.
        n_ctx: tokens of a row.
        bos: whether rows begin with BOS.
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
    bos: bool
    tokens: int
    run: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    scalings: dict[str, tuple[Scaling, Scaling]] = field(default_factory=dict)
    at: str | None = None

    @property
    def site(self) -> Site:
        """The site whose raw activations the weights beside this card take."""
        return parse_site(self.at) if self.at else self.pair.reads[0]

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
        return Card(**{**raw, "pair": Pair.from_dict(raw["pair"]), "rules": rules})
