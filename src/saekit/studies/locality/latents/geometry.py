"""Do latents with like directions look back equally far? Decoder cosines against |dH_pos|."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, DataError, ShapeError
from saekit.core.result import Table
from saekit.core.seeds import generator
from saekit.core.stats.permutation import Null, defined, permutation_test
from saekit.core.stats.ranks import pearson, ranks, spearman


class Predictor(NamedTuple):
    """How well one measure of likeness tells |dH|."""

    spearman: Null
    pearson: float


class GeometryResult(NamedTuple):
    """What `Geometry.run` measures, over the latents given."""

    latents: Int[Tensor, "n"]
    entropy: Float[Tensor, "n"]  # mean H_pos, bits
    cosine: Float[Tensor, "n n"]
    signed: Predictor  # cosine against |dH|
    size: Predictor  # |cosine| against |dH|
    neighbours: Null  # Spearman of H with the mean H of the nearest latents
    neighbour_entropy: Float[Tensor, "n"]
    neighbour_size: Float[Tensor, "n"]  # mean |cosine| of the nearest
    k: int  # nearest latents taken

    def pairwise(self) -> Table:
        """Return one row per pair of latents."""
        n = len(self.latents)
        a, b = torch.triu_indices(n, n, offset=1)
        cosine = self.cosine[a, b]
        return Table(
            columns={
                "fid_a": self.latents[a].tolist(),
                "fid_b": self.latents[b].tolist(),
                "cosine": cosine.tolist(),
                "abs_cosine": cosine.abs().tolist(),
                "H_a": self.entropy[a].tolist(),
                "H_b": self.entropy[b].tolist(),
                "dH": (self.entropy[a] - self.entropy[b]).abs().tolist(),
            },
            units={"H_a": "bits", "H_b": "bits", "dH": "bits"},
        )

    def by_neighbours(self) -> Table:
        """Return one row per latent: its entropy and that of those nearest to it."""
        return Table(
            columns={
                "feature_id": self.latents.tolist(),
                "H_pos": self.entropy.tolist(),
                f"nbr{self.k}_H_mean": self.neighbour_entropy.tolist(),
                f"nbr{self.k}_abs_cos_mean": self.neighbour_size.tolist(),
            },
            units={"H_pos": "bits", f"nbr{self.k}_H_mean": "bits"},
        )

    def record(self) -> dict[str, Any]:
        """Return the statistics under the names of both generations of published manifests.

        What is undefined, as a correlation with what does not vary and its p, is None.
        """
        n = len(self.latents)
        signed, size = self.signed.spearman.record(), self.size.spearman.record()
        return {
            "n_features": n,
            "n_pairs": n * (n - 1) // 2,
            "correlation_decoder_cos_vs_abs_dH_pos": signed["value"],
            "null_distribution_quantiles": signed["quantiles"],
            "spearman_r": size["value"],
            "spearman_p": size["p"],
            "pearson_r": defined(self.size.pearson),
            "permutation_n": size["n"],
            "permutation_mean": size["mean"],
            "permutation_std": size["std"],
            "permutation_z": size["z"],
            "permutation_p": size["p"],
            "stats_by_predictor": {
                name: {"spearman": p.spearman.record(), "pearson_r": defined(p.pearson)}
                for name, p in (("signed", self.signed), ("abs", self.size))
            },
            "per_feature_neighbour": {"k": self.k, **self.neighbours.record()},
        }


@dataclass(frozen=True, kw_only=True)
class Geometry(Config):
    """Correlation of decoder cosines with differences of H_pos, tested by permuting latents.

    cos(a, b) = D_a . D_b / |D_a| |D_b|;  dH(a, b) = |H_a - H_b|

    Spearman and Pearson over the n (n - 1) / 2 pairs, of the cosine and of its size. Pairs
    that share a latent are not independent, so the null permutes H over latents and keeps
    the cosines (a Mantel test); a p-value of the pairs would be far too small. The neighbour
    test takes each latent's `k` nearest by |cos| among those given, and correlates H with
    the mean H of these, by the same null.

    Args:
        k: nearest latents.
        permutations: random orders a p-value is taken from; it is at least 1 / (1 + permutations).
        seed: of the permutations.

    Raises:
        ConfigError: a number is out of range.

    Source:
        lccqqqqq/sae-analysis, feature_geometry_vs_entropy; Mantel 1967.
        Differs: p counts what was seen among the permutations; the neighbour test has the
        permutation p in place of a parametric one that takes latents for independent.
    """

    name: ClassVar[str] = "geometry"
    k: int = setting(10, least=1)
    permutations: int = setting(1000, least=1)
    seed: int = 0

    def run(
        self,
        latents: Int[Tensor, "n"],
        directions: Float[Tensor, "_n d"],
        entropy: Float[Tensor, "_n"],
    ) -> GeometryResult:
        """Return the statistics of some latents.

        Args:
            latents: which they are, distinct.
            directions: what one unit of each writes, not all zero.
            entropy: mean H_pos of each, bits.

        Raises:
            DataError: fewer than 4 latents, an entropy that is not finite, or a direction
                without a length.
            ShapeError: not as many directions or entropies as latents.
        """
        n = len(latents)
        if not n == len(directions) == len(entropy):
            raise ShapeError(
                f"Each latent has one direction and one entropy; got {n} latents, "
                f"{len(directions)} directions and {len(entropy)} entropies."
            )
        if n < 4 or not entropy.isfinite().all():
            bad = int((~entropy.isfinite()).sum())
            raise DataError(
                f"Geometry needs 4 latents or more with an entropy each; got {n}, {bad} without. "
                f"Score more events, lower --least-events, or leave those latents out."
            )
        if not (directions.norm(dim=-1) > 0).all():
            raise DataError("A latent writes nothing: its direction is 0. Leave it out.")
        H = entropy.double()
        cosine = cosines(directions)
        gap = (H[:, None] - H).abs()
        neighbour_entropy, neighbour_size, nearest = _neighbours(cosine, H, self.k)

        def near(order: Tensor) -> float:
            return spearman(H[order], H[order][nearest].mean(1))

        return GeometryResult(
            latents,
            H,
            cosine,
            self._predictor(cosine, gap, "signed"),
            self._predictor(cosine.abs(), gap, "size"),
            permutation_test(
                spearman(H, neighbour_entropy),
                near,
                n,
                self.permutations,
                generator(self.seed, "neighbours"),
            ),
            neighbour_entropy,
            neighbour_size,
            nearest.shape[1],
        )

    def _predictor(self, like: Tensor, gap: Tensor, name: str) -> Predictor:
        n = len(like)
        a, b = torch.triu_indices(n, n, offset=1)
        x = ranks(like[a, b])
        x = (x - x.mean()) / (x - x.mean()).norm()
        # Permuting latents permutes pairs, so ranks are taken once.
        y = ranks(gap[a, b])
        y = (y - y.mean()) / (y - y.mean()).norm()
        grid = torch.zeros(n, n, dtype=torch.float64)
        grid[a, b] = grid[b, a] = y

        def statistic(order: Tensor) -> float:
            return float((x * grid[order[a], order[b]]).sum())

        null = permutation_test(
            float((x * y).sum()), statistic, n, self.permutations, generator(self.seed, name)
        )
        return Predictor(null, pearson(like[a, b], gap[a, b]))


def cosines(directions: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """Return the cosine of every two directions, float64."""
    unit = functional.normalize(directions.detach().double().cpu(), dim=-1)
    return (unit @ unit.T).clamp(-1, 1)


def _neighbours(cosine: Tensor, H: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    size = cosine.abs().fill_diagonal_(-1.0)
    found = size.topk(min(k, len(H) - 1), dim=1)
    return H[found.indices].mean(1), found.values.mean(1), found.indices


def nearest_latents(
    directions: Float[Tensor, "d_sae d"], anchors: Int[Tensor, "n"], k: int
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """Return the k other latents of the whole dictionary with the largest |cosine| to each.

    Raises:
        ConfigError: `k` is not in 1..d_sae - 1.
    """
    if not 1 <= k < len(directions):
        raise ConfigError(f"`k` must lie in 1..{len(directions) - 1}; got {k}.")
    unit = functional.normalize(directions.detach().double().cpu(), dim=-1)
    cosine = unit[anchors] @ unit.T
    size = cosine.abs()
    size[torch.arange(len(anchors)), anchors] = -1.0
    found = size.topk(k, dim=1).indices
    return found, cosine.gather(1, found)
