"""Examples: the strongest contexts of every latent at every layer, kept while text streams by."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.errors import ConfigError
from saekit.data.tokenise import Rows
from saekit.studies.layers.sums import LayerCodes

NOTHING = -1  # a place of a window beyond the document, and the row of an empty slot


class Example(NamedTuple):
    """A strong token of a latent at a layer, and the text around it."""

    strength: float
    row: int  # of the token stream
    pos: int  # in the row
    tokens: list[int]  # ids of the window: of one row and one document
    strengths: list[float]  # of the latent at this layer on each
    peak: int  # index of the token in the window


class Examples:
    """The `n` strongest tokens of each (layer, latent), with a window of text around each.

    Of a row of tokens only the strongest counts (the first of equals), so that no text is
    shown twice; among equals the earlier row wins. So nothing depends on how rows came in
    batches, or on the order in which parts of a corpus were merged. A window stays within the
    row and within the document of its token.

    Memory: 16 bytes and 8 a place of a window for each of n * layers * d_sae slots, taken when
    a slot is first used.

    Args:
        n_layers: layers.
        d_sae: latents.
        n: examples kept of each latent at each layer, at least 0.
        before: tokens of a window before its token.
        after: tokens after it.
    """

    def __init__(self, n_layers: int, d_sae: int, *, n: int, before: int, after: int):
        for name, value in (("n", n), ("before", before), ("after", after)):
            if value < 0:
                raise ConfigError(f"`{name}` of examples must be at least 0; got {value}.")
        self.n, self.before, self.after = n, before, after
        shape = (n_layers, d_sae, n)
        self.strength = torch.zeros(shape)
        self.row = torch.full(shape, NOTHING, dtype=torch.int64)
        self.pos = torch.zeros(shape, dtype=torch.int32)
        self.ids = torch.zeros((*shape, self.width), dtype=torch.int32)  # + 1; 0: no token
        self.window = torch.zeros((*shape, self.width))

    @property
    def width(self) -> int:
        """Tokens of a window."""
        return self.before + 1 + self.after

    def add(self, index: int, layer: LayerCodes, rows: Rows) -> None:
        """Take in the codes of some whole rows at the layer in place `index`."""
        if not self.n or not len(layer.latent):
            return
        n_rows, n_ctx = rows.tokens.shape
        latent, strength = layer.latent.cpu(), layer.strength.float().cpu()
        place = layer.place.cpu()
        weakest = self.strength[index, :, -1]
        hopeful = strength >= weakest[latent]
        latent, strength, place = latent[hopeful], strength[hopeful], place[hopeful]
        best, where = _peaks(latent, strength, place, (self.strength.shape[1], n_rows, n_ctx))
        touched = (best > 0).any(1).nonzero()[:, 0]
        if not len(touched):
            return
        found = best[touched]
        row = torch.arange(n_rows).add(rows.first_row).where(found > 0, NOTHING)
        strength_of = torch.cat([self.strength[index, touched], found], dim=1)
        row_of = torch.cat([self.row[index, touched], row], dim=1)
        order = _strongest(strength_of, row_of)[:, : self.n]  # [touched, n]
        fresh = (order >= self.n) & (row_of.gather(1, order) != NOTHING)
        self._keep(index, touched, order, strength_of, row_of)
        self._fill(index, touched, fresh, order - self.n, where[touched], layer, rows)

    def _keep(
        self, index: int, touched: Tensor, order: Tensor, strength_of: Tensor, row_of: Tensor
    ) -> None:
        """Put slots in their new order; what a new example shows is filled in afterwards."""
        self.strength[index, touched] = strength_of.gather(1, order)
        self.row[index, touched] = row_of.gather(1, order)
        own = order.clamp(max=self.n - 1)
        self.pos[index, touched] = self.pos[index, touched].gather(1, own)
        wide = own[..., None].expand(-1, -1, self.width)
        for values in (self.ids, self.window):
            values[index, touched] = values[index, touched].gather(1, wide)

    def _fill(
        self,
        index: int,
        touched: Tensor,
        fresh: Bool[Tensor, "u n"],
        row: Int[Tensor, "u n"],
        where: Int[Tensor, "u rows"],
        layer: LayerCodes,
        rows: Rows,
    ) -> None:
        """Read position and window of new examples from the rows they are in."""
        line, slot = fresh.nonzero(as_tuple=True)
        in_batch = row[line, slot]
        pos = where[line, in_batch]  # [m]
        latent = touched[line]
        n_ctx = rows.tokens.shape[1]
        at = pos[:, None] + torch.arange(-self.before, self.after + 1)
        inside = (at >= 0) & (at < n_ctx)
        at.clamp_(0, n_ctx - 1)
        docs = rows.doc_ids[in_batch[:, None], at]
        inside &= docs == rows.doc_ids[in_batch, pos][:, None]
        ids = (rows.tokens[in_batch[:, None], at].int() + 1).where(inside, 0)
        acts = _acts_at(layer, latent, in_batch[:, None] * n_ctx + at, self.strength.shape[1])
        self.pos[index, latent, slot] = pos.int()
        self.ids[index, latent, slot] = ids.int()
        self.window[index, latent, slot] = acts.where(inside, 0.0)

    def merge(self, other: "Examples") -> None:
        """Keep the strongest of both.

        Raises:
            ConfigError: they have other shapes.
        """
        if self.ids.shape != other.ids.shape or self.before != other.before:
            raise ConfigError(
                f"Only examples of the same layers, latents, n, before and after can be merged; "
                f"got {tuple(self.ids.shape)} and {tuple(other.ids.shape)}, before "
                f"{self.before} and {other.before}."
            )
        if not self.n:
            return
        for layer in range(len(self.row)):
            strength = torch.cat([self.strength[layer], other.strength[layer]], dim=1)
            row = torch.cat([self.row[layer], other.row[layer]], dim=1)
            order = _strongest(strength, row)[:, : self.n]
            for name, value in self.tensors().items():
                both = torch.cat([value[layer], other.tensors()[name][layer]], dim=1)
                index = order if both.ndim == 2 else order[..., None].expand(-1, -1, self.width)
                value[layer] = both.gather(1, index)

    def of(self, index: int, latent: int) -> list[Example]:
        """Return the examples of a latent at the layer in place `index`, the strongest first."""
        found = []
        for slot in range(self.n):
            if self.row[index, latent, slot] == NOTHING:
                continue
            ids = self.ids[index, latent, slot]
            inside = (ids > 0).nonzero()[:, 0]
            first, last = int(inside[0]), int(inside[-1]) + 1
            found.append(
                Example(
                    float(self.strength[index, latent, slot]),
                    int(self.row[index, latent, slot]),
                    int(self.pos[index, latent, slot]),
                    (ids[first:last] - 1).tolist(),
                    self.window[index, latent, slot, first:last].tolist(),
                    self.before - first,
                )
            )
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Return the arrays by name; they are those of this object, not copies."""
        return {k: getattr(self, k) for k in ("strength", "row", "pos", "ids", "window")}

    def packed(self) -> dict[str, Tensor]:
        """Return the slots that hold an example, as tensors to write."""
        used = (self.row != NOTHING).flatten().nonzero()[:, 0]
        found = {k: v.flatten(0, 2)[used] for k, v in self.tensors().items()}
        return found | {"slot": used}

    def unpack(self, tensors: dict[str, Tensor]) -> None:
        """Take in what `packed` gave, of the same shape."""
        for name, value in self.tensors().items():
            value.flatten(0, 2)[tensors["slot"]] = tensors[name]


def _peaks(
    latent: Int[Tensor, "m"],
    strength: Float[Tensor, "m"],
    place: Int[Tensor, "m"],
    sizes: tuple[int, int, int],
) -> tuple[Float[Tensor, "d_sae rows"], Int[Tensor, "d_sae rows"]]:
    """Return the strongest activation of each latent in each row, and the first place of it."""
    d_sae, n_rows, n_ctx = sizes
    key = latent * n_rows + place // n_ctx
    best = torch.zeros(d_sae * n_rows).scatter_reduce_(0, key, strength, "amax")
    top = strength == best[key]
    where = torch.full((d_sae * n_rows,), n_ctx, dtype=torch.int64)
    where.scatter_reduce_(0, key[top], place[top] % n_ctx, "amin")
    return best.view(d_sae, n_rows), where.view(d_sae, n_rows)


def _strongest(strength: Tensor, row: Tensor) -> Int[Tensor, "u m"]:
    """Return the order of slots in each line: strongest first, of equals the earlier row."""
    by_row = row.argsort(dim=1, stable=True)
    by_strength = strength.gather(1, by_row).argsort(dim=1, descending=True, stable=True)
    return by_row.gather(1, by_strength)


def _acts_at(
    layer: LayerCodes, latent: Int[Tensor, "m"], place: Int[Tensor, "m width"], d_sae: int
) -> Float[Tensor, "m width"]:
    """Return the strength of a latent at some places; 0 where it is off."""
    keys = (layer.place * d_sae + layer.latent).cpu()
    strength = layer.strength.float().cpu()
    if not bool((keys.diff() > 0).all()):  # not every architecture gives latents in order
        keys, order = keys.sort()
        strength = strength[order]
    wanted = place * d_sae + latent[:, None]
    spot = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return strength[spot].where(keys[spot] == wanted, 0.0)
