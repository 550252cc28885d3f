"""What is stored, what comes back, and what that loses."""

import pytest
import torch

from saekit.activations.cache.precision import (
    GIVEN,
    PRECISIONS,
    Channels,
    added_fvu,
    check_precision,
    decode,
    encode,
)
from saekit.core.errors import ConfigError, DataError


def acts(n=2000, width=64, seed=0):
    """Activations as models have them: a mean, few large dimensions, rows of many sizes."""
    chance = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-1, 2, width)
    rows = torch.randn(n, width, generator=chance) * sizes
    return rows * torch.rand(n, 1, generator=chance) + 3 * sizes


def through(x, precision):
    channels = Channels.of(x)
    return decode(encode(x, precision, channels), precision, channels)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_reading_gives_the_type_it_says(precision):
    assert through(acts(), precision).dtype == GIVEN[precision]


def test_float32_is_exact_and_others_lose_what_they_should():
    x = acts()
    lost = {p: added_fvu(x, p, Channels.of(x)) for p in PRECISIONS}
    assert lost["float32"] == 0
    # Rounding to m bits of mantissa is uniform in +-2^-(m+1) of the power of two below.
    assert 0 < lost["float16"] < lost["bfloat16"] < lost["float8"] < 0.03
    assert lost["bfloat16"] / lost["float16"] == pytest.approx(64, rel=0.2)  # 7 bits, 10 bits


def test_float8_rounds_to_three_bits_whatever_the_size_of_the_row():
    x = 1 + torch.rand(2000, 64, generator=torch.Generator().manual_seed(0))
    for size in (1e-20, 1.0, 1e20):
        error = (through(x * size, "float8").float() / (x * size) - 1).abs()
        assert 2**-4.2 < error.max() <= 2**-4 + 1e-6


def test_float8_comes_back_exactly_as_bfloat16():
    encoded = encode(acts(), "float8")
    exact = encoded.values.double() * encoded.scale.double()[:, None]
    assert torch.equal(decode(encoded, "float8").double(), exact)
    assert encoded.values.float().abs().amax(-1).min() >= 224 * (1 - 2**-4)


@pytest.mark.parametrize("precision", ["float8", "int8w"])
def test_a_row_of_zeros_is_kept(precision):
    x = acts()
    x[3] = 0
    back = through(x, precision).float()
    assert back.isfinite().all()
    assert (back[3] - 0).abs().max() <= (0 if precision == "float8" else 3.0)


def test_a_massive_row_does_not_spoil_the_others():
    x = acts()
    others = through(x, "float8")[:100]
    x[1000] *= 1e4
    assert torch.equal(through(x, "float8")[:100], others)


def test_float16_refuses_what_it_cannot_hold():
    x = acts()
    x[5, 5] = 88_093  # seen on a real model
    with pytest.raises(DataError, match=r"88,093.*bfloat16"):
        encode(x, "float16")
    x[5, 5] = 65_504
    assert encode(x, "float16").values.isfinite().all()


def test_an_unknown_precision_is_named():
    with pytest.raises(ConfigError, match="Did you mean `float16`"):
        check_precision("flaot16")
