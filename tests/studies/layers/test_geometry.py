"""Cosines between latents: the whole dictionary, and what the original looked at."""

import math

import numpy as np
import pytest
import torch

from saekit.core.errors import ConfigError, ShapeError
from saekit.studies.layers import geometry
from saekit.studies.layers.geometry import (
    cosine_by_distance,
    legacy_mmcs,
    max_cosines,
    mmcs,
    nearest_tokens,
)


def rows(seed, n=64, d=16):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_mmcs_is_that_of_every_other_latent():
    w = torch.nn.functional.normalize(rows(0).double(), dim=1)
    best = (w @ w.T).fill_diagonal_(-2).amax(1)
    assert math.isclose(mmcs(rows(0)).mean, float(best.mean()), abs_tol=1e-6)


def test_the_published_example():
    """64 random directions in 16 dimensions, drawn as a decoder [d_model, d_sae]."""
    drawn = np.random.default_rng(0).standard_normal((16, 64))
    directions = torch.from_numpy(drawn).t()
    assert abs(mmcs(directions).mean - 0.532) < 1e-3
    assert abs(legacy_mmcs(directions).mean - 0.423) < 1e-3  # a triangle of the matrix


def test_chunks_change_nothing(monkeypatch):
    whole, old = mmcs(rows(1)), legacy_mmcs(rows(1))
    monkeypatch.setattr(geometry, "CHUNK_CELLS", 5 * 64)
    assert math.isclose(mmcs(rows(1)).mean, whole.mean, abs_tol=1e-6)
    assert math.isclose(legacy_mmcs(rows(1)).mean, old.mean, abs_tol=1e-6)


def published_mmcs(w, group):
    """The original's second path, a group of columns of the whole matrix at a time."""
    unit = torch.nn.functional.normalize(w.double(), dim=1)
    best = torch.zeros(len(w), dtype=torch.float64)
    for first in range(0, len(w), group):
        for place, latent in enumerate(range(first, min(first + group, len(w)))):
            others = [*range(place), *range(first + group, len(w))]
            if others:
                best[latent] = max(0.0, float((unit[others] @ unit[latent]).max()))
    return float(best.mean())


@pytest.mark.parametrize("n", [40, 45, 64])
def test_wide_dictionaries_take_the_originals_other_path(monkeypatch, n):
    monkeypatch.setattr(geometry, "LEGACY_LATENTS", 40)
    monkeypatch.setattr(geometry, "LEGACY_ROWS", 8)
    monkeypatch.setattr(geometry, "CHUNK_CELLS", 5 * n)
    w = rows(1, n)
    assert math.isclose(legacy_mmcs(w).mean, published_mmcs(w, 8), abs_tol=1e-6)
    assert not math.isclose(legacy_mmcs(w[:39]).mean, published_mmcs(w[:39], 8), abs_tol=1e-4)


@pytest.mark.slow
def test_the_published_path_of_20000_latents():
    assert abs(legacy_mmcs(rows(1, 20_000, 32)).mean - 0.608) < 1.5e-3


def test_the_legacy_triangle_is_floored_at_0():
    w = torch.eye(3)
    assert legacy_mmcs(-w + 0.1).mean >= 0 and mmcs(torch.tensor([[1.0, 0], [-1, 0]])).mean == -1


def test_two_dictionaries():
    w = rows(2)
    assert math.isclose(mmcs(w, w).mean, 1, abs_tol=1e-6)
    assert mmcs(w[:8], w[8:]).n == 8
    with pytest.raises(ShapeError):
        mmcs(w, rows(3, d=8))
    with pytest.raises(ConfigError):
        max_cosines(w[:1])


def test_nearest_tokens_find_the_direction_itself():
    vectors = rows(4, 50)
    found = nearest_tokens(vectors[[7, 3]] * 5, vectors, 2)
    assert found.tokens[:, 0].tolist() == [7, 3]
    torch.testing.assert_close(found.cosines[:, 0], torch.ones(2))
    with pytest.raises(ConfigError, match="vocabulary"):
        nearest_tokens(vectors, vectors, 51)


def test_pairs_are_counted_once_with_their_own_means(monkeypatch):
    w = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 1]])
    at = torch.tensor([0.0, 4.0, 4.0, math.nan])
    monkeypatch.setattr(geometry, "CHUNK_CELLS", 3)
    found = cosine_by_distance(w, at, [0, 1, 2, 3, 4])
    assert int(found.counts.sum()) == 3 and found.n_latents == 3
    far, near = found.counts[-1], found.counts[0]
    assert int(far[-1]) == 1  # latents 0 and 1: cosine 1, four layers apart
    assert int(far[geometry.COSINE_BINS // 2]) == 1 and int(near.sum()) == 1
    assert math.isclose(float(found.mean[-1]), 0.5)
