"""The contract every architecture keeps: build, encode, decode, loss."""

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

import saekit.saes as package
from saekit.core.codes import Codes
from saekit.core.config import Config, check_known, check_values, setting
from saekit.core.errors import ConfigError
from saekit.core.processes import ALONE, Mesh
from saekit.core.registry import Registry

Start = Literal["random", "geometric_median", "k_means", "subspace"]


class Step(NamedTuple):
    """What the trainer knows and a loss may need: no architecture keeps counters."""

    index: int  # optimiser steps done
    progress: float  # share of the token budget spent, 0 to 1
    dead: Bool[Tensor, "d_sae"]  # latents silent for `dead_after_tokens`
    seed: int = 0  # decides what this step draws


class Loss(NamedTuple):
    """A training objective and the parts it is the sum of."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]  # already weighted: total == sum(terms)
    acts: Codes  # one row a token; may be detached
    y_hat: Float[Tensor, "*out"]
    cut: Float[Tensor, ""] | None = None  # the least that a batch which shares a budget kept


class Scaling(NamedTuple):
    """How activations were brought near mean 0 and mean square 1 a dimension.

    scaled = ((raw - mean) @ matrix) * scale * site_scale
    """

    mean: Float[Tensor, "*event width"]  # act units
    scale: float
    matrix: Float[Tensor, "width width"] | None = None  # whitening; None is the identity
    site_scale: Float[Tensor, "site 1"] | None = None  # of jointly coded sites; None is 1

    @property
    def changes_nothing(self) -> bool:
        """Whether scaled activations are the raw ones."""
        plain = self.matrix is None and self.site_scale is None
        return plain and self.scale == 1 and not bool(self.mean.any())

    def apply(self, raw: Float[Tensor, "n *event width"]) -> Float[Tensor, "n *event width"]:
        """Return scaled activations."""
        moved = raw - self.mean.to(raw)
        if self.matrix is not None:
            moved = moved @ self.matrix.to(raw)
        moved.mul_(self.scale)
        return moved if self.site_scale is None else moved.mul_(self.site_scale.to(raw))


class Unsized:
    """An architecture with its settings, whose widths the site of a model will give.

    Made by leaving `d_in` out: ``TopK(k=32, expansion=8)``.

    Args:
        kind: the architecture.
        settings: its settings, and ``expansion``: latents per dimension of what is read.
    """

    def __init__(self, kind: "type[SAEConfig]", settings: dict[str, Any]):
        self.kind, self.settings = kind, settings

    def __repr__(self) -> str:
        return f"{self.kind.__name__}({', '.join(f'{k}={v!r}' for k, v in self.settings.items())})"

    def to_dict(self) -> dict[str, Any]:
        """Return what is known, JSON-ready, for `saekit.training.building.as_run`."""
        known = (Config, Unsized)
        plain = {k: v.to_dict() if isinstance(v, known) else v for k, v in self.settings.items()}
        return {"name": self.kind.name, **plain}


@dataclass(frozen=True, kw_only=True)
class SAEConfig(Config, abc.ABC):
    """Sizes shared by all architectures.

    Where `d_in` is left out, the widths are those of the site that it will be trained at, and
    `expansion` may say how many latents there are for each dimension: see `Unsized`.

    Args:
        d_in: width of the activations read.
        d_out: width of the activations predicted; the same as `d_in` unless the SAE is a
            transcoder.
        d_sae: number of latents.
    """

    event: ClassVar[tuple[str, ...]] = ()  # axes coded jointly, between batch and d_in
    coded: ClassVar[tuple[str, ...]] = ()  # those of them that have a code at each place

    d_in: int = setting(least=1)
    d_out: int = setting(least=1)
    d_sae: int = setting(least=1)

    if not TYPE_CHECKING:

        def __new__(cls, **settings: Any) -> Any:
            """Return an `Unsized` where widths are left out."""
            if settings and "d_in" not in settings:
                own = {name: value for name, value in settings.items() if name != "expansion"}
                check_known(cls, own)
                whole = {n: v for n, v in own.items() if not isinstance(v, Unsized)}
                check_values(cls, whole)
                return Unsized(cls, settings)
            return super().__new__(cls, **settings)

    @property
    def latents_per_token(self) -> float | None:
        """How many latents training keeps on per token at most; None where nothing limits it."""
        k = getattr(self, "k", None)
        if k is None:
            return getattr(self, "target_l0", None)
        return max(k, getattr(self, "start_k", None) or 0)

    @property
    def n_weights(self) -> int:
        """How many numbers the large weight matrices hold together."""
        return (self.d_in + self.d_out) * self.d_sae * getattr(self, "n_sites", 1)

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the configuration class of the architecture called `name`."""
        return registry.get(name)

    @classmethod
    @abc.abstractmethod
    def example(cls) -> "SAEConfig":
        """Return the smallest instance worth testing and documenting."""

    @abc.abstractmethod
    def build(self, generator: torch.Generator) -> "SAE":
        """Initialise an SAE; `generator` is the only source of randomness."""

    def build_share(self, generator: torch.Generator, mesh: Mesh) -> "SAE":
        """Initialise the latents that one process of a mesh holds, equal to those of `build`.

        No more than these is in memory at once. `d_sae` stays the number of all.

        Raises:
            ConfigError: latents of this architecture cannot be shared by processes.
        """
        able = [
            name
            for name in registry.names()
            if registry.get(name).build_share is not SAEConfig.build_share
        ]
        raise ConfigError(
            f"Latents of `{self.name}` cannot be shared by processes; got latent_shards="
            f"{mesh.latent.size}. Those of {', '.join(able)} can; of `{self.name}` each process "
            f"holds all: leave out --latent-shards."
        )


class SAE(nn.Module, abc.ABC):
    """An overcomplete code of activation vectors. Abstract; subclasses are final."""

    cfg: SAEConfig
    mesh: Mesh = ALONE  # the processes that train it together; set by training

    @abc.abstractmethod
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        """Return latent activations; pure: a row's code does not depend on its batch.

        Args:
            x: ``[*batch, *event, d_in]``, act units, float32 or float64. May have no rows.

        Returns:
            Codes with leading shape ``[*batch, *coded]``, act units.

        Raises:
            DataError: `x` is not finite.
        """

    def encode_only(
        self, x: Float[Tensor, "..."], latents: Int[Tensor, "m"]
    ) -> Float[Tensor, "*batch m"]:
        """Return the activations of some latents, as `encode` would give them, without a graph.

        Costs m columns of the encoder where a latent does not depend on the others, and an
        `encode` where it does, as in TopK.

        Args:
            x: ``[*batch, *event, d_in]``, act units.
            latents: which, each in 0..d_sae - 1.

        Raises:
            DataError: `x` is not finite.
        """
        with torch.no_grad():
            return self.encode(x).columns(latents)

    @abc.abstractmethod
    def decode(self, acts: Codes) -> Float[Tensor, "..."]:
        """Return the prediction ``[*batch, *event, d_out]``; affine in the values."""

    @abc.abstractmethod
    def directions(self) -> Float[Tensor, "..."]:
        """Return what one unit of each latent adds to `decode`.

        ``[*event, d_sae, d_out]``, without the axes in `coded`: there it adds at its place.
        """

    @abc.abstractmethod
    def loss(self, x: Float[Tensor, "..."], y: Float[Tensor, "..."], step: Step) -> Loss:
        """Return the training objective on a batch: predict `y` from the code of `x`.

        Args:
            x: ``[n, *event, d_in]``. Of no rows the loss is NaN, a mean of nothing.
            y: ``[n, *event, d_out]``; `x` itself for an autoencoder.
            step: where in training this is.
        """

    @abc.abstractmethod
    def rescale(self, x: Scaling, y: Scaling) -> None:
        """Rewrite the weights of an SAE trained on scaled activations into one of raw ones.

        Exact. Codes come out divided by ``x.scale``, in act units of the input; directions
        come out in act units of the output (unchanged where input and output are scaled
        alike and not whitened, as in most autoencoders).

        Raises:
            ConfigError: the architecture cannot take a scaling with a matrix, or needs both
                scalings alike.
        """

    def start(
        self,
        way: Start,
        x: Float[Tensor, "..."],
        y: Float[Tensor, "..."],
        generator: torch.Generator,
    ) -> None:
        """Set weights from the first activations, once, before the first step.

        Args:
            way: how; never "random", which is how `build` left it.
            x: ``[n, *event, d_in]``, scaled as in training.
            y: ``[n, *event, d_out]``; `x` itself for an autoencoder.
            generator: decides every draw.

        Raises:
            ConfigError: this architecture has no such beginning, or there are too few activations.
        """
        raise ConfigError(
            f"`{self.cfg.name}` begins with random weights; got start={way}. Leave `start` out."
        )

    def start_rows(self, way: Start) -> int:
        """Return how many of the first activations `start` looks at, about."""
        return 0

    def after_step(self, out: Loss) -> None:  # noqa: B027 - nothing is the right default
        """Keep constraints and running thresholds; called once an optimiser step."""

    @property
    def settles(self) -> bool:
        """Whether statistics run along with training, so that at its end they lag behind it."""
        return False

    def settle(self, x: Float[Tensor, "..."]) -> None:  # noqa: B027 - nothing is the right default
        """Take such statistics anew, of weights that are finished; called once, after training.

        Args:
            x: ``[n, *event, d_in]``, the last activations that training read.
        """

    def before_step(self) -> None:  # noqa: B027 - nothing is the right default
        """Change gradients before the optimiser reads them, as to stay on a constraint."""

    def rate_scales(self) -> dict[str, float]:
        """Return multiples of the learning rate, for parameters of another size than weights."""
        return {}

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return ``decode(encode(x))``."""
        return self.decode(self.encode(x))


registry = Registry[SAEConfig]("architecture", package)
