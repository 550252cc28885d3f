"""k-SVD: a dictionary of which few rows at a time give activations back, by turns with codes."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.config import setting
from saekit.core.seeds import generator
from saekit.saes.base import SAEConfig
from saekit.saes.matching_pursuit import MatchingPursuit, MatchingPursuitSAE
from saekit.training.fitted.base import DEFAULT_K, Acts, Fitted, Method, check_enough, registry

EXPANSION = 2  # latents a dimension: a round costs k matching pursuits of the whole sample
ROWS_PER_LATENT, MOST_ROWS = 32, 2**16
ENCODED_ROWS = 4096  # at once


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class KSVD(Method):
    """Approximate k-SVD with matching pursuit, in codes and in use.

    By turns: a sample of activations is coded by matching pursuit; then each row of the dictionary
    in turn becomes the direction that explains best, with the codes of those that use it, what all
    other rows leave over. A row that none uses becomes the activation that is explained worst.

    Args:
        rows: activations that it is fitted to, drawn from all tokens; null: 32 a latent, at most
            65,536.
        rounds: number of rounds.

    Source:
        Aharon et al. 2006, IEEE Trans. Signal Processing 54; Rubinstein et al. 2008, CS Technion
        report CS-2008-08 (the approximate form: one power iteration in place of an SVD).
        Differs: activations of latents are not below 0; matching pursuit is not orthogonal.
    """

    name: ClassVar[str] = "ksvd"
    rows: int | None = setting(None, least=2)
    rounds: int = setting(10, least=1)

    @classmethod
    @override
    def example(cls) -> "KSVD":
        return cls(rows=600, rounds=3)

    @override
    def sae(self, width: int, d_sae: int | None, k: int | None) -> MatchingPursuit:
        d_sae = d_sae or EXPANSION * width
        k = min(DEFAULT_K, d_sae) if k is None else k
        return MatchingPursuit(d_in=width, d_out=width, d_sae=d_sae, k=k)

    @override
    @torch.no_grad()
    def fit(self, cfg: SAEConfig, acts: Acts, seed: int) -> Fitted:
        wanted = self.rows or max(min(ROWS_PER_LATENT * cfg.d_sae, MOST_ROWS), cfg.d_sae)
        x = acts.sample(wanted, seed)
        check_enough(self.name, len(x), cfg.d_sae)
        assert isinstance(cfg, MatchingPursuit)
        sae = cfg.build(generator(seed, self.name)).to(x.device)
        first = torch.randperm(len(x), generator=generator(seed, self.name, "rows"))[: cfg.d_sae]
        sae.W_dec.copy_(normalize(x[first.to(x.device)], dim=-1))
        left, variance = [], float((x - x.mean(0)).double().square().sum())
        for _ in range(self.rounds):
            codes = _coded(sae, x)
            rest = x - sae.decode(codes)
            left.append(float(rest.double().square().sum()) / variance)
            _improve(sae.W_dec, codes, rest, x)
        left.append(float((x - sae.decode(_coded(sae, x))).double().square().sum()) / variance)
        return Fitted(sae.cpu(), {"rows": len(x), "fvu_by_round": left})


def _coded(sae: MatchingPursuitSAE, x: Float[Tensor, "n width"]) -> Codes:
    return Codes.cat([sae.encode(part) for part in x.split(ENCODED_ROWS)])


def _improve(
    rows: Float[Tensor, "d_sae width"],
    codes: Codes,
    rest: Float[Tensor, "n width"],
    x: Float[Tensor, "n width"],
) -> None:
    """Turn each row of a dictionary to what the others leave over; rows and rest are rewritten.

    One power iteration: with E the rest of those that use row d, its part g d put back,
    d = E^T g / |E^T g| and then g = relu(E d).
    """
    order = codes.latents.argsort(stable=True)
    users, values = codes.rows()[order], codes.values[order]
    ends = torch.bincount(codes.latents, minlength=len(rows)).cumsum(0).tolist()
    unused, begin = [], 0
    for i, end in enumerate(ends):
        mine, g = users[begin:end], values[begin:end]
        begin = end
        if not bool((g > 0).any()):
            unused.append(i)
            continue
        own = rest[mine] + g[:, None] * rows[i]
        rows[i] = normalize(own.t() @ g, dim=0)
        rest[mine] = own - (own @ rows[i]).clamp_min(0)[:, None] * rows[i]
    if unused:
        worst = rest.square().sum(1).argsort(descending=True, stable=True)[: len(unused)]
        rows[torch.tensor(unused, device=rows.device)] = normalize(x[worst], dim=-1)
