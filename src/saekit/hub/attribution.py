"""Attribution: how much each latent, at each token, adds to a difference of logits."""

import dataclasses
from collections.abc import Callable
from typing import Literal, final, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.codes import Codes
from saekit.core.errors import ConfigError, DataError
from saekit.hub.splicing import Part, check_order
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel, Text, refuse_edits
from saekit.models.sites import Site

Method = Literal["gradient", "integrated"]
METHODS: tuple[Method, ...] = get_args(Method)
# Logits [batch, n_ctx, vocab] of a pass -> one number.
Quantity = Callable[[Float[Tensor, "batch n_ctx vocab"]], Float[Tensor, ""]]


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Attribution:
    """What every latent that is on adds to a quantity. `print` shows the largest.

    Args:
        effects: an entry for each latent that is on at a token, with its effect as the value, in
            units of the quantity (nats of a difference of logits). 0 where the SAE's rules leave a
            token out.
        codes: the same entries with their activations, act units.
        tokens: ids ``[batch, n_ctx]``.
        pieces: the tokens as text, in the order of rows.
        quantity: its value on these tokens.
        method: how it was found.
    """

    effects: Codes
    codes: Codes
    tokens: Int[Tensor, "batch n_ctx"]
    pieces: list[str]
    quantity: float
    method: Method

    @property
    def total(self) -> float:
        """The sum of all effects; of "integrated" about what all latents together are worth.

        Of "gradient" it is not: effects are slopes, which do not add up over large changes.
        """
        return float(self.effects.values.double().sum())

    def top(self, n: int = 10) -> list[tuple[int, int, float, float]]:
        """Return the largest effects, as (place, latent, activation, effect); n of them at most.

        A place counts tokens over all rows, from 0.

        Raises:
            ConfigError: `n` is below 1.
        """
        if n < 1:
            raise ConfigError(f"`n` must be at least 1; got {n}.")
        values = self.effects.values
        order = values.abs().topk(min(n, len(values))).indices
        places, latents = self.effects.rows()[order], self.effects.latents[order]
        acts = self.codes.values[order]
        rows = zip(
            places.tolist(), latents.tolist(), acts.tolist(), values[order].tolist(), strict=True
        )
        return list(rows)

    def by_latent(self, n: int = 10) -> list[tuple[int, float]]:
        """Return the latents whose effects over all tokens sum to most, the largest first."""
        if n < 1:
            raise ConfigError(f"`n` must be at least 1; got {n}.")
        sums = torch.zeros(self.effects.d_sae, dtype=torch.float64)
        sums.index_add_(0, self.effects.latents.cpu(), self.effects.values.double().cpu())
        order = sums.abs().topk(min(n, len(sums))).indices
        return [(int(i), float(sums[i])) for i in order if sums[i]]

    def text(self, n: int = 10) -> str:
        """Return the `n` largest effects as lines."""
        what = (
            "all latents together"
            if self.method == "integrated"
            else "sum of effects, each to first order"
        )
        lines = [
            f"quantity {self.quantity:.4g}; {what} {self.total:+.4g}",
            f"{'effect':>9}  {'latent':>7}  {'act':>8}  token",
        ]
        lines += [
            f"{effect:+9.4f}  {latent:7d}  {act:8.3f}  {place}: {self.pieces[place]!r}"
            for place, latent, act, effect in self.top(n)
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.text()


def attribute(  # noqa: PLR0913 - what is attributed, to what, and how
    lm: LanguageModel,
    sae: TrainedSAE,
    text: Text,
    *,
    of: str | int | Quantity,
    against: str | int | None = None,
    method: Method = "gradient",
    steps: int = 10,
) -> Attribution:
    """Attribute the logit of a next token, or any number made of logits, to an SAE's latents.

    "gradient" is activation times gradient, (d quantity / d y) · (activation * direction), with
    what the SAE fails to reconstruct held fixed: to first order, what setting the latent to 0 takes
    away. "integrated" takes the mean gradient on the way from all latents at 0 to all as they are;
    its effects sum to the difference of the quantity between these two ends, but for the steps'
    coarseness.

    Args:
        lm: the language model.
        sae: whose latents.
        text: text or token ids; a text begins with BOS if the SAE's training rows did.
        of: the token whose logit after the last position is meant (its text or id), or a function
            of the logits of the whole pass that returns one number.
        against: another token, whose logit is taken off.
        method: how.
        steps: of "integrated", passes on the way; more are nearer.

    Returns:
        effects of all latents that are on, of several rows their sum over rows' quantities.

    Raises:
        ConfigError: a method, or `steps`, is not one of those above; the SAE codes sites jointly.
        DataError: a token's text is not one token of the model.

    Source:
        Marks et al. 2024, arXiv:2403.19647, section 3 (both; their error node is left alone here).
    """
    check_order(lm, sae)
    refuse_edits(lm)
    if method not in METHODS:
        raise ConfigError(f"`method` is gradient or integrated; got {method!r}.")
    if steps < 1:
        raise ConfigError(f"`steps` must be at least 1; got {steps}.")
    tokens = lm.tokens(text, bos=sae.card.bos_id(lm.tokenizer) is not None)
    quantity = _quantity(lm, of, against)
    part = Part(lm, sae, error=True)
    if part.joint:
        raise ConfigError(
            f"`{sae.cfg.name}` codes several sites jointly; effects are found of SAEs of one site."
        )
    acts = lm.read(tokens, list(dict.fromkeys((part.read, part.write))))
    codes = sae.encode(acts[part.read])
    kept = part.sae.card.keep(part.read, tokens.to(acts[part.read].device), acts).flatten()
    shares = [1.0] if method == "gradient" else [(i + 0.5) / steps for i in range(steps)]
    latents = sae.decode(codes) - sae.decode(codes._replace(values=torch.zeros_like(codes.values)))
    slope, value = torch.zeros(()), 0.0
    for share in shares:
        # On the way from all latents at 0 (share 0) to all as they are (share 1).
        away = torch.where(kept.view(*tokens.shape, 1), (share - 1) * latents, 0.0)
        found, value = _slope(lm, tokens, part.write, away, quantity)
        slope = slope + found / len(shares)
    if method == "integrated":
        value = float(quantity(lm.logits(tokens).float()))
    rows = codes.rows()
    along = (slope.flatten(0, 1)[rows] * sae.directions[codes.latents]).sum(-1)
    effects = torch.where(kept[rows], codes.values * along.to(codes.values), 0.0)
    return Attribution(
        effects=codes._replace(values=effects, shift=None),
        codes=codes,
        tokens=tokens,
        pieces=[p for row in tokens.tolist() for p in lm.tokenizer.pieces(row)],
        quantity=value,
        method=method,
    )


def _slope(
    lm: LanguageModel, tokens: Tensor, site: Site, away: Tensor, quantity: Quantity
) -> tuple[Float[Tensor, "batch n_ctx d_out"], float]:
    """Return the gradient of a quantity at a site moved by `away`, float32, and its value there."""
    leaf: list[Tensor] = []

    def move(y: Tensor) -> Tensor:
        leaf.append((y.detach() + away.to(y)).requires_grad_())
        return leaf[0]

    value = quantity(lm.logits(tokens, {site: move}, grad=True).float())
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise ConfigError(
            f"`of` must return a number made of the logits it is given, as a tensor; it returned "
            f"{type(value).__name__}."
        )
    if not bool(value.isfinite().all()):
        raise DataError(
            f"`of` gave {value.tolist()} for these logits; a slope needs a finite number. Leave "
            f"out what makes it infinite, as the logarithm of 0."
        )
    if value.numel() != 1:
        raise ConfigError(
            f"`of` must return one number for the logits of a pass; it returned a tensor of shape "
            f"{list(value.shape)}. Sum or choose."
        )
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    return slope.float(), float(value.detach())


def _quantity(lm: LanguageModel, of: str | int | Quantity, against: str | int | None) -> Quantity:
    if callable(of):
        if against is not None:
            raise ConfigError("`against` goes with a token in `of`; a function says it all itself.")
        return of
    plus = _token(lm, of)
    minus = None if against is None else _token(lm, against)

    def difference(logits: Tensor) -> Tensor:
        last = logits[:, -1]
        return (last[:, plus] - (0.0 if minus is None else last[:, minus])).sum()

    return difference


def _token(lm: LanguageModel, token: str | int) -> int:
    """Return the id of a token given as text or id.

    Raises:
        DataError: the text is no single token, or the id is none of the model's.
    """
    if isinstance(token, str):
        spaced = f" {token.strip()}"
        ids, with_space = lm.tokenizer.encode([token, spaced])
        if len(ids) != 1:
            hint = f" {spaced!r}, with a space in front, is one." if len(with_space) == 1 else ""
            raise DataError(
                f"{token!r} is {len(ids)} tokens of {lm.name}; one is needed: a word, or part of "
                f"one, that is a token by itself.{hint}"
            )
        return ids[0]
    if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < lm.vocab_size:
        raise DataError(f"Token ids are whole numbers, 0..{lm.vocab_size - 1}; got {token!r}.")
    return int(token)
