"""What evaluations make of planted numbers, next to the same in numpy from the definition alone."""

import numpy as np
import pytest
import torch

from saekit.core.stats.multiple import holm
from saekit.evals._differences import Curve, Point, along, common_range, on_front
from saekit.studies.causal import resampling
from saekit.studies.causal.evals import disentanglement, scr
from saekit.studies.causal.evals.steering import UNIT, Steering
from saekit.studies.causal.evals.tpp import TPP
from saekit.studies.faithful.fakes import statistics as fakes
from saekit.studies.faithful.fakes.statistics import Units
from saekit.studies.faithful.probing import statistics as probing


@pytest.fixture
def drawn():
    return np.random.default_rng(0)


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def balanced(said, right):
    """The mean of the accuracy on either side."""
    return (np.mean(said[right] == right[right]) + np.mean(~said[~right])) / 2


def test_probes_are_right_as_often_as_they_are(drawn):
    labels, said = drawn.integers(3, size=(2, 60))
    draws = probing.drawn(60, 3, 0)
    f1 = []
    for c in range(3):
        hits = np.sum((said == c) & (labels == c))
        precision, recall = hits / np.sum(said == c), hits / np.sum(labels == c)
        f1.append(2 * precision * recall / (precision + recall))
    both = [probing.values(tensor(said), tensor(labels), m, draws)[0] for m in probing.METRICS]
    assert both == pytest.approx([np.mean(said == labels), np.mean(f1)])


def test_tpp_is_the_own_probe_s_fall_less_that_of_the_others(drawn):
    member = np.eye(3, dtype=bool)[drawn.integers(3, size=90)]
    before, draws = drawn.normal(size=(90, 3)), probing.drawn(90, 20, 0)
    after = before + drawn.normal(size=(3, 90, 3))  # [class whose latents went, text, probe]

    def right(logits):
        return torch.stack(
            [resampling.right(tensor(logits[:, c]), tensor(member[:, c]), draws) for c in range(3)],
            dim=1,
        )

    found = TPP()._score(right(before), torch.stack([right(a) for a in after], 1), 90, "")
    fell = np.array(
        [
            [
                balanced(before[:, p] > 0, member[:, p])
                - balanced(after[c][:, p] > 0, member[:, p])
                for p in range(3)
            ]
            for c in range(3)
        ]
    )
    own = [fell[c, c] - np.mean([fell[c, p] for p in range(3) if p != c]) for c in range(3)]
    assert found.value == pytest.approx(np.mean(own)) and found.low < found.value < found.high


def test_scr_is_the_share_of_the_mean_gap_that_is_closed(drawn):
    accuracy = {
        name: drawn.uniform(low, low + 0.05, size=(4, 30))
        for name, low in (("biased", 0.6), ("ablated", 0.7), ("clean", 0.85))
    }
    biased, ablated, clean = (tensor(a) for a in accuracy.values())
    found = scr._removed(ablated, biased, (clean - biased).mean(0), 100, "")
    means = {name: a[:, 0].mean() for name, a in accuracy.items()}
    wanted = (means["ablated"] - means["biased"]) / (means["clean"] - means["biased"])
    assert found.value == pytest.approx(wanted)
    alone = (accuracy["ablated"] - accuracy["biased"])[:, 0] / (
        accuracy["clean"] - accuracy["biased"]
    )[:, 0]
    spread = scr._spread((ablated, biased, clean), "", "").value
    assert spread == pytest.approx(np.std(alone, ddof=1))


def test_disentanglement_is_the_mean_of_cause_and_of_the_mean_isolation(drawn):
    test = np.array([1, 2, 4, 5, 7])
    draws = probing.drawn(len(test), 5, 0)
    asked = []
    for _ in range(3):
        pairs = np.stack([drawn.choice(test, 12), drawn.choice(test, 12)], 1)
        asked.append((pairs, drawn.integers(2, size=12).astype(float)))
    cause, *rest = (disentanglement._Hits.of(tensor(p), tensor(h), 8) for p, h in asked)
    found = disentanglement._over(cause, dict(zip("bc", rest, strict=True)), tensor(test), draws)
    shares = [h.mean() for _, h in asked]
    assert float(found["cause"][0]) == pytest.approx(shares[0])
    assert float(found["isolation"][0]) == pytest.approx(np.mean(shares[1:]))
    assert float(found["score"][0]) == pytest.approx((shares[0] + np.mean(shares[1:])) / 2)
    times = dict(zip(test.tolist(), draws.weights[2].tolist(), strict=True))  # of bases
    weight = [times[base] for base, _ in asked[0][0].tolist()]
    assert float(found["cause"][2]) == pytest.approx(np.average(asked[0][1], weights=weight))


def test_steering_is_the_mean_rise_of_shares_and_cost_that_of_losses(drawn):
    how, draws = Steering(n_prompts=12), probing.drawn(12, 40, 0)
    judged, plain = drawn.integers(2, size=(2, 3, 12)).astype(bool)  # [class, prompt]
    each = [
        resampling.means(tensor(a), draws) - resampling.means(tensor(b), draws)
        for a, b in zip(judged, plain, strict=True)
    ]
    found = how._mean("steering", each, UNIT, "", "higher")["steering"]
    assert found.value == pytest.approx(judged.mean() - plain.mean())
    rises = drawn.normal(size=(3, 12))
    cost = how._mean("cost", [tensor(r) for r in rises], "nats/token", "", "neither")["cost"]
    assert cost.value == pytest.approx(rises.mean()) and cost.low < cost.value < cost.high


def test_fake_is_over_p_on_noise_and_excess_is_not_on_text(drawn):
    noise, text = drawn.uniform(size=(2, 40, 50)) < drawn.uniform(0, 0.12, size=(2, 1, 50))
    found = fakes.count(
        *(Units(tensor(h).float(), torch.ones(40)) for h in (noise, text)), 0.05, 10, 0
    )
    fake, dense = noise.sum(0) > 2, text.sum(0) > 2  # over 5 % of 40
    assert found.seen == {"fake": fake.sum(), "dense": dense.sum(), "excess": (fake & ~dense).sum()}


def test_holm_s_p_is_the_level_at_which_its_steps_first_reject(drawn):
    p = drawn.uniform(0, 0.4, size=7).tolist()
    for i, adjusted in enumerate(holm(p)):
        assert rejected(p, adjusted + 1e-9, i) and not rejected(p, adjusted - 1e-9, i)


def rejected(p, level, i):
    """Holm's steps: the smallest p at level / n, the next at level / (n - 1), until one fails."""
    for step, k in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[k] > level / (len(p) - step):
            return False
        if k == i:
            return True
    return False


def test_the_front_is_all_that_nothing_dominates(drawn):
    l0, score = drawn.integers(1, 6, size=(2, 12)).astype(float)

    def dominates(a, b):
        no_worse = l0[a] <= l0[b] and score[a] <= score[b]
        return no_worse and (l0[a] < l0[b] or score[a] < score[b])

    wanted = [not any(dominates(a, b) for a in range(12)) for b in range(12)]
    assert on_front(tensor(l0), tensor(score)).tolist() == wanted


def test_curves_are_compared_by_their_mean_over_the_common_range(drawn):
    at = np.sort(drawn.uniform(1, 4, size=(2, 4)), axis=1)
    height = drawn.normal(size=(2, 4))
    places = dict(enumerate(at.ravel().tolist()))
    heights = dict(enumerate(height.ravel().tolist()))
    curves = [
        Curve(n, tuple(Point((4 * i + k,), ()) for k in range(4))) for i, n in enumerate("ab")
    ]
    span = common_range(*curves, places)
    assert span == (at[:, 0].max(), at[:, -1].min())
    grid = np.linspace(*span, 200_001)
    for i, curve in enumerate(curves):
        mean = np.interp(grid, at[i], height[i])
        mean = np.mean((mean[1:] + mean[:-1]) / 2)
        assert along(curve, heights, places, span) == pytest.approx(mean, abs=1e-4)
