"""Numbers that commands and figures of locality show, worked out by hand."""

import math

import numpy as np
import pytest
import torch

from saekit.activations.latents import LatentStore
from saekit.analysis.firing import FiringSums
from saekit.core.errors import ConfigError
from saekit.studies.locality.event_pages import _entropies
from saekit.studies.locality.events.event_files import Row
from saekit.studies.locality.events.neuronpedia import cosine_differences
from saekit.studies.locality.figures.case_studies import moments
from saekit.studies.locality.latents.drawing import draw_latents
from saekit.studies.locality.latents.levels import Level
from saekit.studies.locality.runs.strongest import (
    latent_means,
    mean_of_strongest,
    most_active_first,
    strongest_first,
)
from saekit.studies.truth.calibration import usual_sparsities, whole


def test_how_many_latents_are_on_how_often():
    none = torch.zeros(4)
    fired = FiringSums(torch.tensor([0, 1, 10, 50]), none, none, none, None, none, 1000)
    assert fired.summary((0.001, 0.005, 0.01, 0.05)) == {
        "dead": 1,
        "over_0.001": 2,
        "over_0.005": 2,
        "over_0.01": 1,
        "over_0.05": 0,
    }


def test_latents_are_drawn_from_a_range_of_densities():
    store = LatentStore.__new__(LatentStore)
    store.d_sae, store.n_tokens, store.counts = 6, 10, torch.tensor([0, 1, 2, 5, 9, 10])
    assert store.density.tolist() == [0, 0.1, 0.2, 0.5, 0.9, 1]
    assert draw_latents(store, 10, (0.2, 0.9), 0) == [2, 3, 4]
    assert draw_latents(store, 10, (0.0, 1.0), 0) == [1, 2, 3, 4, 5]  # never one that is never on
    assert len(draw_latents(store, 2, (0.2, 0.9), 0)) == 2
    drawn = {tuple(draw_latents(store, 1, (0.2, 0.9), seed)) for seed in range(20)}
    assert drawn == {(2,), (3,), (4,)}
    with pytest.raises(ConfigError, match="of 0 latents"):
        draw_latents(store, 2, (0.95, 0.99), 0)


def test_means_of_levels():
    level = Level(torch.tensor([1.0, math.nan, 5.0]), torch.tensor([2.0, 4.0, 9.0]), torch.ones(3))
    assert level.means() == (3.0, 5.0)


def test_how_far_cosines_lie_apart():
    rows = [{"abs_diff": d} for d in (0.1, 0.2, 0.6)]
    found = cosine_differences(rows)
    assert found["mean_abs_diff"] == pytest.approx(0.3) and found["max_abs_diff"] == 0.6
    assert found["n"] == found["n_overlap"] == 3
    assert cosine_differences([])["mean_abs_diff"] is None


def test_moments_of_a_card_have_the_divisor_n():
    assert moments([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt(14 / 3)))
    assert all(math.isnan(v) for v in moments([]))


def test_only_events_with_an_entropy_count():
    rows = {
        4: [
            Row(4, i, H, 1.0, 8, status, "", "", None)
            for i, (H, status) in enumerate([(1.0, "ok"), (9.0, "cut")])
        ],
        5: [],
    }
    assert _entropies(rows) == {4: [1.0], 5: []}


def test_sparsities_of_a_calibration():
    assert usual_sparsities(7.0) == [4, 7, 14] and usual_sparsities(0.4) == [1, 1, 1]
    assert whole(12.4, 8) == 8 and whole(0.2, 8) == 1 and whole(3.6) == 4


def test_means_of_latents_over_the_windows_they_are_active_in():
    found = latent_means(
        np.array([7, 2, 7, 7]), np.array([1.0, 5.0, 2.0, 6.0]), np.array([1.0, 4.0, -3.0, 0.5])
    )
    assert found.latent.tolist() == [2, 7] and found.windows.tolist() == [1, 3]
    assert found.entropy.tolist() == [5.0, 3.0] and found.activation.tolist() == [4.0, -1.5]


def test_the_strongest_are_those_of_largest_size():
    activation, values = np.array([1.0, -9.0, 4.0, 4.0]), np.array([8.0, 1.0, 3.0, 5.0])
    assert strongest_first(activation).tolist() == [1, 2, 3, 0]
    assert mean_of_strongest(values, activation, 2) == 2.0
    assert mean_of_strongest(values, activation, 20) == values.mean()
    by = {(0, 1): [1.0, 1.0], (0, 2): [5.0], (1, 1): [1.0, 4.0]}
    assert most_active_first(by) == [(0, 2), (1, 1), (0, 1)]
