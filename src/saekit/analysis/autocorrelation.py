"""How long a latent stays on: autocorrelation of its activation along documents."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from saekit.activations.latents import LatentStore
from saekit.activations.text_axis import Piece, pieces
from saekit.analysis.base import Analysis, registry
from saekit.core.config import setting
from saekit.core.result import Table


class Curves(NamedTuple):
    """Autocorrelation of every latent, by lag in tokens from 0."""

    acts: Float[Tensor, "d_sae lags_and_one"]  # of the activation
    on: Float[Tensor, "d_sae lags_and_one"]  # of whether its size is over the threshold
    n_pairs: Int[Tensor, "lags_and_one"]  # pairs of kept tokens of one document
    counts: Int[Tensor, "d_sae"]  # tokens each latent is on for
    run_tokens: Float[Tensor, "d_sae"]  # mean length of a run of tokens it is on for
    n_tokens: int

    def table(self) -> Table:
        """Return one row per latent and lag."""
        n, lags = self.acts.shape
        return Table(
            columns={
                "latent": [i for i in range(n) for _ in range(lags)],
                "lag": list(range(lags)) * n,
                "autocorr": self.acts.reshape(-1).tolist(),
                "autocorr_on": self.on.reshape(-1).tolist(),
                "n_pairs": self.n_pairs.tolist() * n,
            },
            units={"lag": "tokens", "n_pairs": "pairs of tokens"},
        )

    def lengths(self) -> Table:
        """Return what the curves say of each latent in one number.

        ``tau_1e`` is where its curve first falls below 1/e, between lags by a straight line;
        empty where it does not within the lags. ``corr_length`` is the sum of max(rho, 0)
        over the lags from 1 to before that; where the curve does not fall so far the sum is
        over all lags and a lower bound, and ``censored`` says so.
        """
        tau, length, censored = [], [], []
        for curve in self.acts.tolist():
            below = next((i for i, rho in enumerate(curve) if rho < 1 / math.e), None)
            defined = not math.isnan(curve[0])
            censored.append(defined and below is None)
            length.append(sum(max(r, 0.0) for r in curve[1:below]) if defined else math.nan)
            tau.append(_crossing(curve, below))
        return Table(
            columns={
                "latent": list(range(len(self.acts))),
                "density": (self.counts.double() / self.n_tokens).tolist(),
                "n_active": self.counts.tolist(),
                "tau_1e": tau,
                "corr_length": length,
                "censored": censored,
                "mean_run_length": self.run_tokens.tolist(),
            },
            units={
                "density": "share of tokens",
                "n_active": "tokens",
                "tau_1e": "tokens",
                "corr_length": "tokens",
                "mean_run_length": "tokens",
            },
        )


@registry.register
@dataclass(frozen=True, kw_only=True)
class Autocorrelation(Analysis):
    """Autocorrelation of each latent's activation along the text, by lag.

    rho(l) = [ 1/n_l  sum over pairs (f(t) - mu) (f(t + l) - mu) ] / sigma^2

    over the n_l pairs of tokens l apart that both count and lie in one document; mu and
    sigma^2 (divisor n) are of all tokens that count. So rho(0) = 1, and a latent that is on
    at random has rho(l) = 0 but for sampling. The same is given of 1[|f| > threshold]. BOS
    takes no place in the text; a document cut into rows is one stretch.

    The sums run over the entries of the sparse codes only: with f = 0 off the entries, the
    numerator is  sum f(t) f(t+l) - mu (sum f(t) m(t+l) + sum m(t) f(t+l)) + mu^2 n_l,
    m marking the tokens that count. Memory: a shard and six arrays ``[d_sae, lags]``.

    Args:
        lags: largest lag, tokens.
        threshold: activations of this size or less are off, act units; the first curve is then of f
            where |f| > threshold, else 0.

    Raises:
        ConfigError: a number is out of range.

    Source:
        Ours; the estimator with one mean and variance for all lags is that of Box and
        Jenkins, with the divisor n_l of pairs that exist.
    """

    name: ClassVar[str] = "autocorrelation"
    lags: int = setting(64, least=1)
    threshold: float = setting(0.0, least=0)

    @override
    def run(self, latents: LatentStore) -> Table:
        return self.curves(latents).table()

    def curves(self, store: LatentStore) -> Curves:
        """Return the curves of every latent; NaN for one that is never on, or always alike."""
        acts, on = (_Sums(store.d_sae, self.lags) for _ in range(2))
        n_pairs = torch.zeros(self.lags + 1, dtype=torch.int64)
        tail: _Stretch | None = None
        for piece in pieces(store, self.threshold):
            here = _joined(tail, piece)
            ahead, behind = _neighbours(here, self.lags)
            n_pairs += ahead[here.kept].sum(0).long()
            acts.add(here, ahead, behind, here.value.double())
            on.add(here, ahead, behind, torch.ones(len(here.value), dtype=torch.float64))
            tail = _last(here, self.lags)
        n = int(n_pairs[0])
        counts = on.total.long()
        runs = on.both[:, 0] - on.both[:, 1]  # a run ends where the next token is off
        return Curves(acts.curves(n_pairs), on.curves(n_pairs), n_pairs, counts, counts / runs, n)


class _Stretch(NamedTuple):
    """Some text: the last tokens of what came before, then `n_old` onwards what is new."""

    n_old: int
    stretch: Int[Tensor, "n"]
    kept: Bool[Tensor, "n"]
    latent: Int[Tensor, "nnz"]
    at: Int[Tensor, "nnz"]
    value: Float[Tensor, "nnz"]


class _Sums:
    """Sums over pairs whose later token is new, by latent and lag."""

    def __init__(self, d_sae: int, lags: int):
        shape = (d_sae, lags + 1)
        self.both, self.one = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        self.total = torch.zeros(d_sae, dtype=torch.float64)

    def add(self, here: _Stretch, ahead: Tensor, behind: Tensor, value: Tensor) -> None:
        """Add the pairs of a stretch of text; `one` holds sum f(t) m(t+l) + m(t) f(t+l)."""
        d_sae, width = self.both.shape
        new = here.at >= here.n_old
        self.total.index_add_(0, here.latent[new], value[new])
        starts = functional.pad(torch.bincount(here.latent, minlength=d_sae).cumsum(0), (1, 0))
        for table in (ahead, behind):
            self.one += functional.embedding_bag(
                here.at,
                table,
                starts,
                mode="sum",
                per_sample_weights=value,
                include_last_offset=True,
            )
        first = torch.arange(len(value))
        for step in range(width):  # the step-th entry of the latent after each
            first = first[first + step < len(value)]
            second = first + step
            lag = here.at[second] - here.at[first]
            near = (here.latent[second] == here.latent[first]) & (lag < width)
            near &= here.stretch[here.at[second]] == here.stretch[here.at[first]]
            first, second, lag = first[near], second[near], lag[near]
            if not len(first):
                break
            late = here.at[second] >= here.n_old
            where = here.latent[first][late] * width + lag[late]
            products = value[first][late] * value[second][late]
            self.both.view(-1).index_add_(0, where, products)

    def curves(self, n_pairs: Int[Tensor, "lags_and_one"]) -> Float[Tensor, "d_sae lags_and_one"]:
        """Return the autocorrelations."""
        n = n_pairs[0]
        mean = (self.total / n)[:, None]
        # Half of `one` at lag 0 and `both` there are the plain sums, so the variance is this.
        moved = (self.both - mean * self.one) / n_pairs + mean * mean
        variance = moved[:, :1]
        tiny = variance <= 1e-12 * (self.both[:, :1] / n)  # rounding of a latent always alike
        return torch.where(tiny, torch.nan, moved / variance)


def _joined(tail: _Stretch | None, piece: Piece) -> _Stretch:
    if tail is None:
        return _Stretch(0, piece.stretch, piece.kept, piece.latent, piece.at, piece.value)
    n = len(tail.kept)
    latent = torch.cat([tail.latent, piece.latent])
    order = torch.sort(latent, stable=True).indices
    at = torch.cat([tail.at, piece.at + n])
    return _Stretch(
        n,
        torch.cat([tail.stretch, piece.stretch]),
        torch.cat([tail.kept, piece.kept]),
        latent[order],
        at[order],
        torch.cat([tail.value, piece.value])[order],
    )


def _last(here: _Stretch, n: int) -> _Stretch:
    cut = max(0, len(here.kept) - n)
    on = here.at >= cut
    return _Stretch(
        0, here.stretch[cut:], here.kept[cut:], here.latent[on], here.at[on] - cut, here.value[on]
    )


def _neighbours(
    here: _Stretch, lags: int
) -> tuple[Float[Tensor, "n lags_and_one"], Float[Tensor, "n lags_and_one"]]:
    """Return 1 where the token so far ahead of, or behind, each counts; the later one is new."""
    n = len(here.kept)
    ahead, behind = (torch.zeros(n, lags + 1, dtype=torch.float64) for _ in range(2))
    for lag in range(min(lags, n - 1) + 1):
        pair = here.stretch[lag:] == here.stretch[: n - lag]
        pair[: max(0, here.n_old - lag)] = False
        ahead[: n - lag, lag] = (pair & here.kept[lag:]).double()
        behind[lag:, lag] = (pair & here.kept[: n - lag]).double()
    return ahead, behind


def _crossing(curve: list[float], below: int | None) -> float:
    if not below or math.isnan(curve[0]):
        return math.nan
    above = curve[below - 1]
    return below - 1 + (above - 1 / math.e) / (above - curve[below])
