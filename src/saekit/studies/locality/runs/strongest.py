"""Latents in the order of their activation, and their means over the windows they are active in."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

Key = TypeVar("Key", bound=tuple[int, ...])


class LatentMeans(NamedTuple):
    """One layer's latents that are active in a window or more, by number."""

    latent: np.ndarray
    entropy: np.ndarray  # mean over the windows in which each is active, bits
    windows: np.ndarray  # in which each is active
    activation: np.ndarray  # summed over them


def latent_means(latent: np.ndarray, bits: np.ndarray, activation: np.ndarray) -> LatentMeans:
    """Return the mean entropy of each latent over its events, and its activation summed up."""
    each, which, counts = np.unique(latent, return_inverse=True, return_counts=True)
    means = np.bincount(which, bits) / counts
    return LatentMeans(each, means, counts, np.bincount(which, activation))


def strongest_first(activation: np.ndarray) -> np.ndarray:
    """Return places in the order of the size of activations, the largest first; ties by place."""
    return np.argsort(-np.abs(activation), kind="stable")


def mean_of_strongest(values: np.ndarray, activation: np.ndarray, n: int) -> float:
    """Return the mean of some values over the `n` places of largest activation."""
    return float(values[strongest_first(activation)[:n]].mean())


def most_active_first(activations: Mapping[Key, Sequence[float]]) -> list[Key]:
    """Return keys in the order of their summed activation, the largest first; ties by key."""
    return sorted(activations, key=lambda key: (-sum(activations[key]), key))
