"""Directions with a strength in every text: an SAE, an untrained one, principal components.

Whatever is ablated is taken out of the mean activation of a text: a text's mean code times the
directions is the mean of what single tokens' latents add, so that nothing is run again.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.studies.faithful.probing.logistic import Linear

NEAR = 16  # latents of about one frequency, among which a random one is drawn


class Dictionary(NamedTuple):
    """How strong each direction is in every text, and the directions."""

    codes: Float[Tensor, "n m"]
    directions: Float[Tensor, "m d"]

    def of(self, texts: Int[Tensor, "k"] | slice) -> "Dictionary":
        """Return the same directions, in some of the texts."""
        return self._replace(codes=self.codes[texts])

    @property
    def frequency(self) -> Float[Tensor, "m"]:
        """Share of texts in which each is on."""
        return (self.codes != 0).double().mean(0)


def components(x: Float[Tensor, "n d"], fitted_on: Int[Tensor, "k"] | slice) -> Dictionary:
    """Return the principal components of some texts, with what each has of every text.

    Args:
        x: activations of all texts.
        fitted_on: the texts whose mean and components are taken.
    """
    centre = x[fitted_on].double().mean(0)
    _, sizes, across = torch.linalg.svd(x[fitted_on].double() - centre, full_matrices=False)
    across = across[sizes > 1e-9 * sizes[:1].clamp_min(1e-300)]
    return Dictionary(((x.double() - centre) @ across.T).float(), across.float())


def ties(dictionary: Dictionary, is_class: Bool[Tensor, "n"], probe: Linear) -> Float[Tensor, "m"]:
    r"""Return how much each direction does for a probe of a class, on the texts of a dictionary.

    The mean strength in texts of the class less that in others, times the probe's weight along the
    direction.

    Source:
        Karvonen et al. 2025, arXiv:2503.09532 (SCR and TPP).
    """
    codes = dictionary.codes.double()
    gap = codes[is_class].mean(0) - codes[~is_class].mean(0)
    return gap * (dictionary.directions.double() @ probe.weight)


def tied(
    dictionary: Dictionary, is_class: Bool[Tensor, "n"], probe: Linear, most: int
) -> Int[Tensor, "k"]:
    """Return the directions that do most for a probe, the most first; none that does nothing."""
    values = ties(dictionary, is_class, probe)
    order = values.sort(descending=True, stable=True).indices[:most]
    return order[values[order] > 0]


def alike(
    frequency: Float[Tensor, "m"], chosen: Int[Tensor, "k"], generator: torch.Generator
) -> Int[Tensor, "at_most_k"]:
    """Return as many random latents, each about as frequent as the chosen one in its place.

    Each is drawn among the `NEAR` latents of the nearest frequency that are neither chosen nor
    drawn before; fewer come out where there are no more.
    """
    free = torch.ones(len(frequency), dtype=torch.bool)
    free[chosen] = False
    free &= frequency > 0
    found: list[int] = []
    for latent in chosen.tolist():
        there = free.nonzero()[:, 0]
        if not len(there):
            break
        far = (frequency[there] - frequency[latent]).abs()
        near = there[far.sort(stable=True).indices[:NEAR]]
        one = int(near[int(torch.randint(len(near), (1,), generator=generator))])
        found.append(one)
        free[one] = False
    return torch.tensor(found, dtype=torch.int64)


def without(
    probes: list[Linear],
    x: Float[Tensor, "n d"],
    dictionary: Dictionary,
    chosen: Int[Tensor, "k"],
    numbers: tuple[int, ...],
) -> dict[int, Float[Tensor, "n probes"]]:
    """Return the logits of probes with the first so many of the chosen directions taken out.

    Args:
        probes: of the activation.
        x: the activation of each text.
        dictionary: of the same texts.
        chosen: directions, the first to go first.
        numbers: how many.
    """
    weight = torch.stack([p.weight for p in probes], dim=1)
    logits = torch.stack([p.logits(x) for p in probes], dim=1)
    reach = dictionary.directions[chosen].double() @ weight
    codes = dictionary.codes[:, chosen].double()
    return {n: logits - codes[:, :n] @ reach[:n] for n in numbers}


def held(x: Float[Tensor, "n d"], own: Dictionary, is_class: Bool[Tensor, "n"]) -> float | None:
    r"""Return how much of the difference of two class means the latents hold; 1 is all of it.

    .. math:: 1 - |\Delta x - W \Delta z|^2 / |\Delta x|^2

    None where the classes have the same mean.
    """
    x, codes = x.double(), own.codes.double()
    gap = x[is_class].mean(0) - x[~is_class].mean(0)
    made = (codes[is_class].mean(0) - codes[~is_class].mean(0)) @ own.directions.double()
    whole = float(gap.square().sum())
    return 1 - float((gap - made).square().sum()) / whole if whole > 0 else None
