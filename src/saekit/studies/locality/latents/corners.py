"""Corner latents: those at the extremes of two measures at once."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.errors import ConfigError, DataError

NAMES = ("lowH_short", "lowH_long", "highH_short", "highH_long")


def corners(
    latents: Int[Tensor, "n"],
    entropy: Float[Tensor, "n"],
    length: Float[Tensor, "n"],
    *,
    share: float = 0.25,
) -> dict[str, list[int]]:
    """Return the latents in the outer shares of both measures.

    ``lowH`` is the lowest `share` of mean H_pos, ``highH`` the highest; ``short`` and
    ``long`` those of `length`. Shares are of the latents for which both are known. Latents
    equal to a quantile are in.

    Args:
        latents: which.
        entropy: mean H_pos of each, bits; NaN where not known.
        length: how long each stays on, as tau_1e, tokens; NaN where not known.
        share: above 0, at most 0.5.

    Raises:
        ConfigError: `share` is out of range.
        DataError: fewer than 4 latents have both.

    Source:
        Ours; names of the SAE Locality dataset (`corner_categories.json`).
    """
    if not 0 < share <= 0.5:
        raise ConfigError(f"`share` must lie above 0 and at most 0.5; got {share}.")
    known = entropy.isfinite() & length.isfinite()
    if int(known.sum()) < 4:
        raise DataError(
            f"Corners need 4 latents or more with an entropy and a length; {int(known.sum())} of "
            f"{len(latents)} have both."
        )
    at = torch.tensor([share, 1 - share], dtype=torch.float64)
    low, high = torch.quantile(entropy[known].double(), at).tolist()
    short, long = torch.quantile(length[known].double(), at).tolist()
    sides = {"lowH": entropy <= low, "highH": entropy >= high}
    spans = {"short": length <= short, "long": length >= long}
    found = {}
    for name in NAMES:
        side, span = name.split("_")
        found[name] = latents[known & sides[side] & spans[span]].tolist()
    return found
