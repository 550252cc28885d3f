"""One seed for a run, split by name, so that adding a use of chance moves no other."""

import hashlib

import torch


def derive(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and every name."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: str = "cpu") -> torch.Generator:
    """Return a generator seeded by `derive`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))
