"""Ground truth: whether an SAE found the features that its samples were made of.

Not one of the registered evaluations, whose subjects stand in a language model: its subject is
an SAE and the truth that made its samples. See `saekit truth eval`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core import provenance
from saekit.core.codes import Codes
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, DataError, ShapeError
from saekit.core.finite import all_finite
from saekit.core.progress import Progress
from saekit.core.result import Result, Score
from saekit.core.seeds import generator
from saekit.evals.intervals import BlockSums
from saekit.metrics.base import Batch, Metric, Sums, added
from saekit.metrics.dead import Dead
from saekit.metrics.fvu import FVU
from saekit.metrics.l0 import L0
from saekit.metrics.l2_ratio import L2Ratio
from saekit.metrics.matching import Matches, cosines, expected_best_cosine, match
from saekit.metrics.shrinkage import Shrinkage
from saekit.studies.truth.evals._recovery import (
    R2,
    Absorption,
    Classification,
    L0Error,
    TrueL0,
    finite,
    of_latents,
)
from saekit.studies.truth.model.base import Sample, Truth
from saekit.studies.truth.words import label

WORST_PAIRS = 20  # parent-child pairs listed in the details
NO_TEXT = "no interval: a property of the weights, no sample is drawn"
Arrange = Callable[[Tensor], Tensor]


class Geometry(NamedTuple):
    """What the directions alone say about which latent stands for which feature."""

    cosine: Float[Tensor, "d_sae n_features"]
    matches: Matches  # one-to-one
    best: Int[Tensor, "d_sae"]  # feature with the largest |cosine|
    best_cosine: Float[Tensor, "d_sae"]  # with its sign
    second: Float[Tensor, "d_sae"]  # next largest |cosine|; 0 where there is one feature


class Pairs(NamedTuple):
    """Parent and child features that both have a latent, and whether the child's carries both."""

    parents: Int[Tensor, "pairs"]
    children: Int[Tensor, "pairs"]
    parent_latents: Int[Tensor, "pairs"]
    child_latents: Int[Tensor, "pairs"]
    carries: Bool[Tensor, "pairs"]
    n_in_truth: int


@final
@dataclass(frozen=True, kw_only=True)
class GroundTruth(Config):
    """Recovery of known features: by direction, by firing, and the known ways to miss.

    Each latent stands for its best feature, the one whose direction has the largest |cosine|
    with what the latent writes. With t the thresholds below:

    - `mcc`: see `saekit.metrics.matching.mcc`; `mcc_chance` is what a random dictionary
      gets at most in expectation.
    - `uniqueness`: different best features over living latents; `uniqueness_all` over all.
    - `found`: share of features that are best for a living latent with |cosine| >= t.
    - `splitting`: share of those found that have two such latents or more.
    - `hedging`: share of living latents with |cosine| >= t with two features or more.
      `hedging_truth` is the share of features that near another: what directions alone bring.
    - `precision`, `recall`, `f1`: over living latents, and `*_all` over all, the dead as 0.
    - `absorption`: share of tokens with parent and child on where the parent's latent is
      silent while the child's fires and carries the parent. Only where the truth has a
      hierarchy. A feature's latent is the one with the largest |cosine|, if that is >= t.
    - `r2`, `l0`, `l0_true`, `l0_error`, `shrinkage`, `l2_ratio`, `dead`.

    Scores over samples have 95 % intervals over blocks of them; those of directions none.

    Args:
        n_tokens: samples drawn; rounded up to whole batches.
        batch_tokens: samples coded at once, rounded up to whole sequences where the truth has
            some; decides, with the seed, which are drawn.
        n_blocks: blocks for the intervals.
        split_cosine: |cosine| from which a latent holds a feature.
        hedge_cosine: |cosine| from which a second feature is in a latent.
        absorb_cosine: what a child's latent must have of the parent's direction beyond what the
            child's own direction brings, to carry it.

    Raises:
        ConfigError: a number is out of range.

    Cost:
        n_tokens samples and codes; a matching of min(d_sae, n_features)^2 * max(...).

    Source:
        SAELens 6.54, synthetic evals; Chanin et al. 2026, arXiv:2602.14687 (SynthSAEBench).
        Differs: living and all latents apart; undefined is None with a count; intervals;
        splitting, hedging and absorption added.
    """

    name: ClassVar[str] = "ground_truth"
    version: ClassVar[int] = 2

    n_tokens: int = setting(2**16, least=1)
    batch_tokens: int = setting(2**10, least=1)
    n_blocks: int = setting(64, least=1)
    split_cosine: float = setting(0.5, least=0, most=1)
    hedge_cosine: float = setting(0.4, least=0, most=1)
    absorb_cosine: float = setting(0.1, least=0, most=1)

    @torch.no_grad()
    def run(
        self,
        sae: Any,
        truth: Truth,
        *,
        arrange: Arrange | None = None,
        seed: int = 0,
        shown: bool = False,
        name: str = "sae",
    ) -> Result:
        """Evaluate an SAE that takes raw samples on the truth that they come from.

        Args:
            sae: a `saekit.saes.base.SAE`.
            truth: what it was trained on, or another of the same width.
            arrange: makes events of samples, where the SAE codes several jointly (see
                `saekit.studies.truth.training.Layout`); its directions at the first site count.
            seed: decides samples.
            shown: show progress on stderr.
            name: what the SAE is called in messages and in the result.

        Raises:
            ConfigError: the SAE codes several samples jointly and `arrange` is missing.
            ShapeError: widths differ.
            DataError: predictions are not finite.
            MissingExtraError: scipy is not installed.
        """
        began = time.monotonic()
        directions = _checked(sae, truth, arrange, name)
        geometry = compare(directions, truth.features.to(directions))
        pairs = self.pairs(geometry, truth)
        sums = _Sums(self.n_blocks, truth, geometry, pairs)
        chance = generator(seed, "ground_truth", device=str(truth.device))
        size = whole_sequences(truth, self.batch_tokens)
        n_batches = -(-self.n_tokens // size)
        bar = Progress("truth", n_batches * size, "samples", shown=shown)
        for i in range(n_batches):
            sample = truth.sample(size, chance)
            x = sample.x.to(directions) if arrange is None else arrange(sample.x.to(directions))
            acts = sae.encode(x)
            y_hat = sae.decode(acts)
            if not all_finite(y_hat):
                raise DataError(
                    f"{name} predicts values that are not finite. Its training diverged, or it "
                    f"was trained on samples of another scale."
                )
            n = acts.n_rows
            batch = Batch(x.reshape(n, -1), y_hat.reshape(n, -1), acts._replace(batch=(n,)))
            sums.add(i * self.n_blocks // n_batches, batch, sample)
            bar.add(n)
        bar.close()
        total = sums.total()
        scores = self._of_weights(geometry, total, truth) | sums.scores()
        made_from = provenance.collect(seed) | {
            "subject": name,
            "sae": sae.cfg.to_dict(),
            "truth": truth.cfg.to_dict(),
            "seconds": round(time.monotonic() - began, 3),
        }
        return Result(
            name=self.name,
            version=self.version,
            config=self.to_dict(),
            scores={name: replace(s, label=label(name)) for name, s in scores.items()},
            details=self._details(geometry, total, pairs),
            provenance=made_from,
        )

    def pairs(self, geometry: Geometry, truth: Truth) -> Pairs:
        """Return the parent-child pairs of a truth for which absorption can be measured."""
        children, parents = hierarchy(truth)
        cosine, t = geometry.cosine.cpu(), self.split_cosine
        closest = cosine.abs().max(0)  # of every feature
        has = (closest.values >= t) & (
            geometry.best.cpu()[closest.indices] == torch.arange(cosine.shape[1])
        )
        kept = has[children] & has[parents]
        c, p = children[kept], parents[kept]
        latent = closest.indices[c]
        own = cosine[latent, c]
        features = truth.features.cpu().float()
        common = (features[c] * features[p]).sum(1)
        excess = own.sign() * cosine[latent, p] - own.abs() * common
        return Pairs(p, c, closest.indices[p], latent, excess > self.absorb_cosine, len(children))

    def _of_weights(self, g: Geometry, total: Sums, truth: Truth) -> dict[str, Score]:
        d_sae, m = g.cosine.shape
        alive = (total["fired"] > 0).to(g.best.device)
        held = g.best[alive & (g.best_cosine.abs() >= self.split_cosine)]
        by_feature = torch.bincount(held, minlength=m)
        found, split = int((by_feature > 0).sum()), int((by_feature > 1).sum())
        living = int(alive.sum())
        hedging = int((g.second[alive] >= self.hedge_cosine).sum())
        features = truth.features.float()
        near = _nearest(features) >= self.hedge_cosine

        def score(value: float, of: int, unit: str, better: str, why: str) -> Score:
            return Score(
                value=value / of if of else None,
                n=of,
                unit=unit,
                better=better,  # type: ignore
                reason=NO_TEXT if of else why,
            )

        none = "no latent fired"
        unique = len(g.best[alive].unique())
        pairs = len(g.matches.latents)
        matched = float(g.matches.cosines.double().abs().sum())
        chance = expected_best_cosine(features.shape[1], max(d_sae, m))
        return {
            "mcc": score(matched, pairs, "|cosine|", "higher", none),
            "mcc_chance": score(chance, 1, "|cosine|", "neither", none),
            "uniqueness": score(unique, living, "share of living latents", "higher", none),
            "uniqueness_all": score(
                len(g.best.unique()), d_sae, "share of latents", "higher", none
            ),
            "found": score(found, m, "share of features", "higher", none),
            "splitting": score(
                split, found, "share of features found", "lower", "no feature was found"
            ),
            "hedging": score(hedging, living, "share of living latents", "lower", none),
            "hedging_truth": score(float(near.sum()), m, "share of features", "neither", none),
        }

    def _details(self, g: Geometry, total: Sums, pairs: Pairs) -> dict[str, Any]:
        per_latent = {kind: of_latents(kind, total) for kind in ("precision", "recall", "f1")}
        alive = total["fired"] > 0
        undefined = {k: int(v.isnan().sum()) for k, v in per_latent.items()}
        matched = torch.full((len(g.best),), -1)
        matched[g.matches.latents] = g.matches.features
        latents = {
            "feature": g.best.tolist(),
            "cosine": finite(g.best_cosine),
            "matched_feature": matched.tolist(),  # -1: none
            "density": finite(total["fired"] / total["n"]),
        } | {k: finite(v) for k, v in per_latent.items()}
        rate = total["absorbed"] / total["both_on"]
        worst = rate.nan_to_num(-1).argsort(descending=True)[:WORST_PAIRS]
        worst = worst[total["both_on"][worst] > 0]
        listed = {
            "parent": pairs.parents[worst].tolist(),
            "child": pairs.children[worst].tolist(),
            "rate": finite(rate[worst]),
            "tokens": total["both_on"][worst].long().tolist(),
        }
        return {
            "tokens": int(total["n"]),
            "latents": {"all": len(alive), "living": int(alive.sum()), "dead": int((~alive).sum())},
            "undefined": undefined,
            "features_never_on": int((total["on"] == 0).sum()),
            "by_latent": latents,
            "absorption": {
                "pairs_in_truth": pairs.n_in_truth,
                "pairs_with_both_latents": len(pairs.parents),
                "pairs_on_together": int((total["both_on"] > 0).sum()),
                "worst": listed,
            },
        }


def compare(
    directions: Float[Tensor, "d_sae d"], features: Float[Tensor, "n_features width"]
) -> Geometry:
    """Return which latent stands for which feature.

    Raises:
        ShapeError: widths differ.
        MissingExtraError: scipy is not installed.
    """
    cosine = cosines(directions, features)
    top = cosine.abs().topk(min(2, cosine.shape[1]), dim=1)
    best = top.indices[:, 0]
    second = top.values[:, 1] if cosine.shape[1] > 1 else torch.zeros_like(top.values[:, 0])
    return Geometry(cosine, match(cosine), best, cosine.gather(1, best[:, None])[:, 0], second)


def hierarchy(truth: Truth) -> tuple[Int[Tensor, "pairs"], Int[Tensor, "pairs"]]:
    """Return children and their parents, in the order of children; empty without a hierarchy.

    Nodes of a hierarchy from n_features on are groups, which no latent can stand for: a child
    in one has the nearest feature above it as its parent, or none.
    """
    found = truth.tensors.get("parent")
    if found is None:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    every = found.cpu()
    parents = every[: truth.n_features].clone()
    while (groups := parents >= truth.n_features).any():
        parents[groups] = every[parents[groups]]
    children = (parents >= 0).nonzero()[:, 0]
    return children, parents[children]


def whole_sequences(truth: Truth, n: int) -> int:
    """Return the fewest tokens from n on that are whole sequences of a truth."""
    n_ctx = truth.cfg.sequence.n_ctx if truth.cfg.sequence is not None else 1
    return -(-n // n_ctx) * n_ctx


class _Sums:
    """Sums of every score over samples, by block."""

    def __init__(self, n_blocks: int, truth: Truth, geometry: Geometry, pairs: Pairs):
        self._geometry, self._pairs, self._n_features = geometry, pairs, truth.n_features
        self._counts: list[Sums | None] = [None] * n_blocks
        plain = {"l0": L0(), "shrinkage": Shrinkage(), "l2_ratio": L2Ratio(), "dead": Dead()}
        even = torch.ones(n_blocks, dtype=torch.float64)  # samples are independent: any blocks do
        self._plain = {name: BlockSums(m, even) for name, m in plain.items()}
        self._r2 = BlockSums(R2(), even)

    def add(self, block: int, batch: Batch, sample: Sample) -> None:
        """Add one batch of samples."""
        for sums in self._plain.values():
            sums.add(block, sums.metric.sums(batch))
        self._r2.add(block, FVU().sums(batch))
        counted = self._count(batch.acts.live(), sample.acts.live())
        before = self._counts[block]
        self._counts[block] = counted if before is None else added(before, counted)

    def _count(self, acts: Codes, true: Codes) -> Sums:
        """Return how often latents, their best features, and both were on."""
        g, p = self._geometry, self._pairs
        device = acts.values.device
        n, d_sae, m = acts.n_rows, acts.d_sae, self._n_features
        rows, latents = acts.rows(), acts.latents
        on = torch.zeros(n, m, dtype=torch.bool, device=device)
        on[true.rows().to(device), true.latents.to(device)] = True
        best = g.best.to(device)
        hit = latents[on[rows, best[latents]]]
        times_on = on.sum(0)
        sums: dict[str, Tensor] = {
            "n": torch.tensor(float(n)),
            "fired": torch.bincount(latents, minlength=d_sae),
            "hit": torch.bincount(hit, minlength=d_sae),
            "on": times_on,
            "best_on": times_on[best],
            "both_on": torch.zeros(len(p.parents)),
            "absorbed": torch.zeros(len(p.parents)),
        }
        if len(p.parents):
            fires = torch.zeros(n, d_sae, dtype=torch.bool, device=device)
            fires[rows, latents] = True
            both = on[:, p.parents.to(device)] & on[:, p.children.to(device)]  # [n, pairs]
            silent = both & ~fires[:, p.parent_latents.to(device)]
            lost = silent & fires[:, p.child_latents.to(device)] & p.carries.to(device)
            sums |= {"both_on": both.sum(0), "absorbed": lost.sum(0)}
        return {key: value.double().cpu() for key, value in sums.items()}

    def of_counts(self, metric: Metric) -> BlockSums:
        """Return the counts of all blocks as the sums of a metric."""
        sums = BlockSums(metric, torch.ones(len(self._counts), dtype=torch.float64))
        for block, counted in enumerate(self._counts):
            if counted is not None:
                sums.add(block, counted)
        return sums

    def total(self) -> Sums:
        """Return the counts over all samples."""
        return self.of_counts(TrueL0()).total()

    def scores(self) -> dict[str, Score]:
        """Return every score over samples, with its interval."""
        of_counts: dict[str, Metric] = {
            "l0_true": TrueL0(),
            "l0_error": L0Error(),
            "absorption": Absorption(),
        }
        total = self.total()
        for kind in ("precision", "recall", "f1"):
            of_counts[kind] = Classification(kind, total, "living")
            of_counts[f"{kind}_all"] = Classification(kind, total, "all")
        found = {"r2": self._r2.score()}
        found |= {name: sums.score() for name, sums in self._plain.items()}
        return found | {name: self.of_counts(m).score() for name, m in of_counts.items()}


def _nearest(features: Float[Tensor, "m d"]) -> Float[Tensor, "m"]:
    """Return the largest |cosine| of each feature with another one."""
    out = []
    for part in torch.arange(len(features)).split(2**10):
        cosine = cosines(features[part], features).abs()
        cosine[torch.arange(len(part)), part] = 0
        out.append(cosine.amax(1))
    return torch.cat(out)


def _checked(
    sae: Any, truth: Truth, arrange: Arrange | None, name: str
) -> Float[Tensor, "d_sae d_out"]:
    event = sae.cfg.event
    if event and arrange is None:
        raise ConfigError(
            f"{name} codes {' and '.join(event)} jointly; say how samples become its events "
            f"(`arrange`, see saekit.studies.truth.training.Layout)."
        )
    directions = sae.directions().detach()
    for _ in range(directions.ndim - 2):  # of sites coded jointly: the first
        directions = directions[0]
    if (sae.cfg.d_in, directions.shape[1]) != (truth.d_model, truth.d_model):
        raise ShapeError(
            f"{name} reads {sae.cfg.d_in} and writes {directions.shape[1]} wide; the truth is "
            f"{truth.d_model} wide. Evaluate it on the truth that it was trained on."
        )
    return directions.float()
