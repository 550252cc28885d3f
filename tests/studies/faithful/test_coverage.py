"""How often the intervals of fake features and of probes hold what they say they hold."""

import pytest
import torch

from saekit.core.stats.resamples import scored
from saekit.studies.faithful.fakes import statistics as fakes
from saekit.studies.faithful.fakes.statistics import Units
from saekit.studies.faithful.probing import statistics as probes

REPETITIONS = 200


def latents(n, mean, spread, together, seed):
    """Return a way to draw which latents fire: by chance, some of them together."""
    chance = torch.Generator().manual_seed(seed)
    base = mean + spread * torch.randn(n, generator=chance)
    loads = together * torch.randn(3, n, generator=chance)

    def drawn(sequences):
        factor = torch.randn(sequences, 3, generator=chance)
        return ((base + factor @ loads + torch.randn(sequences, n, generator=chance)) > 0).float()

    return drawn


FAKES = [(512, -2.5, 1.0, 0.3), (512, -2.5, 1.0, 1.0), (128, -3.0, 0.7, 0.3), (64, -2.5, 1.0, 0.5)]
PROBES = [(200, 0.6), (500, 0.85), (1000, 0.85)]


@pytest.mark.slow
@pytest.mark.parametrize(("sequences", "mean", "spread", "together"), FAKES)
def test_an_interval_holds_what_so_many_sequences_find_on_average(
    sequences, mean, spread, together
):
    shares = held_by_fakes(sequences, mean, spread, together)
    assert shares.min() >= 0.88, shares


def held_by_fakes(sequences, mean, spread, together):
    """Return how often intervals hold: of fake and excess, of one SAE and of the difference."""
    one, other = (latents(512, mean, spread, together, seed) for seed in (1, 2))
    found = []
    for repetition in range(REPETITIONS):
        counted = [
            fakes.count(
                Units(draw(sequences), torch.ones(sequences)),
                Units(draw(sequences), torch.ones(sequences)),
                0.05,
                200,
                repetition,
            )
            for draw in (one, other)
        ]
        a, b = counted
        for what in ("fake", "excess"):
            both = (
                (a.seen[what], a.draws[what].double()),
                (a.seen[what] - b.seen[what], (a.draws[what] - b.draws[what]).double()),
            )
            found.append([(v, *fakes.ends(v, d, sequences)[:2]) for v, d in both])
    values = torch.tensor(found, dtype=torch.float64).view(REPETITIONS, 2, 2, 3)
    truth = values[..., 0].mean(0)
    held = (values[..., 1] <= truth) & (truth <= values[..., 2])
    return held.double().mean(0)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "right"), PROBES)
def test_an_interval_of_a_probe_holds_its_accuracy_and_f1(n, right):
    shares = held_by_probes(n, right)
    assert min(shares.values()) >= 0.9, shares


def held_by_probes(n, right):
    """Return how often the intervals of accuracy and macro F1 hold, by metric."""
    chance = torch.Generator().manual_seed(n)

    def examples(m):
        labels = (torch.rand(m, generator=chance) < 0.7).long()
        wrong = torch.rand(m, generator=chance) > right
        return labels, torch.where(wrong, 1 - labels, labels)

    labels, said = examples(400_000)
    whole = probes.drawn(1, 0, 0)._replace(weights=torch.ones(1, len(labels), dtype=torch.float64))
    found = {}
    for metric in probes.METRICS:
        truth = float(probes.values(said, labels, metric, whole)[0])
        held = 0
        for repetition in range(REPETITIONS):
            some, answers = examples(n)
            draws = probes.drawn(n, 300, repetition)
            values = probes.values(answers, some, metric, draws)
            score = scored(values, n, unit="ratio", label="accuracy of a probe", span=(0.0, 1.0))
            assert score.low is not None and score.high is not None
            held += score.low <= truth <= score.high
        found[metric] = held / REPETITIONS
    return found
