"""Card: what an SAE was made from, and what it needs to be used rightly."""

from dataclasses import asdict, dataclass, field
from typing import Any

from saekit.activations.pairs import Pair
from saekit.activations.rules import FittedRule


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

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        rules = {site: rule.to_dict() for site, rule in self.rules.items()}
        plain = {k: v for k, v in asdict(self).items() if k not in ("pair", "rules")}
        return plain | {"pair": self.pair.to_dict(), "rules": rules}

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> "Card":
        """Read what `to_dict` gave."""
        rules = {site: FittedRule.from_dict(rule) for site, rule in raw["rules"].items()}
        return Card(**{**raw, "pair": Pair.from_dict(raw["pair"]), "rules": rules})
