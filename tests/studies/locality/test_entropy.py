import math

import pytest
import torch

from saekit.studies.locality.influence.entropy import (
    Places,
    entropy_bits,
    kl_bits,
    places,
    published_entropy_bits,
    shares,
    summaries,
)


def one_hot(n=64, at=5, size=1.0):
    J = torch.zeros(1, n, dtype=torch.float64)
    J[0, at] = size
    return J


@pytest.mark.parametrize(("J", "bits"), [([4, 2, 1, 1], 1.75), ([16, 4, 1, 1], 1.18670)])
def test_closed_forms(J, bits):
    found = entropy_bits(torch.tensor([J], dtype=torch.float64))
    assert float(found) == pytest.approx(bits, abs=5e-6)


def test_one_position_has_no_entropy_and_equal_ones_have_all():
    assert float(entropy_bits(one_hot())) == pytest.approx(2.5e-9, rel=0.1)
    assert float(entropy_bits(torch.ones(1, 64))) == pytest.approx(6)


def test_nothing_is_undefined_and_not_the_largest_entropy():
    zero = torch.zeros(2, 64)
    zero[1, 3] = 1
    found = entropy_bits(zero)
    assert found.isnan().tolist() == [True, False]
    assert float(published_entropy_bits(zero[:1])) == 6
    told = summaries(zero)
    assert told["undefined"].tolist() == [1, 0]
    assert all(math.isnan(v[0]) for k, v in told.items() if k not in ("undefined", "n_positions"))


def test_scale_changes_nothing_where_the_published_epsilon_does():
    small = one_hot(size=1e-12)
    assert float(entropy_bits(small)) == pytest.approx(2.5e-9, rel=0.1)
    assert float(published_entropy_bits(small)) == pytest.approx(5.9916, abs=1e-4)
    J = torch.rand(4, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(entropy_bits(J), entropy_bits(J * 1e-20), rtol=1e-12)
    assert torch.allclose(entropy_bits(J), published_entropy_bits(J), atol=1e-9)


def test_only_positions_of_the_document_count():
    J = torch.tensor([[9.0, 1, 1, 9], [9, 1, 1, 9]])
    first, last = torch.tensor([1, 0]), torch.tensor([2, 1])
    found = entropy_bits(J, first=first, last=last)
    assert found[0] == pytest.approx(1) and found[1] == pytest.approx(0.468996, abs=1e-6)
    assert float(entropy_bits(J[0], first=1, last=2)) == pytest.approx(1)


def test_not_finite_is_undefined():
    J = torch.tensor([[1.0, math.inf], [1, math.nan]])
    assert entropy_bits(J).isnan().all()


def test_what_a_profile_tells():
    J = torch.tensor([[0.0, 1, 2, 0, 1]])  # counted positions 1..4; shares 1/4 1/2 0 1/4
    told = {k: float(v) for k, v in summaries(J, places(5, 1, first=1)).items()}
    want = {
        "n_positions": 4,
        "entropy_bits": 1.5,
        "entropy_share": 0.75,
        "effective_tokens": 2**1.5,
        "participation": 1 / (1 / 16 + 1 / 4 + 1 / 16),
        "span_50": 1,
        "span_90": 3,
        "look_back": 3 / 4 + 2 / 2,
        "near_1": 0.25,
        "near_4": 1,
        "near_16": 1,
        "sink_mass": 0.25,
        "entropy_without_sink_bits": math.log2(3) - 2 / 3,
        "undefined": 0,
    }
    assert told.keys() == want.keys()
    for key, value in want.items():
        assert told[key] == pytest.approx(value, abs=1e-9), key


def test_special_tokens_are_sinks_too():
    J = torch.tensor([[1.0, 1, 1, 1]])
    where = Places(torch.tensor([0]), torch.tensor([3]), torch.tensor([[True, False, True, False]]))
    told = summaries(J, where)
    assert float(told["sink_mass"]) == pytest.approx(0.5)
    assert float(told["entropy_without_sink_bits"]) == pytest.approx(1)


def test_divergence_from_the_token_vector():
    P = shares(torch.tensor([[1.0, 1, 0, 0]]), torch.ones(1, 4).bool())
    Q = shares(torch.ones(1, 4), torch.ones(1, 4).bool())
    assert float(kl_bits(P, Q)) == pytest.approx(1)
    assert float(kl_bits(Q, Q)) == 0
    assert float(kl_bits(Q, P)) > 10  # no share of P is exactly 0


def test_one_position_has_no_share_of_log2_n():
    told = summaries(torch.tensor([[2.0]]))
    assert float(told["entropy_bits"]) == 0 and told["entropy_share"].isnan().all()
