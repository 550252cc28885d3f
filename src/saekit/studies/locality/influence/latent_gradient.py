"""What a latent is the gradient of: d activation / d input, through the SAE's own encode."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.codes import Codes, is_on
from saekit.core.errors import ConfigError
from saekit.saes.base import SAE
from saekit.saes.standardised import Standardised

FORGETTABLE = ("b_dec", "layer_norm")
# Architectures whose latents are, where on, x @ W_enc + b_enc.
SLOPE_ONE = ("relu", "p_anneal", "topk", "multi_topk", "jumprelu", "batch_topk", "matryoshka")
CHUNK_BYTES = 2**26  # of dense pre-activations while a chunk of rows is encoded


class ActiveLatents(NamedTuple):
    """Latents of some inputs."""

    row: Int[Tensor, "pairs"]  # which input
    latent: Int[Tensor, "pairs"]
    activation: Float[Tensor, "pairs"]  # act units; 0 where the latent is off


def check_single(sae: SAE) -> None:
    """Refuse an SAE that codes consecutive tokens jointly.

    Raises:
        ConfigError: it does; a latent of it has no single position.
    """
    if "seq" in sae.cfg.event:
        raise ConfigError(
            f"`{sae.cfg.name}` codes windows of tokens jointly; influence is defined for a latent "
            f"at one position. Use an SAE of single tokens."
        )


class Encoder:
    """The encode of an SAE, or what the published code takes for it.

    Args:
        sae: of single tokens; frozen or not.
        forgets: what is left out, of `FORGETTABLE`: taking `b_dec` off the input, which saekit
            keeps inside `b_enc`, so that it is added back to the input; and standardising it.

    Raises:
        ConfigError: the SAE does not do what is to be forgotten.
    """

    def __init__(self, sae: SAE, forgets: Sequence[str] = ()):
        check_single(sae)
        if unknown := set(forgets) - set(FORGETTABLE):
            raise ConfigError(
                f"The published encode forgets {' or '.join(FORGETTABLE)}; got "
                f"{', '.join(sorted(unknown))}."
            )
        self.sae: SAE = sae
        self.shift: Tensor | None = None
        if "layer_norm" in forgets:
            if not isinstance(sae.cfg, Standardised):
                raise ConfigError(f"`{sae.cfg.name}` does not standardise what it reads.")
            inner: Any = sae.get_submodule("inner")
            self.sae = inner
        if "b_dec" in forgets:
            shift = getattr(self.sae, "b_dec", None)
            if shift is None or shift.shape[-1] != sae.cfg.d_in:
                raise ConfigError(
                    f"`{self.sae.cfg.name}` with d_in={sae.cfg.d_in}, d_out={sae.cfg.d_out} takes "
                    f"no b_dec off what it reads, so none can be forgotten."
                )
            self.shift = shift.detach()

    def __call__(self, x: Float[Tensor, "n *event d_in"]) -> Codes:
        """Return the codes of some inputs, differentiable in them."""
        return self.sae.encode(x if self.shift is None else x + self.shift.to(x))

    @torch.no_grad()
    def active(self, x: Float[Tensor, "n *event d_in"], threshold: float) -> ActiveLatents:
        """Return every latent larger in size than `threshold`, by input and latent."""
        codes = self(x)
        on = is_on(codes.values, threshold)
        order = torch.argsort(codes.rows()[on] * codes.d_sae + codes.latents[on])
        row, latent = codes.rows()[on][order], codes.latents[on][order]
        return ActiveLatents(row, latent, codes.values[on][order])

    @torch.no_grad()
    def at(self, x: Float[Tensor, "n *event d_in"], row: Tensor, latent: Tensor) -> ActiveLatents:
        """Return the activations of given latents of given inputs; 0 where off."""
        codes = self(x)
        have = codes.rows() * codes.d_sae + codes.latents
        have, order = have.sort()
        want = row * codes.d_sae + latent
        place = torch.searchsorted(have, want).clamp_max(max(len(have) - 1, 0))
        if not len(have):
            return ActiveLatents(row, latent, x.new_zeros(len(row)))
        there = have[place] == want
        return ActiveLatents(row, latent, torch.where(there, codes.values[order][place], 0))

    def gradients(
        self, x: Float[Tensor, "n *event d_in"], fired: ActiveLatents
    ) -> Float[Tensor, "pairs *event d_in"]:
        """Return d activation / d x of each pair; 0 where the latent is off.

        Each pair gets a copy of its input as a row of its own, so that one backward pass gives
        them all: a row's code does not depend on other rows. Where a latent that is on is affine
        in the input with slope 1 in its pre-activation, that is its column of the encoder.
        """
        if self.sae.cfg.name in SLOPE_ONE:
            W_enc: Any = self.sae.W_enc
            columns = W_enc.detach().t()[fired.latent].to(x)
            return columns * (fired.activation != 0)[:, None].to(x)
        rows = max(CHUNK_BYTES // (4 * self.sae.cfg.d_sae), 1)
        parts = [
            self._gradients(x[r], latent)
            for r, latent in zip(fired.row.split(rows), fired.latent.split(rows), strict=True)
        ]
        return torch.cat(parts) if parts else x.new_zeros((0, *x.shape[1:]))

    def _gradients(self, x: Tensor, latent: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            codes = self(leaf)
            mine = codes.latents == latent[codes.rows()]
            if not codes.values.requires_grad:
                return torch.zeros_like(x)
            total = (codes.values * mine).sum()
            return torch.autograd.grad(total, leaf)[0]


def as_pairs(
    latents: Sequence[int] | Int[Tensor, "..."], windows: int, d_sae: int
) -> tuple[Int[Tensor, "pairs"], Int[Tensor, "pairs"]]:
    """Return windows and latents of the pairs that are asked for.

    Args:
        latents: latents to take in every window, or pairs ``[m, 2]`` of window and latent.
        windows: how many there are.
        d_sae: how many latents there are.

    Raises:
        ConfigError: a latent or a window is out of range.
    """
    wanted = torch.as_tensor(latents, dtype=torch.int64)
    if wanted.ndim == 1:
        window = torch.arange(windows).repeat_interleave(len(wanted))
        latent = wanted.repeat(windows)
    elif wanted.ndim == 2 and wanted.shape[1] == 2:
        window, latent = wanted[:, 0], wanted[:, 1]
    else:
        raise ConfigError(
            f'`latents` is "active", a list of latents, or pairs of window and latent as '
            f"[m, 2]; got shape {list(wanted.shape)}."
        )
    for what, found, end in (("latents", latent, d_sae), ("windows", window, windows)):
        if len(found) and not (int(found.min()) >= 0 and int(found.max()) < end):
            raise ConfigError(
                f"`latents` names {what} {int(found.min())}..{int(found.max())}; there are "
                f"0..{end - 1}."
            )
    return window, latent
