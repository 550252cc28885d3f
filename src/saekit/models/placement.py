"""Where a model runs, and in which dtype, from what the user asked."""

import importlib.util
import re
from collections.abc import Mapping
from typing import Any

import torch

from saekit.core import machine
from saekit.core.errors import ConfigError, MissingExtraError, ResourceError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def bfloat16_is_fast(device: torch.device) -> bool:
    """Tell whether the hardware multiplies bfloat16 matrices faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return machine.bfloat16_products()


def pick_device(name: str) -> torch.device:
    """Return the device called ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: CUDA where present.

    Raises:
        ConfigError: it is none of these.
        ResourceError: there is no such CUDA device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if re.fullmatch(r"cpu|cuda(:\d+)?", name) is None:
        raise ConfigError(f"`device` must be cpu, cuda, cuda:N or auto; got `{name}`.")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"`device` is {name}; PyTorch sees {torch.cuda.device_count()} CUDA devices here. "
            f"Use --device cpu, or install a PyTorch built for CUDA and its driver."
        )
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype called `name`; ``auto`` is bfloat16 where that is fast, else float32.

    Raises:
        ConfigError: it is not ``auto`` or one of `DTYPES`.
    """
    if name == "auto":
        return torch.bfloat16 if bfloat16_is_fast(device) else torch.float32
    if name not in DTYPES:
        raise ConfigError(f"`dtype` must be auto, {', '.join(DTYPES)}; got `{name}`.")
    return DTYPES[name]


def spread_settings(
    library: Any, device_map: str | Mapping[str, Any] | None, bits: str | None, dtype: torch.dtype
) -> dict[str, Any]:
    """Return what transformers takes to load a model over several devices, or with few bits.

    Args:
        library: transformers.
        device_map: ``auto``, or devices by module; None: all on one device.
        bits: ``8bit``, ``4bit``, or None.
        dtype: of what is not quantised.

    Raises:
        ConfigError: it is none of these.
        MissingExtraError: accelerate or bitsandbytes is not installed.
    """
    if bits not in (None, "8bit", "4bit"):
        raise ConfigError(f"`quantisation` must be 8bit or 4bit; got {bits!r}.")
    if isinstance(device_map, str) and device_map != "auto":
        raise ConfigError(f"`device_map` must be auto or devices by module; got {device_map!r}.")
    if device_map is None and bits is None:
        return {}
    for name in ["accelerate"] + ["bitsandbytes"] * (bits is not None):
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(name, "large")
    found: dict[str, Any] = {"device_map": "auto" if device_map is None else device_map}
    if isinstance(device_map, Mapping):
        found["device_map"] = dict(device_map)
    if bits is not None:
        rest = {"bnb_4bit_compute_dtype": dtype, "bnb_4bit_quant_type": "nf4"}
        rest = rest if bits == "4bit" else {}
        settings = library.BitsAndBytesConfig(**{f"load_in_{bits}": True}, **rest)
        found["quantization_config"] = settings
    return found
