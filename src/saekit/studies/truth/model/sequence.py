"""Sequence: features that stay on from token to token, or repeat others some tokens later."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError
from saekit.studies.truth.model.independent import Entries, bernoulli
from saekit.studies.truth.model.profiles import Profile, spread_out


@dataclass(frozen=True, kw_only=True)
class Copy(Config):
    """One feature repeats another some tokens later.

    Args:
        feature: what fires later.
        source: what it repeats.
        lag: tokens between.
        strength: chance that a firing of the source is repeated.

    Raises:
        ConfigError: a number is out of range.
    """

    feature: int = setting(least=0)
    source: int = setting(least=0)
    lag: int = setting(1, least=1)
    strength: float = setting(0.5, above=0, most=1)


@dataclass(frozen=True, kw_only=True)
class Sequences(Config):
    """Tokens come in sequences of `n_ctx`, within which firing has a memory of known form.

    Each feature is a two-state Markov chain: at every token it is drawn anew with probability
    1 - persistence, else it stays. Rates are kept, and the correlation of a feature with itself
    k tokens later is persistence^k. A copied firing comes beside those of the chain, whose rate
    is lowered so that the feature keeps its own; before the first `lag` tokens firings stand in
    for copies from before the sequence.

    Args:
        n_ctx: tokens of a sequence.
        persistence: of each feature; 0 has no memory.
        copies: features that repeat others; a feature repeats at most one.
        random_copies: further copies drawn by chance: each from a feature that fires more
            often, of one that fires less often, with a lag of 1..most_lag and `strength`.
        most_lag: largest lag of random copies, below `n_ctx`.
        strength: of random copies.

    Raises:
        ConfigError: a number is out of range.

    Source:
        Gilbert 1960, Bell System Technical Journal 39 (two-state chains).
    """

    n_ctx: int = setting(least=2, unit="tokens")
    persistence: Profile | float = setting(0.0, least=0, below=1)
    copies: tuple[Copy, ...] = field(default=())
    random_copies: int = setting(0, least=0)
    most_lag: int = setting(8, least=1)
    strength: float = setting(0.5, above=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for i, copy in enumerate(self.copies):
            if copy.lag >= self.n_ctx:
                raise ConfigError(
                    f"`copies[{i}].lag` must be below `n_ctx`={self.n_ctx}; got {copy.lag}."
                )

    def drawn(
        self,
        rates: Float[Tensor, "n_features"],
        free: Bool[Tensor, "n_features"],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Return persistence of features and every copy, as tensors.

        Args:
            rates: share of tokens where each feature fires.
            free: features that have no parent; only these copy or are copied.
            generator: source of chance.

        Raises:
            ConfigError: copies do not fit the features, by their place.
        """
        n = len(rates)
        persistence = spread_out(self.persistence, n, generator)
        wrong = ~((persistence >= 0) & (persistence < 1))
        if wrong.any():
            i = int(wrong.nonzero()[0])
            raise ConfigError(
                f"`persistence[{i}]` must lie in [0, 1); got {persistence[i].item()}."
            )
        copies = [*self.copies, *self._random(rates, free, generator)]
        source: dict[int, Copy] = {}
        for i, copy in enumerate(copies):
            for name, at in (("feature", copy.feature), ("source", copy.source)):
                if at >= n or not bool(free[at]):
                    raise ConfigError(
                        f"`copies[{i}].{name}` must be a feature in 0..{n - 1} without a "
                        f"parent; got {at}."
                    )
            if copy.feature in source:
                raise ConfigError(
                    f"`copies[{i}].feature` {copy.feature} repeats two features, "
                    f"{source[copy.feature].source} and {copy.source}; it may repeat one."
                )
            source[copy.feature] = copy
            most = float(rates[copy.source]) * copy.strength
            if most >= float(rates[copy.feature]):
                raise ConfigError(
                    f"`copies[{i}]`: feature {copy.feature} fires on "
                    f"{float(rates[copy.feature]):.6g} of tokens, and copies alone would be "
                    f"{most:.6g}. Lower `strength` or the rate of feature {copy.source}."
                )
        order = _ordered(source)
        return {
            "persistence": persistence,
            "copies": torch.tensor(
                [[c.feature, c.source, c.lag] for c in order], dtype=torch.int64
            ).view(-1, 3),
            "strengths": torch.tensor([c.strength for c in order], dtype=torch.float64),
        }

    def _random(self, rates: Tensor, free: Tensor, generator: torch.Generator) -> list[Copy]:
        if not self.random_copies:
            return []
        taken = {c.feature for c in self.copies} | {c.source for c in self.copies}
        rank = [
            i
            for i in rates.argsort(descending=True, stable=True).tolist()
            if bool(free[i]) and i not in taken
        ]
        if self.random_copies >= len(rank):
            raise ConfigError(
                f"`random_copies` must be below the {len(rank)} features without a parent that "
                f"`copies` leaves; got {self.random_copies}."
            )
        chosen = torch.randperm(len(rank) - 1, generator=generator)[: self.random_copies]
        found = []
        for at in sorted(chosen.tolist()):
            later = int(torch.randint(at + 1, len(rank), (1,), generator=generator))
            top = min(self.most_lag, self.n_ctx - 1)
            lag = int(torch.randint(1, top + 1, (1,), generator=generator))
            found.append(
                Copy(feature=rank[at], source=rank[later], lag=lag, strength=self.strength)
            )
        return found


def _ordered(source: dict[int, Copy]) -> list[Copy]:
    """Return copies with those that others repeat first."""
    done: list[Copy] = []
    placed: set[int] = set()
    for start in source:
        path: list[int] = []
        node = start
        while node in source and node not in placed:
            if node in path:
                ring = " -> ".join(map(str, [*path[path.index(node) :], node]))
                raise ConfigError(f"`copies`: feature {node} repeats itself: {ring}.")
            path.append(node)
            node = source[node].source
        for node in reversed(path):
            placed.add(node)
            done.append(source[node])
    return done


class Chains:
    """Firing with a memory.

    Args:
        coins: share of tokens where each feature is to fire, ``[n_features]`` float64.
        drawn: what `Sequences.drawn` returned.
        n_ctx: tokens of a sequence.
        free: features without a parent, ``[m]``.
    """

    def __init__(
        self,
        coins: Float[Tensor, "n_features"],
        drawn: dict[str, Tensor],
        n_ctx: int,
        free: Int[Tensor, "m"],
    ):
        self.n_ctx, self.n_features = n_ctx, len(coins)
        self.coins, self.stay = coins, drawn["persistence"]
        self.copies, self.strengths = drawn["copies"], drawn["strengths"]
        self.base = coins.clamp(max=1 - 1e-9)
        feature, source, _ = self.copies.unbind(1)
        self.base[feature] = 1 - (1 - coins[feature]) / (1 - self.strengths * coins[source])
        self.is_free = torch.zeros(len(coins), dtype=torch.bool, device=coins.device)
        self.is_free[free] = True

    def draw(self, n_rows: int, generator: torch.Generator) -> "Memory":
        """Return what would fire on n tokens, which are whole sequences."""
        rows, features = self._runs(n_rows, generator)
        keys = rows * self.n_features + features
        if len(self.copies):
            keys = self._copied(keys, n_rows, generator)
        return Memory(keys, self.n_features, self.is_free)

    def _runs(self, n_rows: int, generator: torch.Generator) -> Entries:
        """Return where the chains are on: they start by Bernoulli trials and last a while."""
        start = (1 - self.stay) * self.base
        # a draw anew that turns on starts a run; one that turns off ends it
        stop = (1 - self.stay) * (1 - self.base) / (1 - start)
        first = (1 - (1 - self.base) / (1 - start)).clamp_min(0)  # beside `start`, at token 0
        rows, features = bernoulli(start, n_rows, generator)
        heads, more = bernoulli(first, n_rows // self.n_ctx, generator)
        keys = torch.cat([features * n_rows + rows, more * n_rows + heads * self.n_ctx])
        keys = torch.unique(keys)  # by feature, then by token
        if not len(keys):
            return keys, keys
        features = torch.div(keys, n_rows, rounding_mode="floor")
        rows = keys - features * n_rows
        left = self.n_ctx - rows % self.n_ctx
        u = torch.rand(len(keys), generator=generator, device=keys.device, dtype=torch.float64)
        more = torch.log1p(-u) / torch.log1p(-stop[features])  # tokens it stays on beyond one
        length = torch.minimum(more.floor().clamp_max(self.n_ctx).long() + 1, left)
        until = torch.cat([keys[1:], keys[-1:] + self.n_ctx]) - keys
        length = torch.minimum(length, until)  # the next run takes over
        offset = torch.arange(int(length.sum()), device=keys.device)
        began = torch.repeat_interleave(length.cumsum(0) - length, length)
        rows = torch.repeat_interleave(rows, length) + offset - began
        return rows, torch.repeat_interleave(features, length)

    def _copied(self, keys: Tensor, n_rows: int, generator: torch.Generator) -> Tensor:
        """Return keys with those of copies, in the order in which copies depend."""
        n, device = self.n_features, keys.device
        added = [keys]
        by_feature = torch.sort(keys % n * n_rows + torch.div(keys, n, rounding_mode="floor"))[0]
        copied: dict[int, Tensor] = {}
        for (feature, source, lag), strength in zip(
            self.copies.tolist(), self.strengths.tolist(), strict=True
        ):
            ends = torch.tensor([source * n_rows, (source + 1) * n_rows], device=device)
            low, high = torch.searchsorted(by_feature, ends).tolist()
            rows = by_feature[low:high] - source * n_rows
            if source in copied:
                rows = torch.unique(torch.cat([rows, copied[source]]))
            rows = rows[rows % self.n_ctx + lag < self.n_ctx] + lag
            u = torch.rand(len(rows), generator=generator, device=device)
            rows = rows[u < strength]
            early = torch.rand(n_rows // self.n_ctx, lag, generator=generator, device=device)
            sequence, at = (early < strength * self.coins[source]).nonzero(as_tuple=True)
            copied[feature] = torch.cat([rows, sequence * self.n_ctx + at])
            added.append(copied[feature] * n + feature)
        return torch.cat(added)


class Memory:
    """What would fire on some tokens."""

    def __init__(
        self, keys: Int[Tensor, "m"], n_features: int, is_free: Bool[Tensor, "n_features"]
    ):
        self._keys, self._n, self._is_free = torch.unique(keys), n_features, is_free

    def free(self) -> Entries:
        """Return where features without a parent fire: rows and features, ordered."""
        rows = torch.div(self._keys, self._n, rounding_mode="floor")
        features = self._keys - rows * self._n
        on = self._is_free[features]
        return rows[on], features[on]

    def at(self, rows: Int[Tensor, "m"], features: Int[Tensor, "m"]) -> Bool[Tensor, "m"]:
        """Return whether features would fire at rows."""
        keys = rows * self._n + features
        place = torch.searchsorted(self._keys, keys).clamp_max(max(len(self._keys) - 1, 0))
        if not len(self._keys):
            return torch.zeros_like(keys, dtype=torch.bool)
        return self._keys[place] == keys
