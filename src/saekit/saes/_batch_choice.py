"""A budget of latents that a batch shares, and the one threshold that replaces it in use."""

import abc
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.config import setting
from saekit.core.processes import ALONE, Mesh
from saekit.kernels import choose, products, shared, sparse
from saekit.saes import _parts
from saekit.saes._affine import SHORT_COLUMNS, AffineSAE, AuxKConfig
from saekit.saes.base import Loss, Scaling, Step

GUESS_TOKENS = 256  # from which the first cut is guessed


@dataclass(frozen=True, kw_only=True)
class BatchChoiceConfig(AuxKConfig):
    """An architecture that keeps k * n latents of a batch of n tokens.

    Args:
        k: mean latents kept per token in training, 1..d_sae; need not be whole.
        start_k: the same at the start of training; null: `k`.
        anneal: share of training over which `start_k` becomes `k`, linearly.
        threshold_decay: weight of the past in the running threshold. The mean is corrected for its
            start, so it has no bias from there; it lags behind weights that move, so a short memory
            is better, and the end of training takes the threshold anew.
    """

    k: float = setting(32.0, least=1)
    start_k: float | None = setting(None, least=1)
    anneal: float = setting(0.0, least=0, below=1, unit="of training")
    threshold_decay: float = setting(0.9, least=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _parts.check_k("k", self.k, self.d_sae)
        _parts.check_annealing(self.start_k, self.anneal, self.d_sae)


class BatchChoiceSAE(AffineSAE, abc.ABC):
    """Chooses by batch in training, by a threshold in use."""

    cfg: BatchChoiceConfig
    encoder_length = SHORT_COLUMNS
    cutoff_sum: Tensor  # decayed sum of the smallest kept values, act units
    cutoff_weight: Tensor  # decayed number of steps in it

    def __init__(self, cfg: BatchChoiceConfig, generator: torch.Generator, mesh: Mesh = ALONE):
        super().__init__(cfg, generator, mesh)
        self.register_buffer("cutoff_sum", torch.zeros((), dtype=torch.float64))
        self.register_buffer("cutoff_weight", torch.zeros((), dtype=torch.float64))

    @property
    def threshold(self) -> Float[Tensor, ""]:
        """The value above which a latent is on in use, act units; 0 before training."""
        return (self.cutoff_sum / self.cutoff_weight.clamp_min(1e-30)).to(self.b_enc.dtype)

    @override
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        return _parts.encode_above(self, x, self.threshold)

    @override
    def encode_only(
        self, x: Float[Tensor, "..."], latents: Int[Tensor, "m"]
    ) -> Float[Tensor, "*batch m"]:
        return _parts.only_above(self, x, self.threshold, latents)

    def choose(self, x: Float[Tensor, "n d_in"], step: Step) -> Codes:
        """Return the k * n largest positive pre-activations of the batch, with their graph.

        The batch is that of all processes; returned is what of it is here.
        """
        cfg = self.cfg
        k = _parts.annealed(cfg.k, cfg.start_k, cfg.anneal, step.progress)
        chosen = self._choose(x, int(k * len(x) * self.mesh.data.size))
        return chosen._replace(values=sparse.pre_acts(x, self.W_enc, self.b_enc, chosen))

    @torch.no_grad()
    def _choose(self, x: Float[Tensor, "n d_in"], budget: int) -> Codes:
        """Return the `budget` largest positive pre-activations.

        The running threshold, at first one guessed from some tokens, tells nearly all of them
        at once; the exact cut is made among those above a little less than it, or among all
        where that was too high.
        """
        every, low = self.mesh.every, self.threshold * 0.9
        if not low > 0:
            per_token = 2 * budget / max(len(x) * every.size, 1)
            low = every.min(self._guess(x[:GUESS_TOKENS], per_token))
        found = choose.above(x, self.W_enc, self.b_enc, low)
        counts = shared.counts(found, every)
        if int(counts.sum()) < budget and float(low) > 0:
            found = choose.above(x, self.W_enc, self.b_enc, torch.zeros_like(low))
            counts = shared.counts(found, every)
        if int(counts.sum()) <= budget:
            return found
        return found.only(shared.among_top(found.values, budget, counts, every))

    def _guess(self, x: Float[Tensor, "n d_in"], per_token: float) -> Float[Tensor, ""]:
        """Return the value that so many pre-activations a token exceed, or 0."""
        pre = products.linear(x, self.W_enc.t(), self.b_enc).flatten()
        if not len(pre):
            return pre.new_zeros(())
        wanted = min(max(int(per_token * len(x)), 1), len(pre))
        return torch.topk(pre, wanted, sorted=False).values.min().clamp_min(0)

    @override
    @torch.no_grad()
    def after_step(self, out: Loss) -> None:
        super().after_step(out)
        least = self.mesh.every.min(shared.smallest(out.acts.values))
        if least.isfinite():
            decay = self.cfg.threshold_decay
            self.cutoff_sum.mul_(decay).add_((1 - decay) * least.double())
            self.cutoff_weight.mul_(decay).add_(1 - decay)

    @property
    @override
    def settles(self) -> bool:
        return True

    @override
    @torch.no_grad()
    def settle(self, x: Float[Tensor, "n d_in"]) -> None:
        chosen = self._choose(x, int(self.cfg.k * len(x) * self.mesh.data.size))
        least = self.mesh.every.min(shared.smallest(chosen.values))
        if least.isfinite():
            self.cutoff_sum.copy_(least)
            self.cutoff_weight.fill_(1.0)

    @override
    def rescale(self, x: Scaling, y: Scaling) -> None:
        super().rescale(x, y)
        self.cutoff_sum.div_(x.scale)
