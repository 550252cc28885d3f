"""Legacy: examples as the published pipeline picked them, draw for draw, on a small corpus."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.errors import ConfigError

SEED = 42
EDGE = 10  # tokens on each side of a peak
DEAD = 15  # tokens: a latent that is on at no more is not measured
SURPLUS = 2  # of each kind are picked more than are shown
TINY = 1e-6  # act units
MOST_PLACES = 2**24  # that torch.multinomial draws from


class LegacyExample(NamedTuple):
    """A window of 2 x 10 + 1 tokens: its row, where it begins, and what the latent does in it."""

    row: int
    first: int
    acts: list[float]

    @property
    def top_act(self) -> float:
        """Largest activation in the window."""
        return max(self.acts)


def drawn(on: Int[Tensor, "latents"], places: int, total: int, features: int | None) -> list[int]:
    """Return the latents that are measured, by the published draw.

    Args:
        on: places where each latent is on, special tokens left out.
        places: that are no special tokens.
        total: tokens that were asked for; a count is the share of places times these.
        features: how many are drawn; None: every one that is alive.
    """
    counts = on.double() / max(places, 1) * total
    alive = (counts > DEAD).nonzero()[:, 0].tolist()
    if features is None or features >= len(alive):
        return alive
    return sorted(random.Random(SEED).sample(alive, features))


def examples(
    acts: Float[Tensor, "rows n_ctx latents"],
    special: Bool[Tensor, "rows n_ctx"],
    latents: Sequence[int],
    *,
    top: int = 10,
    weighted: int = 5,
) -> dict[int, list[LegacyExample]]:
    """Return the examples of each latent, the strongest first, with the published draws in order.

    Latents whose strongest windows are all zero have no entry. Activations are rounded to bfloat16,
    as published, so ties are as there.

    Args:
        acts: of the measured latents, in the order of `latents`.
        special: BOS, EOS and padding, which count as 0.
        latents: their numbers.
        top: strongest windows that are kept.
        weighted: drawn windows that are kept.

    Raises:
        ConfigError: the corpus has over 2^24 places, or rows without a whole window.

    Source:
        nathanhu0/sae-sensitivity and SAEBench, as described; our own words. Differs: fewer windows
        are kept where fewer places are active, where the published draw took places of weight 0.
    """
    rows, n_ctx, _ = acts.shape
    inner = n_ctx - 2 * EDGE
    if inner < 1 or rows * inner > MOST_PLACES:
        raise ConfigError(
            f"The published way takes rows of over {2 * EDGE} tokens and at most {MOST_PLACES:,} "
            f"places; got {rows:,} rows of {n_ctx}. Use less text, or saekit's own way."
        )
    chance = torch.Generator().manual_seed(SEED)  # draws what PyTorch's own does when so seeded
    found = {}
    for i, latent in enumerate(latents):
        own = acts[:, :, i].masked_fill(special, 0.0).bfloat16()
        strongest = _separate(own, top + SURPLUS)
        windows = [_window(own, place) for place in strongest]
        if not windows or max(w.top_act for w in windows) < TINY:
            continue
        least = min(float(own[row, at]) for row, at in strongest)
        rest = own.masked_fill(own >= least, 0.0)[:, EDGE : n_ctx - EDGE]
        others = []
        if float(rest.max()) >= TINY:
            weight = rest.float().square().flatten()
            n = min(weighted + SURPLUS, int((weight > 0).sum()))
            picked = torch.multinomial(weight, n, replacement=False, generator=chance).tolist()
            others = [_window(own, (p // inner, p % inner + EDGE)) for p in picked]
        kept = [windows[j] for j in torch.randperm(len(windows), generator=chance)[:top].tolist()]
        if others:
            kept += [
                others[j] for j in torch.randperm(len(others), generator=chance)[:weighted].tolist()
            ]
        found[latent] = sorted(kept, key=lambda w: -w.top_act)
    return found


def _separate(own: Tensor, n: int) -> list[tuple[int, int]]:
    """Return the strongest places, none within 10 tokens of a stronger one in its row."""
    n_ctx = own.shape[1]
    inner = own[:, EDGE : n_ctx - EDGE]
    width = inner.shape[1]
    taken: list[tuple[int, int]] = []
    for place in inner.flatten().argsort(descending=True, stable=True).tolist():
        row, at = place // width, place % width + EDGE
        if all(row != r or abs(at - c) > EDGE for r, c in taken):
            taken.append((row, at))
            if len(taken) == n:
                break
    return taken


def _window(own: Tensor, place: tuple[int, int]) -> LegacyExample:
    row, at = place
    return LegacyExample(row, at - EDGE, own[row, at - EDGE : at + EDGE + 1].tolist())
