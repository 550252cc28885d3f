"""Matching pursuit: latents chosen one after another, each for what the ones before left over."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.config import setting
from saekit.core.errors import ConfigError
from saekit.kernels import sparse
from saekit.saes import _parts
from saekit.saes.base import SAE, Loss, SAEConfig, Scaling, Step, registry

GRAM_LATENTS = 2**13  # up to this width all inner products of the dictionary are kept: 256 MB
CHUNK_TOKENS = 256  # scores of so many tokens at once


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class MatchingPursuit(SAEConfig):
    """Latents chosen one after another, each for what the ones before it left over.

    rest = x - b_in;  then k times: i = argmax rest . W_dec[i], v = relu(rest . W_dec[i]),
    acts_i += v, rest -= v W_dec[i];  y_hat = acts @ W_dec + b_dec

    Encoder and decoder are one dictionary of unit rows. A latent chosen twice has the sum of
    both values. Encoding costs about k times that of `topk`.

    Args:
        k: choices per token, 1..d_sae; the number of latents on is at most this.
        tolerance: stop where the rest is shorter than this; 0: never. For inputs of mean
            square 1 a dimension, whose length is about the root of d_in.
        stop_at_repeat: stop after a latent was chosen a second time.

    Raises:
        ConfigError: a value is out of range, or d_out is not d_in.

    Source:
        Costa et al. 2025, arXiv:2506.03093 (MP-SAE).
        Differs: the biases before and after are two.
    """

    name: ClassVar[str] = "matching_pursuit"
    k: int = setting(32, least=1)
    tolerance: float = setting(0.0, least=0)
    stop_at_repeat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _parts.check_k("k", self.k, self.d_sae)
        if self.d_in != self.d_out:
            raise ConfigError(
                f"`matching_pursuit` predicts what it reads; got d_in={self.d_in}, "
                f"d_out={self.d_out}. Use another architecture for a transcoder."
            )

    @property
    @override
    def n_weights(self) -> int:
        return self.d_in * self.d_sae  # the dictionary reads too

    @classmethod
    @override
    def example(cls) -> "MatchingPursuit":
        return cls(d_in=8, d_out=8, d_sae=16, k=3)

    @override
    def build(self, generator: torch.Generator) -> "MatchingPursuitSAE":
        return MatchingPursuitSAE(self, generator)


@final
class MatchingPursuitSAE(SAE):
    """The weights and maps of `MatchingPursuit`."""

    cfg: MatchingPursuit
    W_dec: nn.Parameter  # [d_sae, d_in]; rows of length `gain`
    b_in: nn.Parameter  # [d_in]
    b_dec: nn.Parameter  # [d_in]
    gain: Tensor  # output units per input unit; 1 until rescaled
    tolerance: Tensor  # act units

    def __init__(self, cfg: MatchingPursuit, generator: torch.Generator):
        super().__init__()
        self.cfg = cfg
        rows = torch.randn(cfg.d_sae, cfg.d_in, generator=generator)
        self.W_dec = nn.Parameter(normalize(rows, dim=-1))
        self.b_in = nn.Parameter(torch.zeros(cfg.d_in))
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_in))
        self.register_buffer("gain", torch.ones((), dtype=torch.float64))
        self.register_buffer("tolerance", torch.tensor(cfg.tolerance, dtype=torch.float64))

    @override
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        flat, batch = sparse.flat_rows(x)
        unit = self.W_dec / self.gain.to(self.W_dec)
        latents, on = self._pursue(flat - self.b_in, unit)
        values = self._values(flat - self.b_in, unit, latents, on)
        return _merged(values, latents, on, self.cfg.d_sae)._replace(batch=batch)

    @torch.no_grad()
    def _pursue(
        self, x: Float[Tensor, "n d_in"], unit: Float[Tensor, "d_sae d_in"]
    ) -> tuple[Int[Tensor, "n k"], Bool[Tensor, "n k"]]:
        """Return the latent of every choice, and whether it was made."""
        cfg = self.cfg
        latents = torch.zeros(len(x), cfg.k, dtype=torch.int64, device=x.device)
        on = torch.zeros_like(latents, dtype=torch.bool)
        many = cfg.d_sae <= GRAM_LATENTS and cfg.d_sae < cfg.k * len(x)
        gram = unit @ unit.t() if many else None
        # Of unit rows all 1; other libraries' rows are not quite.
        kept = 2 - unit.double().square().sum(-1)
        for first in range(0, len(x), CHUNK_TOKENS):
            part = slice(first, first + CHUNK_TOKENS)
            scores = x[part] @ unit.t()  # [chunk, d_sae]
            rest = x[part].double().square().sum(-1)  # squared length
            going = torch.ones(len(scores), dtype=torch.bool, device=x.device)
            for turn in range(cfg.k):
                best, chosen = scores.max(-1)
                going = going & (best > 0)
                if not going.any():
                    break
                again = ((latents[part, :turn] == chosen[:, None]) & on[part, :turn]).any(-1)
                latents[part, turn], on[part, turn] = chosen, going
                best = best * going
                row = unit[chosen] @ unit.t() if gram is None else gram[chosen]
                scores -= best[:, None] * row
                rest -= best.double().square() * kept[chosen]
                going &= rest.clamp_min(0).sqrt() >= self.tolerance
                if cfg.stop_at_repeat:
                    going &= ~again
        return latents, on

    def _values(
        self,
        x: Float[Tensor, "n d_in"],
        unit: Float[Tensor, "d_sae d_in"],
        latents: Int[Tensor, "n k"],
        on: Bool[Tensor, "n k"],
    ) -> Float[Tensor, "n k"]:
        """Return the value of every choice, with its graph.

        The values of a chain of choices solve one triangular system: each is the product with
        x less what earlier choices took, v = D x - L v with D the chosen rows and L the part
        of D D^T below its diagonal.
        """
        rows = unit[latents] * on[..., None]  # [n, k, d_in]
        products = (rows @ x[..., None]).squeeze(-1)
        lower = (rows @ rows.transpose(1, 2)).tril(-1)
        eye = torch.eye(latents.shape[1], dtype=x.dtype, device=x.device)
        return torch.linalg.solve_triangular(
            lower + eye, products[..., None], upper=False, unitriangular=True
        ).squeeze(-1)

    @override
    def decode(self, acts: Codes) -> Float[Tensor, "..."]:
        y_hat = sparse.decode(acts, self.W_dec) + self.b_dec
        return y_hat.view(*acts.batch, self.cfg.d_out)

    @override
    def directions(self) -> Float[Tensor, "d_sae d_out"]:
        return self.W_dec

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        acts = self.encode(x)
        y_hat = self.decode(acts)
        terms = {"mse": _parts.mse(y_hat, y)}
        return Loss(_parts.add(terms), terms, acts.detach(), y_hat)

    @override
    def before_step(self) -> None:
        _parts.project_out(self.W_dec)

    @override
    def after_step(self, out: Loss) -> None:
        _parts.unit_rows(self.W_dec)

    @override
    @torch.no_grad()
    def rescale(self, x: Scaling, y: Scaling) -> None:
        if x.matrix is not None or y.matrix is not None:
            raise ConfigError(
                "`matching_pursuit` cannot be trained on whitened activations: which latents it "
                'chooses depends on lengths, which whitening changes. Use normalise "scale".'
            )
        self.W_dec.mul_(x.scale / y.scale)
        self.gain.mul_(x.scale / y.scale)
        self.b_in.div_(x.scale).add_(x.mean.to(self.b_in))
        self.b_dec.div_(y.scale).add_(y.mean.to(self.b_dec))
        self.tolerance.div_(x.scale)


def _merged(
    values: Float[Tensor, "n k"], latents: Int[Tensor, "n k"], on: Bool[Tensor, "n k"], d_sae: int
) -> Codes:
    """Return codes in which a latent chosen twice stands once, with the sum."""
    rows, turns = on.nonzero(as_tuple=True)
    places, where = torch.unique(rows * d_sae + latents[rows, turns], return_inverse=True)
    summed = values.new_zeros(len(places)).index_add(0, where, values[rows, turns])
    return sparse.chosen_codes(summed, places // d_sae, places % d_sae, len(latents), d_sae)
