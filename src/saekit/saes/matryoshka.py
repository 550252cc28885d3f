"""Matryoshka: BatchTopK whose first latents alone must predict too, at several widths."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import ConfigError
from saekit.saes import _parts
from saekit.saes._batch_choice import BatchChoiceConfig, BatchChoiceSAE
from saekit.saes.base import Loss, Step, registry

TAIL = 0.5  # exponent of the Pareto law of random widths: short prefixes come often


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Matryoshka(BatchChoiceConfig):
    """BatchTopK whose first latents alone must predict too, at several widths.

    loss = mean over widths w of the error of  acts[:w] @ W_dec[:w] + b_dec

    Latents are chosen over the whole width at once, as in `batch_topk`.

    Args:
        widths: prefixes that must predict, increasing, below d_sae or ending in it (d_sae is
            always one); null: a 16th, an 8th, a quarter and half of d_sae.
        draw: "fixed": those; "random": as many, drawn anew each step from a Pareto law of
            exponent 0.5 cut off at d_sae.

    Raises:
        ConfigError: a value is out of range, or widths do not increase.

    Source:
        Bussmann et al. 2025, arXiv:2503.17547, section 3 (fixed widths); Nabeshima 2024,
        "Matryoshka Sparse Autoencoders" (random prefixes).
        Differs: the mean over widths, so that the error's weight does not grow with their
        number; bias-corrected threshold.
    """

    name: ClassVar[str] = "matryoshka"
    widths: tuple[int, ...] | None = setting(
        None, least=1, hint="Leave it out for a 16th to a half."
    )
    draw: Literal["fixed", "random"] = "fixed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.widths is None:
            return
        steps = zip((0, *self.widths), self.widths, strict=False)
        if not self.widths or self.widths[-1] > self.d_sae or any(a >= b for a, b in steps):
            raise ConfigError(
                f"`widths` must increase from 1 or more to at most d_sae; got "
                f"{list(self.widths)}, d_sae={self.d_sae}. Leave it out for a 16th to a half."
            )

    @property
    def levels(self) -> tuple[int, ...]:
        """All widths that must predict, d_sae last."""
        sixteenths = (self.d_sae // part for part in (16, 8, 4, 2))
        widths = self.widths or tuple(sorted({w for w in sixteenths if w}))
        return widths if widths[-1:] == (self.d_sae,) else (*widths, self.d_sae)

    @classmethod
    @override
    def example(cls) -> "Matryoshka":
        return cls(d_in=8, d_out=8, d_sae=16, k=3.0)

    @override
    def build(self, generator: torch.Generator) -> "MatryoshkaSAE":
        return MatryoshkaSAE(self, generator)


@final
class MatryoshkaSAE(BatchChoiceSAE):
    """The weights and maps of `Matryoshka`."""

    cfg: Matryoshka

    def _widths(self, seed: int) -> Int[Tensor, "n_levels"]:
        """Return the widths that must predict in a step, ascending, d_sae last."""
        levels = torch.tensor(self.cfg.levels)
        if self.cfg.draw == "fixed":
            return levels
        chance = torch.Generator().manual_seed(seed)
        share = torch.rand(len(levels) - 1, generator=chance, dtype=torch.float64)
        # The inverse of the distribution function of a Pareto law on 1..d_sae.
        cut = self.cfg.d_sae**-TAIL
        drawn = (1 - share * (1 - cut)).pow(-1 / TAIL).long()
        levels[:-1] = drawn.clamp(1, self.cfg.d_sae).sort().values
        return levels

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        acts = self.choose(x, step)
        widths = self._widths(step.seed).to(x.device)
        level = torch.searchsorted(widths, acts.latents, right=True)
        y_hats = _parts.decode_levels(self, acts, level, len(widths))
        errors = (y_hats - y[:, None]).square().mean((0, 2)) / len(widths)  # [n_levels]
        terms = {"mse": errors[-1], "nested": errors[:-1].sum()}
        y_hat = y_hats[:, -1]
        terms = self.with_aux(terms, x, y, y_hat, step.dead)
        return Loss(_parts.add(terms), terms, acts.detach(), y_hat)
