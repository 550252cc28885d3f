"""Codes: sparse latent activations, in rows of any length."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.errors import ConfigError


def is_on(values: Float[Tensor, "*shape"], threshold: float = 0.0) -> Bool[Tensor, "*shape"]:
    """Return where a latent is on: its activation is larger in size than the threshold.

    An activation may be negative, as in `abs_topk` and the predicted part of `temporal`; it is
    on all the same, and its strength is its size.

    Args:
        values: activations, act units.
        threshold: at least 0, act units.
    """
    return values.abs() > threshold


class Codes(NamedTuple):
    """The non-zero latents of a batch of tokens, compressed by row.

    Row r holds `latents[starts[r]:starts[r + 1]]` with the same slice of `values`. A value
    may be 0 where a fixed number of latents per row is kept: zero means off. No latent
    appears twice in a row.

    Args:
        values: act units, ``[nnz]``.
        latents: ``[nnz]`` int64, in 0..d_sae - 1.
        starts: ``[rows + 1]`` int64, from 0 to nnz.
        batch: leading shape of what was encoded; its product is the number of rows.
        d_sae: number of latents.
        shift: what the prediction has beside latents, ``y_hat = decode(acts) + shift``, act
            units of the output; None for most architectures. A skip connection or a mean of
            each token cannot be known from activations of latents, so it goes with them.
    """

    values: Float[Tensor, "nnz"]
    latents: Int[Tensor, "nnz"]
    starts: Int[Tensor, "rows_and_one"]
    batch: tuple[int, ...]
    d_sae: int
    shift: Float[Tensor, "rows d_out"] | None = None

    @staticmethod
    def fixed(
        values: Float[Tensor, "*batch k"], latents: Int[Tensor, "*batch k"], d_sae: int
    ) -> "Codes":
        """Return codes with k entries in every row."""
        batch, k = tuple(values.shape[:-1]), values.shape[-1]
        n = values[..., 0].numel() if k else 0
        starts = torch.arange(n + 1, device=values.device) * k
        return Codes(values.reshape(-1), latents.reshape(-1), starts, batch, d_sae)

    @staticmethod
    def from_dense(acts: Float[Tensor, "*batch d_sae"]) -> "Codes":
        """Return the non-zero entries of a dense array; gradients flow through the values."""
        flat = acts.reshape(-1, acts.shape[-1])
        rows, latents = (flat != 0).nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=len(flat))
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Codes(flat[rows, latents], latents, starts, tuple(acts.shape[:-1]), acts.shape[-1])

    def __repr__(self) -> str:
        tokens = " x ".join(map(str, self.batch)) or "1"
        share = len(self.values) / max(self.n_rows, 1)
        return f"Codes({tokens} tokens, {share:.4g} of {self.d_sae:,} latents on at each)"

    def top(self, n: int = 10) -> list[list[tuple[int, float]]]:
        """Return the strongest latents of each token with their activations, the strongest first.

        Args:
            n: latents per token at most; fewer where fewer are on.

        Returns:
            a list for each token, in the order of the rows, of (latent, activation), activations
            to 5 digits.

        Raises:
            ConfigError: `n` is below 1.
        """
        if n < 1:
            raise ConfigError(f"`n`, latents a token, must be at least 1; got {n}.")
        found = []
        for row in range(self.n_rows):
            here = slice(int(self.starts[row]), int(self.starts[row + 1]))
            pairs = zip(self.latents[here].tolist(), self.values[here].tolist(), strict=True)
            on = sorted((p for p in pairs if p[1] != 0), key=lambda p: (-abs(p[1]), p[0]))
            found.append([(latent, float(f"{value:.5g}")) for latent, value in on[:n]])
        return found

    @property
    def n_rows(self) -> int:
        """Number of tokens."""
        return len(self.starts) - 1

    def rows(self) -> Int[Tensor, "nnz"]:
        """Return the row of every entry."""
        counts = self.starts.diff()
        index = torch.arange(self.n_rows, device=counts.device)
        return torch.repeat_interleave(index, counts, output_size=len(self.latents))

    def dense(self) -> Float[Tensor, "*batch d_sae"]:
        """Return ``[*batch, d_sae]``: only where a definition needs it; it is large."""
        out = self.values.new_zeros(self.n_rows * self.d_sae)
        out = out.index_put((self.rows() * self.d_sae + self.latents,), self.values)
        return out.view(*self.batch, self.d_sae)

    def columns(self, latents: Int[Tensor, "m"]) -> Float[Tensor, "*batch m"]:
        """Return the activations of some latents, 0 where they are off; no more is made dense."""
        column = latents.new_full((self.d_sae,), -1)
        column[latents] = torch.arange(len(latents), device=latents.device)
        place = column[self.latents]
        on = place >= 0
        out = self.values.new_zeros(self.n_rows, len(latents))
        out[self.rows()[on], place[on]] = self.values[on]
        return out[:, column[latents]].view(*self.batch, len(latents))

    def detach(self) -> "Codes":
        """Return the same codes without the graph."""
        shift = None if self.shift is None else self.shift.detach()
        return self._replace(values=self.values.detach(), shift=shift)

    def live(self) -> "Codes":
        """Return the codes without the entries whose value is 0."""
        return self.only(self.values != 0)

    def only(self, on: Bool[Tensor, "nnz"]) -> "Codes":
        """Return the codes with some of their entries."""
        kept = torch.cat([on.new_zeros(1, dtype=torch.int64), on.cumsum(0)])
        return self._replace(
            values=self.values[on], latents=self.latents[on], starts=kept[self.starts]
        )

    def take(self, rows: Int[Tensor, "m"] | slice) -> "Codes":
        """Return the codes of some rows, in the order given; the leading shape is flat."""
        if isinstance(rows, slice) and rows.step in (None, 1):
            return self._span(*rows.indices(self.n_rows)[:2])
        index = torch.arange(self.n_rows, device=self.starts.device)[rows]
        counts = self.starts.diff()[index]
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        nnz = int(starts[-1])
        offset = torch.repeat_interleave(self.starts[index] - starts[:-1], counts, output_size=nnz)
        entries = torch.arange(nnz, device=starts.device) + offset
        shift = None if self.shift is None else self.shift[index]
        return Codes(
            self.values[entries], self.latents[entries], starts, (len(index),), self.d_sae, shift
        )

    def _span(self, first: int, end: int) -> "Codes":
        """Return consecutive rows, without a copy."""
        end = max(first, end)
        lo, hi = int(self.starts[first]), int(self.starts[end])
        shift = None if self.shift is None else self.shift[first:end]
        starts = self.starts[first : end + 1] - lo
        return Codes(
            self.values[lo:hi], self.latents[lo:hi], starts, (end - first,), self.d_sae, shift
        )

    @staticmethod
    def cat(parts: Sequence["Codes"]) -> "Codes":
        """Return the rows of several codes, one after another; the leading shape is flat."""
        ends, starts = 0, [parts[0].starts[:1]]
        for part in parts:
            starts.append(part.starts[1:] + ends)
            ends += len(part.values)
        shifts = [p.shift for p in parts if p.shift is not None]
        return Codes(
            torch.cat([p.values for p in parts]),
            torch.cat([p.latents for p in parts]),
            torch.cat(starts),
            (sum(p.n_rows for p in parts),),
            parts[0].d_sae,
            torch.cat(shifts) if shifts else None,
        )
