"""Which tokens count: special tokens and massive-norm activations are left out by rule."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.config import Config, setting
from saekit.core.errors import DataError
from saekit.models.sites import Site


@dataclass(frozen=True, kw_only=True)
class TokenRule(Config):
    """Leave out tokens whose activations are about position or syntax, not about meaning.

    Language models put activations of enormous norm on the first token and on a few
    delimiters (attention sinks). One such token outweighs thousands of others in any
    squared error, so they are left out of training, of statistics and of splicing alike;
    how many were left out is counted and reported. Where an SAE predicts another site than it
    reads, a token counts only if it counts at both: massive activations of a target outweigh
    all others just as those of an input do.

    Args:
        special: leave out special tokens (BOS, EOS, padding, separators).
        max_norm: leave out activations whose norm is over this multiple of the median norm
            of non-special tokens at the same site; null keeps them all.

    Raises:
        ConfigError: `max_norm` is 1 or less.

    Source:
        Sun et al. 2024, arXiv:2402.17762 (massive activations).
        Differs: the threshold is a multiple of the median norm of the site.
    """

    name: ClassVar[str] = "token_rule"
    special: bool = True
    max_norm: float | None = setting(
        4.0, above=1, unit="times the median norm", hint="Use null to keep every token."
    )


class FittedRule(NamedTuple):
    """A `TokenRule` with the numbers it needs: part of what an SAE was made from."""

    rule: TokenRule
    special_ids: tuple[int, ...]
    median_norm: float  # act units, over non-special tokens of the calibration rows

    def keep(
        self, tokens: Int[Tensor, "*shape"], acts: Float[Tensor, "*shape width"]
    ) -> Bool[Tensor, "*shape"]:
        """Return which tokens count, on the device of `acts`."""
        if self.rule.max_norm is None:
            return ~self.is_special(tokens.to(acts.device))
        return self.keep_norms(tokens, acts.float().norm(dim=-1))

    def keep_norms(
        self, tokens: Int[Tensor, "*shape"], norms: Float[Tensor, "*shape"]
    ) -> Bool[Tensor, "*shape"]:
        """Return which tokens count, from the norms of their activations alone."""
        kept = ~self.is_special(tokens.to(norms.device))
        if self.rule.max_norm is not None:
            kept &= norms <= self.rule.max_norm * self.median_norm
        return kept

    def is_special(self, tokens: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Return which tokens are left out for what they are."""
        ids = torch.tensor(self.special_ids, dtype=tokens.dtype, device=tokens.device)
        return torch.isin(tokens, ids) if self.rule.special else torch.zeros_like(tokens).bool()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        return {
            "rule": self.rule.to_dict(),
            "special_ids": list(self.special_ids),
            "median_norm": self.median_norm,
        }

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> "FittedRule":
        """Read what `to_dict` gave."""
        return FittedRule(
            TokenRule.from_dict(raw["rule"]), tuple(raw["special_ids"]), raw["median_norm"]
        )


def keep_everywhere(
    rules: Mapping[str, FittedRule],
    tokens: Int[Tensor, "*shape"],
    acts: Mapping[Site, Float[Tensor, "*shape width"]],
) -> Bool[Tensor, "*shape"]:
    """Return which tokens count at every one of some sites.

    Args:
        rules: by the name of a site. A site without one leaves no token out: SAEs of earlier
            versions hold the rules of what they read alone.
        tokens: ids.
        acts: activations of the sites; at least one of these has a rule.
    """
    masks = [rules[str(s)].keep(tokens, a) for s, a in acts.items() if str(s) in rules]
    return torch.stack(masks).all(0)


def fit(
    rule: TokenRule,
    special_ids: Iterable[int],
    tokens: Int[Tensor, "*shape"],
    acts: Float[Tensor, "*shape width"],
) -> FittedRule:
    """Take the median norm of non-special tokens from a calibration sample.

    Raises:
        DataError: the sample has no ordinary token, or activations that are not finite.
    """
    blank = FittedRule(rule, tuple(sorted(special_ids)), 0.0)
    norms = acts.float().norm(dim=-1)[~blank.is_special(tokens.to(acts.device))]
    if not len(norms):
        raise DataError("The first rows hold special tokens only; give the corpus real text.")
    median = float(norms.median())
    if not median > 0 or median == float("inf"):
        raise DataError(
            f"Activations of the first rows have median norm {median}; the site is dead or "
            f"the model overflows. Try another site, or dtype float32."
        )
    return blank._replace(median_norm=median)
