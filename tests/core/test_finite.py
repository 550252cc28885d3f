"""A sum tells whether all entries are finite, also where it overflows itself."""

import pytest
import torch

from saekit.core.finite import all_finite

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_entry_is_seen(dtype, bad):
    x = torch.ones(7, 5, dtype=dtype)
    assert all_finite(x)
    x[3, 2] = bad
    assert not all_finite(x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinities_of_both_signs_do_not_cancel(dtype):
    assert not all_finite(torch.tensor([float("inf"), -float("inf")], dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_that_overflows_is_no_verdict(dtype):
    assert all_finite(torch.full((100,), torch.finfo(dtype).max, dtype=dtype))


def test_nothing_is_finite():
    assert all_finite(torch.empty(0, 4))
