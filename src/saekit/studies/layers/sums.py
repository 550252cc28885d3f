"""LayerSums: what one pass over a corpus keeps of every latent at every layer."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.errors import ConfigError

PAIR_CELLS = 2**18  # (token, latent) places in memory at a time, 16 bytes each


class LayerCodes(NamedTuple):
    """The active latents of some rows of text at one layer, in text order."""

    place: Int[Tensor, "nnz"]  # row in the batch * n_ctx + position, ascending
    latent: Int[Tensor, "nnz"]
    strength: Float[Tensor, "nnz"]  # above 0, in units that layers share
    n_tokens: int  # tokens that count at this layer, active latents or not


class LayerSums:
    r"""Sums over tokens, by latent and layer, that add up whatever the batches.

    With a(l, t, i) the strength of latent i on token t at layer l, m(t, i) its sum over layers
    and p(l | t, i) = a / m where m is above 0:

    - ``counts``, ``totals``, ``squares``, ``shares`` [layers, d_sae]: how often a is above 0,
      sums over tokens of a, of its square, of p;
    - ``centres`` [d_sae]: sum over tokens of m * E(l | t, i)^2, with E over layers by p;
    - ``even_centres`` [d_sae]: sum over tokens of E(l | t, i)^2, where m is above 0;
    - ``singles`` [d_sae]: (token, latent) pairs that are active at one layer only;
    - ``tokens`` [layers]: tokens that count at each layer; ``n_tokens``: at any.

    Counts are int64, sums float64. Memory is that of these arrays and of `PAIR_CELLS`
    places, whatever the number of tokens.

    Args:
        numbers: the layer of each site, as `SharedSAE.numbers`.
        d_sae: number of latents.
        device: where sums are kept.
    """

    def __init__(self, numbers: Sequence[int], d_sae: int, device: torch.device | str = "cpu"):
        self.numbers, self.d_sae = list(numbers), d_sae
        shape = (len(numbers), d_sae)
        self.counts = torch.zeros(shape, dtype=torch.int64, device=device)
        self.totals, self.squares, self.shares = (
            torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(3)
        )
        self.centres, self.even_centres = (
            torch.zeros(d_sae, dtype=torch.float64, device=device) for _ in range(2)
        )
        self.singles = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.tokens = torch.zeros(len(numbers), dtype=torch.int64)
        self.n_tokens = 0

    @property
    def pairs(self) -> Int[Tensor, "d_sae"]:
        """Tokens on which each latent is active at one layer or more."""
        return self.shares.sum(0).round().long()  # shares of a token and latent sum to 1

    def add(self, layers: Sequence[LayerCodes], n_places: int, n_tokens: int) -> None:
        """Add some whole rows of text.

        Args:
            layers: one entry a layer, in the order of `numbers`.
            n_places: tokens of these rows, special ones included.
            n_tokens: of them those that count at any layer.
        """
        assert len(layers) == len(self.numbers)
        for row, layer in enumerate(layers):
            strength = layer.strength.double()
            self.counts[row] += torch.bincount(layer.latent, minlength=self.d_sae)
            self.totals[row].index_add_(0, layer.latent, strength)
            self.squares[row].index_add_(0, layer.latent, strength.square())
            self.tokens[row] += layer.n_tokens
        self.n_tokens += n_tokens
        self._add_pairs(layers, n_places)

    def _add_pairs(self, layers: Sequence[LayerCodes], n_places: int) -> None:
        """Add what needs the layers of one token together, some tokens at a time."""
        step = max(1, PAIR_CELLS // self.d_sae)
        edges = torch.arange(0, n_places + step, step, device=self.counts.device)
        ends = [torch.searchsorted(layer.place, edges).tolist() for layer in layers]
        mass = torch.zeros(
            min(step, n_places) * self.d_sae, dtype=torch.float64, device=self.counts.device
        )
        moment = torch.zeros_like(mass)
        rows = torch.arange(len(layers), device=mass.device)
        numbers = torch.tensor(self.numbers, dtype=torch.float64, device=mass.device)
        for chunk in range(len(edges) - 1):
            parts = [slice(e[chunk], e[chunk + 1]) for e in ends]
            both = list(zip(layers, parts, strict=True))
            place = torch.cat([layer.place[part] for layer, part in both])
            latent = torch.cat([layer.latent[part] for layer, part in both])
            strength = torch.cat([layer.strength[part] for layer, part in both]).double()
            sizes = torch.tensor([p.stop - p.start for p in parts], device=rows.device)
            row = torch.repeat_interleave(rows, sizes)
            key = (place - chunk * step).mul_(self.d_sae).add_(latent)
            mass.index_add_(0, key, strength)
            moment.index_add_(0, key, strength * numbers[row])
            whole = mass[key]
            share = strength / whole
            square = (moment[key] / whole).square_()
            self.shares.view(-1).index_add_(0, row.mul_(self.d_sae).add_(latent), share)
            self.centres.index_add_(0, latent, strength.mul_(square))
            self.singles += torch.bincount(latent[share == 1.0], minlength=self.d_sae)
            self.even_centres.index_add_(0, latent, share.mul_(square))
            mass[key] = 0.0
            moment[key] = 0.0

    def merge(self, other: "LayerSums") -> None:
        """Add the sums of other text.

        Raises:
            ConfigError: they are of other layers, or of another number of latents.
        """
        if (self.numbers, self.d_sae) != (other.numbers, other.d_sae):
            raise ConfigError(
                f"Only sums of the same layers and latents add up; got layers {self.numbers} and "
                f"{other.numbers}, {self.d_sae} and {other.d_sae} latents."
            )
        for name, value in self.tensors().items():
            value += other.tensors()[name].to(value.device)
        self.n_tokens += other.n_tokens

    def tensors(self) -> dict[str, Tensor]:
        """Return the arrays by name; they are those of this object, not copies."""
        names = ("counts", "totals", "squares", "shares", "centres", "even_centres", "singles")
        return {name: getattr(self, name) for name in (*names, "tokens")}

    @staticmethod
    def of(numbers: Sequence[int], tensors: dict[str, Tensor], n_tokens: int) -> "LayerSums":
        """Return sums from what `tensors` gave."""
        found = LayerSums(numbers, tensors["counts"].shape[1])
        for name, value in found.tensors().items():
            value.copy_(tensors[name])
        found.n_tokens = n_tokens
        return found
