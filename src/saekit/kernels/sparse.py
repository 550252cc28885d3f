"""The two linear maps of an SAE on codes alone, with their gradients.

Selected pre-activations and the decoder cost what their non-zero entries cost: the decoder
gathers rows of `W_dec`, and both weight gradients are gathered in the other orientation,
tokens by latent, so that nothing of size [tokens, d_sae] or [entries, width] is made and
sums run in a fixed order. Where codes are not sparse (`DENSE_SHARE`), plain matrix products
are faster and give the same numbers up to rounding.

Weights are read by latent: `W_enc` has shape [d_in, d_sae] and is stored latent-major, so
that `W_enc.t()` is contiguous (`latent_major`).
"""

import functools
import warnings
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag
from typing_extensions import override

from saekit.core import machine
from saekit.core.codes import Codes
from saekit.core.errors import DataError
from saekit.core.finite import all_finite
from saekit.kernels import gpu, products

DENSE_SHARE = 0.03  # above this share of non-zeros a dense product is faster on CPUs


def latent_major(weight: Float[Tensor, "d_in d_sae"]) -> Float[Tensor, "d_in d_sae"]:
    """Return the same matrix stored so that one latent's weights are contiguous."""
    return weight.t().contiguous().t()


def decode(acts: Codes, W_dec: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "n d_out"]:
    """Return ``acts @ W_dec``, one row a token, differentiable in values and weights."""
    return _Decode.apply(acts.values, W_dec, _Pattern(acts))  # type: ignore[return-value]


def pre_acts(
    x: Float[Tensor, "n d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, "d_sae"],
    chosen: Codes,
) -> Float[Tensor, "nnz"]:
    """Return ``x @ W_enc + b_enc`` at chosen entries, differentiable in x and the weights.

    Args:
        x: act units.
        W_enc: latent-major.
        b_enc: act units.
        chosen: which entries; its values are those of the product, known from choosing.
    """
    return _PreActs.apply(x, W_enc, b_enc, chosen.values, _Pattern(chosen))  # type: ignore[return-value]


def dots(
    rows: Float[Tensor, "n width"],
    weight: Float[Tensor, "d_sae width"],
    latents: Int[Tensor, "nnz"],
    starts: Int[Tensor, "n_and_one"],
) -> Float[Tensor, "nnz"]:
    """Return ``rows[token] . weight[latent]`` of each entry, without a graph."""
    return _dots(rows, weight, _Pattern(Codes(rows, latents, starts, (len(rows),), len(weight))))


def _dots(rows: Tensor, weight: Tensor, pattern: "_Pattern") -> Tensor:
    """Return the same; each sum is made alone, so the order of entries changes no bit."""
    codes = pattern.codes
    found = gpu.run("maps", "dot", rows, weight, codes.latents, codes.starts)
    if found is not None:
        return found
    if len(codes.latents) < len(weight):
        return _sampled(rows, weight, codes.starts, codes.latents)
    order, tokens, starts = pattern.by_latent  # each row of the larger matrix is read once
    found = _sampled(weight, rows, starts, tokens)
    return torch.empty_like(found).scatter_(0, order, found)


def _sampled(rows: Tensor, columns: Tensor, starts: Tensor, places: Tensor) -> Tensor:
    _quiet_csr()
    pattern = torch.sparse_csr_tensor(
        starts,
        places,
        rows.new_zeros(len(places)),
        (len(rows), len(columns)),
        check_invariants=False,
    )
    return torch.sparse.sampled_addmm(pattern, rows, columns.t(), beta=0.0).values()


class _Pattern:
    """Which entries are non-zero, by token and (made once, when needed) by latent."""

    def __init__(self, codes: Codes):
        self.codes = codes
        self.shape = (codes.n_rows, codes.d_sae)
        share = gpu.dense_share(codes.values) or DENSE_SHARE
        self.dense = len(codes.latents) > share * codes.n_rows * codes.d_sae

    @functools.cached_property
    def by_latent(self) -> tuple[Tensor, Tensor, Tensor]:
        """Order that sorts entries by latent, their tokens in it, and latents' starts."""
        codes = self.codes
        if codes.latents.device.type == "cpu" and machine.native_kernels():
            from saekit.kernels import native

            return native.sorted_by_latent(codes.latents, codes.starts, codes.d_sae)
        ordered, order = torch.sort(codes.latents, stable=True)
        counts = torch.bincount(ordered, minlength=codes.d_sae)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return order, codes.rows()[order], starts

    def spread(self, values: Tensor) -> Tensor:
        """Return the dense [n, d_sae] array of some values."""
        return self.codes._replace(values=values, batch=(self.codes.n_rows,)).dense()

    def pick(self, dense: Tensor) -> Tensor:
        """Return the entries of a dense [n, d_sae] array."""
        return dense[self.codes.rows(), self.codes.latents]

    def sum_by_latent(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Return ``spread(weights).T @ rows``: [d_sae, width]."""
        if self.dense:
            return products.matmul(self.spread(weights).t(), rows)
        order, tokens, starts = self.by_latent
        ordered = weights.index_select(0, order)  # by several threads, as indexing is not
        found = gpu.run("maps", "sum_by_latent", tokens, ordered, starts, rows)
        if found is not None:
            return found
        return embedding_bag(tokens, rows, starts[:-1], per_sample_weights=ordered, mode="sum")

    def sum(self, weights: Tensor) -> Tensor:
        """Return the sum of some weights over the entries of each latent: [d_sae]."""
        if gpu.usable(weights) and not self.dense:  # without atomics, whose order varies
            return self.sum_by_latent(weights.new_ones(self.codes.n_rows, 1), weights)[:, 0]
        return weights.new_zeros(self.codes.d_sae).index_add_(0, self.codes.latents, weights)

    def dot(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return ``rows[token] . weight[latent]`` of each entry."""
        if self.dense:
            return self.pick(products.linear(rows, weight))
        return _dots(rows, weight, self)


class _Decode(torch.autograd.Function):
    @override
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, pattern: _Pattern) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.pattern = pattern
        if pattern.dense:
            return products.matmul(pattern.spread(values), W_dec)
        codes = pattern.codes
        found = gpu.run("maps", "decode", values, codes.latents, codes.starts, W_dec)
        if found is not None:
            return found
        return embedding_bag(
            codes.latents, W_dec, codes.starts[:-1], per_sample_weights=values, mode="sum"
        )

    @override
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, W_dec = ctx.saved_tensors
        grad = grads[0].contiguous()
        d_values = ctx.pattern.dot(grad, W_dec) if ctx.needs_input_grad[0] else None
        d_W = ctx.pattern.sum_by_latent(grad, values) if ctx.needs_input_grad[1] else None
        return d_values, d_W, None


class _PreActs(torch.autograd.Function):
    @override
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, values: Tensor, pattern: _Pattern
    ) -> Tensor:
        ctx.save_for_backward(x, W_enc)
        ctx.pattern = pattern
        return values.clone()

    @override
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, W_enc = ctx.saved_tensors
        pattern, grad = ctx.pattern, grads[0].contiguous()
        d_x = d_W = d_b = None
        if ctx.needs_input_grad[0]:
            codes = pattern.codes._replace(values=grad)
            d_x = decode(codes, W_enc.t())
        if ctx.needs_input_grad[1]:
            d_W = pattern.sum_by_latent(x, grad).t()
        if ctx.needs_input_grad[2]:
            d_b = pattern.sum(grad)
        return d_x, d_W, d_b, None, None


@functools.cache
def _quiet_csr() -> None:
    """Take the once-a-process notice that sparse CSR is in beta; its results are tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = torch.tensor([0, 1])
        torch.sparse_csr_tensor(index, index[:1], torch.ones(1), (1, 1), check_invariants=False)


def flat_rows(x: Float[Tensor, "..."]) -> tuple[Float[Tensor, "n d_in"], tuple[int, ...]]:
    """Return `x`, which must be finite, with one leading axis, and the leading shape it had.

    Raises:
        DataError: it is not; a latent that is on above a threshold would be off for NaN, and so
            the prediction of what is no number a number.
    """
    check_rows(x)
    return x.reshape(x.shape[:-1].numel(), x.shape[-1]), tuple(x.shape[:-1])


def check_rows(x: Float[Tensor, "..."]) -> None:
    """Refuse activations to encode that are not finite.

    Raises:
        DataError: they are not.
    """
    if all_finite(x):
        return
    rows = x.detach().reshape(x.shape[:-1].numel(), x.shape[-1])
    wrong = (~rows.isfinite().all(-1)).nonzero().squeeze(-1)
    raise DataError(
        f"Activations to encode must be finite; {len(wrong):,} of {len(rows):,} rows are not, the "
        f"first is row {int(wrong[0])}. Read the model in float32 or bfloat16, or leave these "
        f"rows out: x[x.isfinite().all(-1)]."
    )


def chosen_codes(
    values: Float[Tensor, "nnz"],
    rows: Int[Tensor, "nnz"],
    latents: Int[Tensor, "nnz"],
    n: int,
    d_sae: int,
) -> Codes:
    """Return codes from coordinates sorted by row."""
    counts = torch.bincount(rows, minlength=n)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Codes(values, latents, starts, (n,), d_sae)
