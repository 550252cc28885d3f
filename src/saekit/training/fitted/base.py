"""The contract of a fit: activations in, a dictionary as an SAE of a known architecture out."""

import abc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

import saekit.training.fitted as package
from saekit.core import machine
from saekit.core.config import Config
from saekit.core.errors import ConfigError, DataError, ResourceError
from saekit.core.registry import Registry
from saekit.core.seeds import generator
from saekit.saes.base import SAE, SAEConfig
from saekit.saes.topk import TopK, TopKSAE

EXPANSION = 8  # latents a dimension where nothing is said, as in training
DEFAULT_K = 32
COPIES = 3  # of a sample: itself, its residual or directions, what a round computes


class Acts(NamedTuple):
    """Activations to fit to, in float32, scaled as training scales them.

    Args:
        batches: returns all of them from the beginning, in batches, always the same.
        width: of an activation.
        n: how many there are; the last of them may be missing where a text ended early.
    """

    batches: Callable[[], Iterable[Float[Tensor, "_m width"]]]
    width: int
    n: int

    def sample(self, n: int, seed: int) -> Float[Tensor, "m width"]:
        """Return n activations in one pass, each as likely as any other; all where n is larger.

        Raises:
            ResourceError: a fit to so many would need more memory than is free.
        """
        n = min(n, self.n)
        wanted, free = COPIES * 4 * n * self.width, machine.free_memory("cpu")
        if free is not None and wanted > free:
            raise ResourceError(
                f"A fit to {n:,} activations of width {self.width} needs {wanted / 1e9:.1f} GB, "
                f"and {free / 1e9:.1f} GB are free. Lower `rows`."
            )
        taken = torch.zeros(self.n, dtype=torch.bool)
        taken[torch.randperm(self.n, generator=generator(seed, "sample"))[:n]] = True
        found, first = [], 0
        for batch in self.batches():
            found.append(batch[taken[first : first + len(batch)].to(batch.device)])
            first += len(batch)
        return torch.cat(found)


class Fitted(NamedTuple):
    """A dictionary of scaled activations, and what its fit found on the way."""

    sae: SAE
    found: dict[str, Any]  # JSON-ready, for the card


@dataclass(frozen=True, kw_only=True)
class Method(Config, abc.ABC):
    """A way to find a dictionary from activations, as a value."""

    reads: ClassVar[bool] = True  # activations decide what is found, beside their mean and size
    scaled: ClassVar[bool] = True  # mean and size are removed first, as in training

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the class of the fit called `name`."""
        return registry.get(name)

    @classmethod
    @abc.abstractmethod
    def example(cls) -> "Method":
        """Return the cheapest instance worth testing."""

    @abc.abstractmethod
    def sae(self, width: int, d_sae: int | None, k: int | None) -> SAEConfig:
        """Return the architecture and sizes that the dictionary will have.

        Args:
            width: of the activations.
            d_sae: latents; None: what suits the method.
            k: latents on per token at most; None: what suits the method.

        Raises:
            ConfigError: the method gives no dictionary of these sizes.
        """

    @abc.abstractmethod
    def fit(self, cfg: SAEConfig, acts: Acts, seed: int) -> Fitted:
        """Return the dictionary; the same arguments give the same one.

        Args:
            cfg: what `sae` returned.
            acts: scaled, unless the method says that it takes them raw.
            seed: decides every draw.

        Raises:
            DataError: there are too few activations.
        """


def topk(width: int, d_sae: int, k: int) -> TopK:
    """Return the settings of a dictionary that keeps the k largest projections of a token."""
    return TopK(d_in=width, d_out=width, d_sae=d_sae, k=k)


def check_pairs(name: str, width: int, d_sae: int, k: int) -> None:
    """Refuse sizes that no signed dictionary of orthogonal directions has.

    Raises:
        ConfigError: there are more directions than dimensions, half of one, or more of them on
            than there are.
    """
    if d_sae % 2 or not 2 <= d_sae <= 2 * width or k > d_sae // 2:
        raise ConfigError(
            f"`{name}` has two latents a direction, one for each sign, and as many directions as "
            f"dimensions at most, of which `k` are on at most; got d_sae={d_sae}, k={k} at width "
            f"{width}. Take an even d_sae up to {2 * width}, and k up to half of it."
        )


def projecting(
    cfg: SAEConfig, rows: Float[Tensor, "d_sae width"], mean: Float[Tensor, "width"] | None = None
) -> TopKSAE:
    """Return the SAE whose latents are projections on unit rows, from a mean.

    acts = relu(keep_k((x - mean) @ rows^T));  x_hat = acts @ rows + mean
    """
    assert isinstance(cfg, TopK)
    sae = cfg.build(torch.Generator())
    with torch.no_grad():
        rows = rows.float().cpu()
        sae.W_enc.copy_(rows.t())
        sae.W_dec.copy_(rows)
        if mean is not None:
            sae.b_enc.copy_(-(rows.double() @ mean.cpu().double()))
            sae.b_dec.copy_(mean)
    return sae


def both_signs(rows: Float[Tensor, "n width"]) -> Float[Tensor, "twice width"]:
    """Return each row and minus each row: latent n + i is minus latent i."""
    return torch.cat([rows, -rows])


def check_enough(name: str, found: int, d_sae: int) -> None:
    """Refuse fewer activations than latents.

    Raises:
        DataError: there are.
    """
    if found < d_sae:
        raise DataError(
            f"`{name}` needs at least one activation a latent, {d_sae:,}; got {found:,}. Give more "
            f"tokens, or ask for fewer latents."
        )


registry = Registry[Method]("fit", package)
