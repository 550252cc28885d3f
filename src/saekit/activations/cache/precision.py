"""Precision: how activations are written to disk, and what that costs."""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from saekit.core.errors import ConfigError, DataError, nearest

Precision = Literal["float32", "bfloat16", "float16", "float8", "int8w"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
STORED = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8": torch.float8_e4m3fn,
    "int8w": torch.int8,
}
# What reading gives. A float8 times a power of two is a bfloat16, exactly.
GIVEN = STORED | {"float8": torch.bfloat16, "int8w": torch.float32}
_FLOAT16_MAX, _FLOAT8_MAX, _INT8_MAX = 65504.0, 448.0, 127.0


class Channels(NamedTuple):
    """Mean and standard deviation of each dimension, which `int8w` is relative to."""

    mean: Float[Tensor, "width"]  # act units
    std: Float[Tensor, "width"]

    @staticmethod
    def of(acts: Float[Tensor, "n width"]) -> "Channels":
        """Return those of a sample; a dimension that does not vary has a deviation of 1."""
        wide = acts.double()
        std = wide.std(0, correction=0)
        return Channels(wide.mean(0).float(), torch.where(std > 0, std, 1.0).float())


class StoredRows(NamedTuple):
    """Activations as they are stored."""

    values: Shaped[Tensor, "*rows width"]
    scale: Float[Tensor, "*rows"] | None  # by which values are multiplied; None: 1


def check_precision(name: str) -> None:
    """Refuse a name that is no precision.

    Raises:
        ConfigError: it is none.
    """
    if name not in PRECISIONS:
        raise ConfigError(
            f"`precision` must be one of {', '.join(PRECISIONS)}; got {name!r}."
            f"{nearest(name, PRECISIONS)}"
        )


def scaled(precision: str) -> bool:
    """Return whether a row has a scale beside it."""
    return precision in ("float8", "int8w")


def encode(
    acts: Float[Tensor, "*rows width"], precision: str, channels: Channels | None = None
) -> StoredRows:
    """Return activations as they are stored.

    float32, bfloat16, float16: rounded to the nearest. float8: e4m3 with a power of two a
    row, the smallest that brings the row within 448, so that only three bits of mantissa are
    lost and none to the scale. int8w: each dimension standardised by `channels`, then
    127 steps to the largest of the row.

    Args:
        acts: finite activations.
        precision: one of `PRECISIONS`.
        channels: of the site; for int8w.

    Raises:
        DataError: float16 was asked and an activation is beyond 65,504.

    Source:
        Which formats keep a row, and which do not (raw float8, int8 without channels):
        measured on two models, docs/streams.md.
    """
    wide = acts.float()
    if precision == "float16":
        largest = float(wide.abs().max()) if wide.numel() else 0.0
        if largest > _FLOAT16_MAX:
            raise DataError(
                f"An activation of {largest:,.0f} does not fit float16, which ends at 65,504. "
                f"Use precision bfloat16: it takes as many bytes."
            )
    if precision == "float8":
        # m * 2^e with m in [1/2, 1): over 2^e the row's largest is 224 to 448.
        _, power = torch.frexp(wide.abs().amax(-1) / _FLOAT8_MAX)
        scale = torch.ldexp(torch.ones_like(wide[..., 0]), power)
        return StoredRows((wide / scale[..., None]).to(torch.float8_e4m3fn), scale)
    if precision == "int8w":
        assert channels is not None
        z = (wide - channels.mean.to(wide)) / channels.std.to(wide)
        largest = z.abs().amax(-1)
        scale = torch.where(largest > 0, largest / _INT8_MAX, 1.0)
        return StoredRows((z / scale[..., None]).round().to(torch.int8), scale)
    return StoredRows(acts.to(STORED[precision]), None)


def decode(
    encoded: StoredRows, precision: str, channels: Channels | None = None
) -> Float[Tensor, "*rows width"]:
    """Return the activations that were stored, in the type `GIVEN` says."""
    values, scale = encoded
    if precision == "float8":
        assert scale is not None
        return values.to(torch.bfloat16) * scale[..., None].to(torch.bfloat16)
    if precision == "int8w":
        assert scale is not None and channels is not None
        return values.float() * scale[..., None] * channels.std + channels.mean
    return values


def added_fvu(
    acts: Float[Tensor, "n width"], precision: str, channels: Channels | None = None
) -> float:
    """Return the variance that storing loses, as a share of that of the activations."""
    back = decode(encode(acts, precision, channels), precision, channels).double()
    wide = acts.double()
    return float((back - wide).square().sum() / (wide - wide.mean(0)).square().sum())
