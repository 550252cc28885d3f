"""The way to GPU kernels: their result, or None where the reference is to do the work."""

import functools
import importlib
import importlib.util
import warnings
from typing import Any

import torch
from torch import Tensor


def run(module: str, name: str, tensor: Tensor, *args: Any, **options: Any) -> Any:
    """Return what a kernel gives for `tensor` and `args`; None where it takes none of it.

    Args:
        module: file of `saekit.kernels.triton` that has the kernel.
        name: of the function.
        tensor: decides whether there are kernels; the first argument.
        args: the others.
        options: by name.
    """
    if not usable(tensor):
        return None
    kernels = importlib.import_module(f"saekit.kernels.triton.{module}")
    plain = [a.contiguous() if torch.is_tensor(a) else a for a in args]
    try:
        return getattr(kernels, name)(tensor.contiguous(), *plain, **options)
    except importlib.import_module("saekit.kernels.triton.maps").Unsupported as error:
        # Many entries are no fault: the reference is the faster one then.
        if type(error).__name__ != "TooDense":
            _say(name, str(error))
        return None


def usable(tensor: Tensor) -> bool:
    """Return whether kernels may be asked: they run on CUDA and need `triton`."""
    return tensor.is_cuda and _installed()


def dense_share(tensor: Tensor) -> float | None:
    """Return the share of non-zeros above which a dense product is faster, by arithmetic."""
    if not usable(tensor):
        return None
    kernels = importlib.import_module("saekit.kernels.triton.maps")
    quick = torch.get_float32_matmul_precision() != "highest"
    product = "bf16" if tensor.dtype == torch.bfloat16 else "tf32" if quick else "fp32"
    return kernels.gather_share(tensor.dtype, product)


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _say(name: str, why: str) -> None:
    warnings.warn(f"GPU kernel `{name}` is not used: {why}", stacklevel=4)
