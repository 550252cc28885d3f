"""Truth: a synthetic model whose features, rates and structure are known."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag

from saekit.core.codes import Codes
from saekit.core.config import Config
from saekit.core.seeds import generator as seeded
from saekit.data.truth.checks import at_least
from saekit.data.truth.dictionaries import Dictionary, Given, Random, checked
from saekit.data.truth.firing import Firing, Zipf
from saekit.data.truth.independent import bernoulli
from saekit.data.truth.magnitudes import Magnitudes, ReluNormal
from saekit.data.truth.stream import TruthStream


class Sample(NamedTuple):
    """Activations and the truth about them.

    Args:
        x: ``[n, d_model]`` float32, act units.
        acts: true activations, ``[n, n_features]``, zero where a feature is off.
    """

    x: Float[Tensor, "n *event d_model"]
    acts: Codes


@dataclass(frozen=True, kw_only=True)
class TruthConfig(Config):
    """A synthetic model as a value: x = bias + sum over features of act x direction + noise.

    Args:
        n_features: features of the world, at least 1.
        d_model: width of x, at least 1.
        dictionary: directions of the features.
        firing: share of tokens where each fires.
        magnitudes: how strongly.
        noise: standard deviation of Gaussian noise in every dimension, act units.
        bias: length of a constant vector of random direction, act units.
        seed: decides everything drawn when building.

    Raises:
        ConfigError: a number is out of range, or parts do not fit each other.
    """

    n_features: int
    d_model: int
    dictionary: Dictionary = field(default_factory=Random)
    firing: Firing = field(default_factory=Zipf)
    magnitudes: Magnitudes = field(default_factory=ReluNormal)
    noise: float = 0.0
    bias: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_features", self.n_features, 1)
        at_least("d_model", self.d_model, 1)
        at_least("noise", self.noise, 0)
        at_least("bias", self.bias, 0)

    def build(self, features: Tensor | None = None) -> "Truth":
        """Draw what the config leaves to chance.

        Args:
            features: directions ``[n_features, d_model]`` for the dictionary `given`.

        Raises:
            ConfigError: parts do not fit each other.
        """
        n, d = self.n_features, self.d_model
        if features is not None and isinstance(self.dictionary, Given):
            rows = checked(features, n, d)
        else:
            rows = self.dictionary.directions(n, d, seeded(self.seed, "dictionary"))
        rates = self.firing.probabilities(n, seeded(self.seed, "firing"))
        mean, std = self.magnitudes.parameters(n, seeded(self.seed, "magnitudes"))
        bias = torch.randn(d, generator=seeded(self.seed, "bias"))
        return Truth(self, {
            "features": rows,
            "bias": bias / bias.norm() * self.bias,
            "probabilities": rates,
            "mean": mean,
            "std": std,
        })  # fmt: skip


class Truth:
    """A synthetic model, all drawn: a reloaded one repeats the same samples bit for bit.

    Args:
        cfg: what it was built from.
        tensors: what was drawn; `save` writes them.
    """

    def __init__(self, cfg: TruthConfig, tensors: dict[str, Tensor]):
        self.cfg = cfg
        self.tensors = tensors

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

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        """Return n tokens and their true activations.

        Args:
            n: tokens.
            generator: source of chance, on the device of the truth.
        """
        rows, features = bernoulli(self.probabilities, n, generator)
        mean, std = self.tensors["mean"][features], self.tensors["std"][features]
        values = self.cfg.magnitudes.draw(mean, std, generator)
        counts = torch.bincount(rows, minlength=n)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        acts = Codes(values, features, starts, (n,), self.n_features).live()
        x = self.decode(acts)
        if self.cfg.noise:
            x.add_(torch.randn(x.shape, generator=generator, device=self.device),
                   alpha=self.cfg.noise)  # fmt: skip
        return Sample(x, acts)

    def decode(self, acts: Codes) -> Float[Tensor, "n *event d_model"]:
        """Return what true activations add up to, with the bias and without noise."""
        x = embedding_bag(
            acts.latents, self.features, acts.starts, mode="sum",
            per_sample_weights=acts.values, include_last_offset=True,
        )  # fmt: skip
        return x.add_(self.bias)

    def stream(
        self, *, tokens: int, batch_tokens: int, seed: int, epochs: int = 1,
        part: tuple[int, int] = (0, 1),
    ) -> TruthStream:  # fmt: skip
        """Return a seeded stream of training batches; see `TruthStream`."""
        return TruthStream(
            self.sample, self.device, tokens=tokens, batch_tokens=batch_tokens, seed=seed,
            epochs=epochs, part=part,
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write the truth to a folder: a JSON file and a safetensors file."""
        from saekit.data.truth.files import save

        save(self, folder)

    @staticmethod
    def load(folder: Path) -> "Truth":
        """Read a truth that `save` wrote.

        Raises:
            FormatError: a file is missing or damaged.
        """
        from saekit.data.truth.files import load

        return load(folder)
