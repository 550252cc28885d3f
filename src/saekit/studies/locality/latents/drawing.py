"""Which latents are looked at, where nobody names them."""

import torch

from saekit.activations.latents import LatentStore
from saekit.core.errors import ConfigError
from saekit.core.seeds import generator


def draw_latents(store: LatentStore, n: int, density: tuple[float, float], seed: int) -> list[int]:
    """Return `n` latents drawn from those whose share of tokens is in a range, in order.

    Raises:
        ConfigError: `n` is below 1, or no latent is in the range.
    """
    share = store.density
    pool = ((share >= density[0]) & (share <= density[1]) & (store.counts > 0)).nonzero()[:, 0]
    if n < 1 or not len(pool):
        raise ConfigError(
            f"Asked for {n} of {len(pool)} latents with a density of {density[0]:g} to "
            f"{density[1]:g}. Ask for 1 or more, or widen --min-density and --max-density."
        )
    order = torch.randperm(len(pool), generator=generator(seed, "latents"))
    return sorted(pool[order[:n]].tolist())
