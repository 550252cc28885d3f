"""Truth: a synthetic model whose features, rates and structure are known."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag

from saekit.core.codes import Codes
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError
from saekit.core.seeds import generator as seeded
from saekit.studies.truth.model.copula import Copula
from saekit.studies.truth.model.correlation import Correlation
from saekit.studies.truth.model.dictionaries import Dictionary, GivenDirections, Random, checked
from saekit.studies.truth.model.firing import Firing, Zipf
from saekit.studies.truth.model.forest import Forest, check_scaling
from saekit.studies.truth.model.hierarchy import Hierarchy
from saekit.studies.truth.model.layers import Layers
from saekit.studies.truth.model.loadings import Loadings
from saekit.studies.truth.model.magnitudes import Magnitudes, ReluNormal
from saekit.studies.truth.model.rates import solve
from saekit.studies.truth.model.sampling import Coins, Independent, Sampler
from saekit.studies.truth.model.sequence import Chains, Sequences
from saekit.studies.truth.model.stream import TruthStream

CHUNK_TOKENS = 8192  # tokens in memory at a time; part of what a seed means


class Sample(NamedTuple):
    """Activations and the truth about them.

    Args:
        x: ``[n, d_model]`` float32, act units; ``[n, n_layers, d_model]`` with layers.
        acts: true activations, ``[n, n_features]``, zero where a feature is off; with layers,
            before the weights of layers. With sequences, tokens are in order of sequence and
            position, and `batch` is (sequences, n_ctx).
    """

    x: Float[Tensor, "n *event d_model"]
    acts: Codes


@dataclass(frozen=True, kw_only=True)
class TruthConfig(Config):
    """A synthetic model as a value: x = bias + sum over features of act x direction + noise.

    Args:
        n_features: number of features.
        d_model: width of x.
        dictionary: directions of the features.
        firing: share of tokens where each fires.
        magnitudes: how strongly.
        correlation: which fire together; null for none.
        hierarchy: which fire only under another; null for none.
        sequence: memory within sequences of tokens; null for none. Not with `correlation`.
        layers: in which layers each can be seen; null for one x.
        noise: standard deviation of Gaussian noise in every dimension, act units.
        bias: length of a constant vector of random direction, act units.
        seed: decides everything drawn when building.

    Raises:
        ConfigError: a number is out of range, or parts do not fit each other.
    """

    n_features: int = setting(least=1)
    d_model: int = setting(least=1)
    dictionary: Dictionary = field(default_factory=Random)
    firing: Firing = field(default_factory=Zipf)
    magnitudes: Magnitudes = field(default_factory=ReluNormal)
    correlation: Correlation | None = None
    hierarchy: Hierarchy | None = None
    sequence: Sequences | None = None
    layers: Layers | None = None
    noise: float = setting(0.0, least=0)
    bias: float = setting(0.0, least=0)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sequence is not None and self.correlation is not None:
            raise ConfigError(
                "`sequence` and `correlation` exclude each other; got both. Set one to null."
            )

    def build(self, features: Tensor | None = None) -> "Truth":
        """Draw what the config leaves to chance.

        Args:
            features: directions ``[n_features, d_model]`` for the dictionary `given`.

        Raises:
            ConfigError: parts do not fit each other.
        """
        n, d = self.n_features, self.d_model
        if features is None:
            rows = self.dictionary.directions(n, d, seeded(self.seed, "dictionary"))
        elif isinstance(self.dictionary, GivenDirections):
            rows = checked(features, n, d)
        else:
            raise ConfigError(
                f"`features` are for the dictionary `given`; got them with "
                f"`{self.dictionary.name}`."
            )
        rates = self.firing.probabilities(n, seeded(self.seed, "firing"))
        mean, std = self.magnitudes.parameters(n, seeded(self.seed, "magnitudes"))
        _, positive = self.magnitudes.averages(mean, std)
        direction = torch.randn(d, generator=seeded(self.seed, "bias"))
        tensors = {
            "features": rows,
            "bias": direction / direction.norm() * self.bias,
            "probabilities": rates,
            "mean": mean,
            "std": std,
            "average": self.magnitudes.usual(mean, std),
            "coins": rates,
            "rates": rates * positive,
        }
        return assembled(self, tensors, positive)


def assembled(
    cfg: TruthConfig,
    tensors: dict[str, Tensor],
    positive: Float[Tensor, "n_features"],
    forest: Forest | None = None,
    loadings: Loadings | None = None,
    solved: bool = False,
) -> "Truth":
    """Return a truth with the structure of its config drawn, where it is not given.

    Args:
        cfg: the whole config.
        tensors: what a truth without structure has.
        positive: share of the magnitudes of each feature that are above 0.
        forest: trees, where they are not to be drawn.
        loadings: correlations, where they are not to be drawn.
        solved: whether `coins` holds the chances of children themselves.

    Raises:
        ConfigError: parts do not fit each other.
    """
    n, notes = cfg.n_features, {}
    if loadings is None and cfg.correlation is not None:
        loadings = cfg.correlation.loadings(n, seeded(cfg.seed, "correlation"))
    if loadings is not None:
        tensors |= {"factor": loadings.factor, "diag": loadings.diag}
        notes |= {"correlation": loadings.notes} if loadings.notes else {}
    free = torch.ones(n, dtype=torch.bool)
    if cfg.hierarchy is not None:
        forest = forest or cfg.hierarchy.forest(n, seeded(cfg.seed, "hierarchy"))
        check_scaling(forest, tensors["average"])
        mode = "none" if solved else cfg.hierarchy.compensate
        found = solve(cfg.hierarchy, forest, tensors["coins"], positive, loadings, mode)
        tensors |= forest._asdict()
        tensors |= {"coins": found.coins[:n], "rates": found.rates[:n]}
        notes |= {"hierarchy": found.notes} if found.notes else {}
        free = forest.parent[:n] < 0
    if cfg.sequence is not None:
        chance = seeded(cfg.seed, "sequence")
        tensors |= cfg.sequence.drawn(tensors["coins"], free, chance)
    if cfg.layers is not None:
        tensors["layers"] = cfg.layers.weights(n, seeded(cfg.seed, "layers"))
    return Truth(cfg, tensors, notes)


class Truth:
    """A synthetic model, all drawn: a reloaded one repeats the same samples bit for bit.

    Args:
        cfg: what it was built from.
        tensors: what was drawn; `save` writes them.
        notes: what could not be had as the config asks, JSON-ready: a matrix that was repaired,
            rates that were clamped. Empty if nothing.
    """

    def __init__(self, cfg: TruthConfig, tensors: dict[str, Tensor], notes: dict[str, Any]):
        self.cfg, self.tensors, self.notes = cfg, tensors, notes
        self._sampler = Sampler(self._coins(), cfg.magnitudes, tensors, self.forest)

    @property
    def features(self) -> Float[Tensor, "n_features d_model"]:
        """Directions, unit rows."""
        return self.tensors["features"]

    @property
    def bias(self) -> Float[Tensor, "d_model"]:
        """What every x has, act units."""
        return self.tensors["bias"]

    @property
    def probabilities(self) -> Float[Tensor, "n_features"]:
        """The share of tokens where each feature is meant to fire, float64."""
        return self.tensors["probabilities"]

    @property
    def n_features(self) -> int:
        """Features of the world."""
        return self.cfg.n_features

    @property
    def d_model(self) -> int:
        """Width of x."""
        return self.cfg.d_model

    @property
    def device(self) -> torch.device:
        """Where samples are made."""
        return self.features.device

    @property
    def rates(self) -> Float[Tensor, "n_features"]:
        """The share of tokens where each feature is on, float64: what samples tend to.

        It differs from `probabilities` where magnitudes may be 0 and where a hierarchy is not
        compensated or asks too much. Exact but for correlated hierarchies (see `Solved`).
        """
        return self.tensors["rates"]

    @property
    def layers(self) -> Float[Tensor, "n_features n_layers"] | None:
        """Weights of features in layers; None where there is one x."""
        return self.tensors.get("layers")

    @property
    def forest(self) -> Forest | None:
        """Which features fire only under another; None for none."""
        if "parent" not in self.tensors:
            return None
        return Forest(*(self.tensors[key] for key in Forest._fields))

    @property
    def loadings(self) -> Loadings | None:
        """Correlations of firing; None for none."""
        if "factor" not in self.tensors:
            return None
        return Loadings(self.tensors["factor"], self.tensors["diag"], {})

    def to(self, device: str | torch.device) -> "Truth":
        """Return the same truth, which samples on a device; streams differ between devices."""
        moved = {key: tensor.to(device) for key, tensor in self.tensors.items()}
        return Truth(self.cfg, moved, self.notes)

    def _coins(self) -> Coins:
        coins, device = self.tensors["coins"], self.device
        free = torch.arange(self.n_features, device=device)
        if self.forest is not None:
            free = (self.forest.parent[: self.n_features] < 0).nonzero()[:, 0]
        if self.loadings is not None:
            return Copula(self.loadings.factor, self.loadings.diag, coins, free)
        if self.cfg.sequence is not None:
            return Chains(coins, self.tensors, self.cfg.sequence.n_ctx, free)
        return Independent(coins, free)

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        """Return n tokens and their true activations.

        Args:
            n: tokens; with sequences, whole ones.
            generator: source of chance, on the device of the truth.

        Raises:
            ConfigError: n is not a number of whole sequences.
        """
        n_ctx = self.cfg.sequence.n_ctx if self.cfg.sequence is not None else 1
        if n % n_ctx:
            raise ConfigError(f"Tokens come in whole sequences of `n_ctx`={n_ctx}; got {n}.")
        step = max(CHUNK_TOKENS // n_ctx, 1) * n_ctx
        x = torch.empty(n, *self._event, device=self.device)
        parts = []
        for first in range(0, n, step):
            acts = self._sampler(min(step, n - first), generator)
            part = x[first : first + step]
            self._decode(acts, part)
            if self.cfg.noise:
                noise = torch.randn(part.shape, generator=generator, device=self.device)
                part.add_(noise, alpha=self.cfg.noise)
            parts.append(acts)
        acts = parts[0] if len(parts) == 1 else Codes.cat(parts) if parts else self._none()
        return Sample(x, acts._replace(batch=(n // n_ctx, n_ctx) if n_ctx > 1 else (n,)))

    def decode(self, acts: Codes) -> Float[Tensor, "n *event d_model"]:
        """Return what true activations add up to, with the bias and without noise."""
        x = torch.empty(acts.n_rows, *self._event, device=self.device)
        self._decode(acts, x)
        return x

    @property
    def _event(self) -> tuple[int, ...]:
        """The shape of a token."""
        if self.layers is None:
            return (self.d_model,)
        return (self.layers.shape[1], self.d_model)

    def _decode(self, acts: Codes, x: Tensor) -> None:
        for layer in range(1 if self.layers is None else self.layers.shape[1]):
            values, place = acts.values, x
            if self.layers is not None:
                values, place = values * self.layers[acts.latents, layer], x[:, layer]
            found = embedding_bag(
                acts.latents,
                self.features,
                acts.starts,
                mode="sum",
                per_sample_weights=values,
                include_last_offset=True,
            )
            torch.add(found, self.bias, out=place)

    def _none(self) -> Codes:
        whole = torch.empty(0, dtype=torch.int64, device=self.device)
        return Codes(whole.float(), whole, whole.new_zeros(1), (0,), self.n_features)

    def stream(
        self,
        *,
        tokens: int,
        batch_tokens: int,
        seed: int,
        epochs: int = 1,
        part: tuple[int, int] = (0, 1),
    ) -> TruthStream:
        """Return a seeded stream of training batches; see `TruthStream`.

        Raises:
            ConfigError: a number is out of range, or batches are no whole sequences.
        """
        if self.cfg.sequence is not None:
            for name, value in (("tokens", tokens), ("batch_tokens", batch_tokens)):
                if value % self.cfg.sequence.n_ctx:
                    raise ConfigError(
                        f"`{name}` must be a multiple of `n_ctx`={self.cfg.sequence.n_ctx}; "
                        f"got {value}."
                    )
        return TruthStream(
            self.sample,
            self.device,
            tokens=tokens,
            batch_tokens=batch_tokens,
            seed=seed,
            epochs=epochs,
            part=part,
        )

    def save(self, folder: Path) -> None:
        """Write the truth to a folder: a JSON file and a safetensors file."""
        from saekit.studies.truth.model.files import save

        save(self, folder)

    @staticmethod
    def load(folder: Path) -> "Truth":
        """Read a truth that `save` wrote.

        Raises:
            FormatError: a file is missing or damaged.
        """
        from saekit.studies.truth.model.files import load

        return load(folder)
