"""BatchTopK: keep the k * n largest pre-activations of a batch of n tokens."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.saes import _parts, _sparse
from saekit.saes.base import SAE, Loss, SAEConfig, Scaling, Step, registry


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class BatchTopK(SAEConfig):
    """Keep the k * n largest pre-activations of a batch of n tokens.

    In training the batch shares its budget; in use a latent is on above one fixed
    threshold, the running mean of the smallest value that training kept, so that a code
    never depends on its batch.

    Args:
        k: mean latents kept per token in training, 1..d_sae; need not be whole.
        threshold_decay: weight of the past in the running threshold, 0 <= decay < 1. The
            mean is corrected for its start, so it is unbiased from the first step.
        aux_coefficient: weight of the auxiliary loss for dead latents; 0 turns it off.
        aux_k: dead latents used by it per token; null: half of d_in.

    Raises:
        ConfigError: a value is out of range.

    Source:
        Bussmann et al. 2024, arXiv:2412.06410, section 3.
        Differs: bias-corrected threshold; b_dec is not subtracted before encoding.
    """

    name: ClassVar[str] = "batch_topk"
    k: float = 32.0
    threshold_decay: float = 0.99
    aux_coefficient: float = 1 / 32
    aux_k: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _parts.check_k(self.k, self.d_sae)
        _parts.check_coefficient("aux_coefficient", self.aux_coefficient)
        _parts.check_share("threshold_decay", self.threshold_decay)

    @classmethod
    @override
    def example(cls) -> "BatchTopK":
        return cls(d_in=8, d_out=8, d_sae=16, k=3.0)

    @override
    def build(self, generator: torch.Generator) -> "BatchTopKSAE":
        return BatchTopKSAE(self, generator)


@final
class BatchTopKSAE(SAE):
    """The weights and maps of `BatchTopK`."""

    W_enc: nn.Parameter  # [d_in, d_sae]
    W_dec: nn.Parameter  # [d_sae, d_out], unit rows
    b_enc: nn.Parameter  # [d_sae]
    b_dec: nn.Parameter  # [d_out]
    cutoff_sum: Tensor  # decayed sum of the smallest kept values, act units
    cutoff_weight: Tensor  # decayed number of steps in it

    def __init__(self, cfg: BatchTopK, generator: torch.Generator):
        super().__init__()
        self.cfg: BatchTopK = cfg
        _parts.tied_init(self, cfg.d_in, cfg.d_out, cfg.d_sae, generator)
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
    def decode(self, acts: Codes) -> Float[Tensor, "..."]:
        return _parts.decode(self, acts)

    @override
    def directions(self) -> Float[Tensor, "d_sae d_out"]:
        return self.W_dec

    @torch.no_grad()
    def _choose(self, x: Float[Tensor, "n d_in"]) -> Codes:
        """Return the k * n largest positive pre-activations of the batch.

        The running threshold tells nearly all of them at once; the exact cut is made among
        those above a little less than it, or among all where that was too high.
        """
        budget = int(self.cfg.k * len(x))
        low = self.threshold * 0.9
        found = _parts.above(x, self.W_enc, self.b_enc, low)
        if len(found.values) < budget and float(low) > 0:
            found = _parts.above(x, self.W_enc, self.b_enc, torch.zeros_like(low))
        if len(found.values) <= budget:
            return found
        kept = torch.topk(found.values, budget, sorted=False).indices.sort().values
        rows = found.rows()[kept]
        return _sparse.chosen_codes(
            found.values[kept], rows, found.latents[kept], len(x), self.cfg.d_sae
        )

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        chosen = self._choose(x)
        acts = chosen._replace(values=_sparse.pre_acts(x, self.W_enc, self.b_enc, chosen))
        y_hat = self.decode(acts)
        terms = {"mse": _parts.mse(y_hat, y)}
        if self.cfg.aux_coefficient:
            aux = _parts.aux_k(self, x, y_hat - y, step.dead, self.cfg.aux_k)
            terms["aux"] = self.cfg.aux_coefficient * aux
        return Loss(_parts.add(terms), terms, acts.detach(), y_hat)

    @override
    def before_step(self) -> None:
        _parts.project_out(self.W_dec)

    @override
    @torch.no_grad()
    def after_step(self, out: Loss) -> None:
        _parts.unit_rows(self.W_dec)
        if len(out.acts.values):
            decay = self.cfg.threshold_decay
            self.cutoff_sum.mul_(decay).add_((1 - decay) * out.acts.values.min().double())
            self.cutoff_weight.mul_(decay).add_(1 - decay)

    @override
    def rescale(self, x: Scaling, y: Scaling) -> None:
        _parts.to_raw_units(self, x, y)
        self.cutoff_sum.div_(x.scale)
