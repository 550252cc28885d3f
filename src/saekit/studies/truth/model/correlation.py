"""Correlation: which features tend to fire together, by a Gaussian copula.

A feature fires where its standard normal exceeds a threshold; correlations are those of the
normals, so correlations of firing are weaker. Every matrix is kept as F F^T + diag(d), block
by block, so that given the common factors features fire independently.
"""

import abc
from dataclasses import dataclass, field

import torch
from typing_extensions import override

import saekit.studies.truth.model as package
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError
from saekit.core.registry import Registry
from saekit.studies.truth.model.checks import count
from saekit.studies.truth.model.loadings import Loadings, factorised

LEAST_OWN = 0.01  # variance a feature keeps to itself under `low_rank`


class Correlation(Config, abc.ABC):
    """The correlations of the normals behind the features, as a value."""

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the class called `name`."""
        return registry.get(name)

    @abc.abstractmethod
    def loadings(self, n_features: int, generator: torch.Generator) -> Loadings:
        """Return the matrix as factors, repaired where it is none."""


registry = Registry[Correlation]("correlation", package)


@registry.register
@dataclass(frozen=True, kw_only=True)
class LowRank(Correlation):
    """A few common factors: C = F F^T + diag(d), F = scale x Gaussian.

    A row of F that would leave a feature less than 0.01 of its own variance is shrunk, which
    is noted.

    Args:
        rank: common factors.
        scale: standard deviation of the entries of F; 0: no correlations.

    Raises:
        ConfigError: a number is out of range.

    Source:
        SAELens 6.29 synthetic data, `LowRankCorrelationMatrix`.
    """

    name = "low_rank"
    rank: int = setting(32, least=1)
    scale: float = setting(0.1, least=0)

    @override
    def loadings(self, n_features: int, generator: torch.Generator) -> Loadings:
        factor = self.scale * torch.randn(n_features, self.rank, generator=generator)
        common = factor.square().sum(-1)
        wide = common > 1 - LEAST_OWN
        factor[wide] *= ((1 - LEAST_OWN) / common[wide]).sqrt()[:, None]
        notes = {"shrunk_rows": int(wide.sum())} if wide.any() else {}
        return Loadings(factor[None], 1 - factor.square().sum(-1), notes)


@registry.register
@dataclass(frozen=True, kw_only=True)
class Blocks(Correlation):
    """Consecutive features in blocks: each pair of a block has a correlation drawn evenly.

    Args:
        size: features of a block; the last block has those left.
        lowest: lower end of the correlations.
        highest: upper end.

    Raises:
        ConfigError: a number is out of range.

    Source:
        Emrich & Piedmonte 1991, The American Statistician 45(4), by blocks.
    """

    name = "blocks"
    size: int = setting(8, least=2)
    lowest: float = setting(0.3, above=-1, below=1)
    highest: float = setting(0.3, above=-1, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lowest > self.highest:
            raise ConfigError(
                f"`lowest` must not exceed `highest`={self.highest}; got {self.lowest}."
            )

    @override
    def loadings(self, n_features: int, generator: torch.Generator) -> Loadings:
        n_blocks = -(-n_features // self.size)
        draws = torch.rand(n_blocks, self.size, self.size, generator=generator, dtype=torch.float64)
        upper = (self.lowest + (self.highest - self.lowest) * draws).triu(1)
        whole = upper + upper.mT
        left = n_features - (n_blocks - 1) * self.size
        whole[-1, left:] = 0
        whole[-1, :, left:] = 0
        return factorised(whole + torch.eye(self.size, dtype=torch.float64), n_features)


@dataclass(frozen=True, kw_only=True)
class Pair(Config):
    """The correlation of two features.

    Args:
        a: a feature, from 0.
        b: another feature, from 0.
        correlation: of their normals, -1..1.

    Raises:
        ConfigError: a feature is paired with itself, or a number is out of range.
    """

    a: int = setting(least=0)
    b: int = setting(least=0)
    correlation: float = setting(least=-1, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.a == self.b:
            raise ConfigError(f"`a` and `b` must be two features; got {self.a} twice.")


@registry.register
@dataclass(frozen=True, kw_only=True)
class Pairs(Correlation):
    """Correlations given pair by pair.

    Args:
        pairs: those that are not `others`.
        others: correlation of every other pair, -1..1.

    Raises:
        ConfigError: a number is out of range, or a pair names a feature that is not there.

    Source:
        SAELens 6.28 synthetic data, `create_correlation_matrix_from_correlations`.
    """

    name = "pairs"
    pairs: tuple[Pair, ...] = field(default=())
    others: float = setting(0.0, least=-1, most=1)

    @override
    def loadings(self, n_features: int, generator: torch.Generator) -> Loadings:
        whole = torch.full((n_features, n_features), float(self.others), dtype=torch.float64)
        whole.fill_diagonal_(1)
        for i, pair in enumerate(self.pairs):
            for name, at in (("a", pair.a), ("b", pair.b)):
                if at >= n_features:
                    raise ConfigError(
                        f"`pairs[{i}].{name}` must be a feature, 0..{n_features - 1}; got {at}."
                    )
            whole[pair.a, pair.b] = whole[pair.b, pair.a] = pair.correlation
        return factorised(whole[None], n_features)


@registry.register
@dataclass(frozen=True, kw_only=True)
class RandomPairs(Correlation):
    """Every pair uncorrelated, positive or negative by chance, with a strength drawn evenly.

    Args:
        positive_share: of the correlated pairs.
        uncorrelated_share: of all pairs.
        lowest: smallest strength.
        highest: largest strength.

    Raises:
        ConfigError: a number is out of range.

    Source:
        SAELens 6.29 synthetic data, `generate_random_correlation_matrix`.
    """

    name = "random_pairs"
    positive_share: float = setting(0.5, least=0, most=1)
    uncorrelated_share: float = setting(0.3, least=0, most=1)
    lowest: float = setting(0.1, least=0, most=1)
    highest: float = setting(0.8, least=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lowest > self.highest:
            raise ConfigError(
                f"`lowest` must not exceed `highest`={self.highest}; got {self.lowest}."
            )

    @override
    def loadings(self, n_features: int, generator: torch.Generator) -> Loadings:
        shape = (3, n_features, n_features)
        on, sign, size = torch.rand(shape, generator=generator, dtype=torch.float64)
        strength = self.lowest + (self.highest - self.lowest) * size
        strength = torch.where(sign < self.positive_share, strength, -strength)
        upper = torch.where(on < self.uncorrelated_share, 0.0, strength).triu(1)
        whole = upper + upper.T + torch.eye(n_features, dtype=torch.float64)
        return factorised(whole[None], n_features)


@registry.register
@dataclass(frozen=True, kw_only=True)
class GivenCorrelation(Correlation):
    """A whole correlation matrix.

    Args:
        matrix: rows of C, with a diagonal of 1, symmetric.

    Raises:
        ConfigError: it is not square, not symmetric, not of unit diagonal, or not of the size
            of the features; the entry is named.

    Source:
        Emrich & Piedmonte 1991, The American Statistician 45(4).
    """

    name = "given"
    matrix: tuple[tuple[float, ...], ...] = setting(least=-1, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        size = len(self.matrix)
        for i, row in enumerate(self.matrix):
            if len(row) != size:
                raise ConfigError(
                    f"`matrix` must be square; it has {size} rows and `matrix[{i}]` has "
                    f"{len(row)} entries."
                )
        for i, row in enumerate(self.matrix):
            if row[i] != 1:
                raise ConfigError(f"`matrix[{i}][{i}]` must be 1; got {row[i]}.")
            for j in range(i):
                if row[j] != self.matrix[j][i]:
                    raise ConfigError(
                        f"`matrix` must be symmetric; `[{i}][{j}]` is {row[j]} and `[{j}][{i}]` "
                        f"is {self.matrix[j][i]}."
                    )

    @override
    def loadings(self, n_features: int, generator: torch.Generator) -> Loadings:
        count("matrix", self.matrix, n_features)
        return factorised(torch.tensor(self.matrix, dtype=torch.float64)[None], n_features)
