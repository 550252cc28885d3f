"""Seed stability: which latents SAEs that were trained anew have in common."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar, Literal, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saekit.core import provenance
from saekit.core.codes import Codes
from saekit.core.config import setting
from saekit.core.errors import ConfigError, DataError
from saekit.core.progress import Progress
from saekit.core.result import Result, Score, Table
from saekit.core.seeds import generator
from saekit.core.stats.means import mean_interval
from saekit.core.stats.proportions import wilson
from saekit.evals._reconstruction import float32_on
from saekit.evals.base import JointEval, Subject, Tools, registry
from saekit.hub.trained import weights_digest
from saekit.metrics.coactivation import Coactivation
from saekit.models.sites import Site
from saekit.studies.faithful.coding import saes_of
from saekit.studies.faithful.stability import arms
from saekit.studies.faithful.stability.clusters import Clusters, clusters
from saekit.studies.faithful.stability.dictionaries import Dictionary, dictionary
from saekit.studies.faithful.stability.effects import (
    Ablation,
    Acting,
    Effects,
    ablation_correlations,
    correlations,
)
from saekit.studies.faithful.stability.intervals import Ends, of_share, over_seeds
from saekit.studies.faithful.stability.pairs import (
    PairMatch,
    match_pair,
    null_cosines,
    share_of_all,
)
from saekit.studies.faithful.stability.subspaces import unstable_overlap

TABLE, MATCHES = "stability", "stability_matches"  # files in RUN/analysis
CURVE = [i / 20 for i in range(21)]
BINS = 60  # of cosines from -0.2 to 1
LEAST_FIRED = 10  # tokens a latent must be on for, for a correlation of activations
ABLATED_ROWS = 16  # the most rows in which latents are looked for that are taken out
LOOKED_AT = 16  # times as many latents as are taken out: most are off in these rows
Better = Literal["lower", "higher", "neither"]
Each = Mapping[tuple[int, int], float]


class _Read(NamedTuple):
    """What one pass over the text gave."""

    fired: list[Tensor]  # tokens each latent is on for, by SAE
    sums: list[Tensor]  # of activations
    together: dict[tuple[int, int], Coactivation]
    shifted: dict[tuple[int, int], Coactivation]  # the other's activations at another token
    first: tuple[Tensor, Tensor]  # rows for effects, and which of their tokens count
    acts: dict[Site, Tensor]  # of these rows, where the SAEs read
    n_tokens: int
    n_read: int


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class SeedStability(JointEval):
    """How many latents SAEs of several seeds share, next to what chance gives.

    Latents that are on for no token that is read are dead: counted, and left out. All that is
    compared of two SAEs is averaged over pairs.

    - `shared_feature_ratio`: living latents are matched one to one with the largest sum of
      cosines of what they write; the share of pairs above `threshold`, strictly.
      `shared_feature_ratio_published` is that of all latents, dead ones among them.
      `_random` and `_rotated` are what it is of random directions, and with one SAE turned as a
      whole: the null.
    - `encoder_decoder`: pairs whose cosine is above the threshold in what they read, too.
    - `one_way`: latents whose nearest in the other SAE is above it, both ways; many may share one.
    - `activation_match`: latents on for 10 tokens or more, of which some latent of the other SAE
      has activations with a correlation above the threshold, on the same tokens.
      `activation_match_shuffled`: with the other's activations moved to other tokens.
    - `core`: living latents in a cluster with exactly one latent of every SAE, joined by mutual
      matches above the threshold.
    - `unstable_subspace`: mean squared cosine of the principal angles between the spaces of
      latents that found no match; `unstable_subspace_random` of random spaces of that rank.
    - `effect_matched`: correlation of the changes of logits when a latent and its match are added
      at every token, each at its mean activation; `effect_unmatched` of pairs that are no match.
    - `ablation_matched`: the same when each is taken out where it is on, in the row where the
      first is on most; `ablation_unmatched` with another latent's direction taken out instead, at
      the same tokens and as strongly. Latents that are off in 16 rows are left out.
    - `instability_initialisation`, `_order`, `_data`: what each adds to the share that is not
      shared, where the SAEs tell them apart.

    The table ``analysis/stability.csv`` next to each SAE has, for each latent, in how many of the
    others it is found, that as a share with its interval, the mean cosine, and its cluster;
    ``stability_matches.csv`` has its match in every other SAE.

    Args:
        threshold: cosine, or correlation, above which two latents are one.
        n_tokens: tokens read for what is dead and how activations go together; rounded up to rows.
        batch_rows: rows of a pass.
        subspace_rank: dimensions of the spaces of unstable latents.
        n_effects: matched latents of each pair that are steered, and taken out; 0 leaves both out.
        effect_rows: rows of text they are steered on.

    Raises:
        ConfigError: SAEs write to different sites, or a number is out of range.

    Cost:
        n_tokens to the sites; for each pair of SAEs 3 matchings of d_sae, 2 * n_effects passes of
        effect_rows through the whole model, and 3 * n_effects of one row.

    Reads:
        Held-out rows.

    Source:
        FaithfulSAE, arXiv:2506.17673 (shared feature ratio); Paulo and Belrose 2025,
        arXiv:2501.16615 (latents over seeds, encoder and decoder).
        Differs: the dead are left out; intervals, nulls, clusters, subspaces and effects.
    """

    name: ClassVar[str] = "seed_stability"
    version: ClassVar[int] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"lm"})
    headline: ClassVar[tuple[str, ...]] = ("shared_feature_ratio", "activation_match")

    threshold: float = setting(0.7, least=0, below=1)
    n_tokens: int = setting(2**15, least=1)
    batch_rows: int = setting(8, least=1)
    subspace_rank: int = setting(32, least=2)
    n_effects: int = setting(16, least=0)
    effect_rows: int = setting(2, least=1)

    @classmethod
    @override
    def example(cls) -> "SeedStability":
        return cls(n_tokens=1024, n_effects=4)

    @override
    @torch.no_grad()
    def run_together(self, subjects: Sequence[Subject], tools: Tools) -> Result:
        self.check_all(subjects)
        _check_sites(subjects)
        began = time.monotonic()
        read = self._read(subjects, tools)
        saes = [
            dictionary(s.name, s.sae, fired > 0)
            for s, fired in zip(subjects, read.fired, strict=True)
        ]
        pairs = list(combinations(range(len(saes)), 2))
        bar = Progress(f"{self.name}: pairs", len(pairs), "pairs", shown=tools.shown)
        matches, nulls, published = {}, {}, {}
        for a, b in pairs:
            matches[a, b] = match_pair(saes[a], saes[b])
            nulls[a, b] = null_cosines(saes[a], saes[b], generator(tools.seed, "null", a, b))
            both = bool(saes[a].alive.all() and saes[b].alive.all())
            published[a, b] = (
                matches[a, b].share(self.threshold)
                if both
                else share_of_all(saes[a], saes[b], self.threshold)
            )
            bar.add(1)
        bar.close()
        found = _Found(saes, matches, nulls, clusters(saes, matches, self.threshold))
        scores = self._scores(found, published, read, [s.trained for s in subjects])
        scores |= self._effects(subjects, found, read, tools.seed)
        self._keep(subjects, found, read, tools)
        weights = {s.name: weights_digest(s.sae) for s in subjects}
        made = provenance.collect(tools.seed) | {
            "saes": {s.name: s.sae.cfg.to_dict() for s in subjects},
            "weights": weights,
            "model": subjects[0].lm.provenance() if subjects[0].lm else None,
            "write": str(subjects[0].write),
            "notes": [
                *provenance.shortfall(self.n_tokens, read.n_read, f"{tools.split} text"),
                *_of_one(weights),
                *self._notes(found, [s.trained for s in subjects]),
            ],
            "seconds": round(time.monotonic() - began, 3),
        }
        shares = {pair: m.share(self.threshold) for pair, m in matches.items()}
        details = self._details(found, read) | {
            "arms": arms.by_arm([s.trained for s in subjects], shares)
        }
        return self.result(scores, details, made)

    def _read(self, subjects: Sequence[Subject], tools: Tools) -> _Read:
        lm = subjects[0].lm
        assert lm is not None  # `check` refuses it
        saes = saes_of(subjects)
        sizes = [s.sae.cfg.d_sae for s in subjects]
        pairs = list(combinations(range(len(saes)), 2))
        together = {(a, b): Coactivation(sizes[a], sizes[b]) for a, b in pairs}
        shifted = {(a, b): Coactivation(sizes[a], sizes[b]) for a, b in pairs}
        fired = [torch.zeros(n, dtype=torch.int64) for n in sizes]
        sums = [torch.zeros(n, dtype=torch.float64) for n in sizes]
        first: list[tuple[Tensor, Tensor]] = []
        kept_acts: list[dict[Site, Tensor]] = []
        n_read = n_tokens = 0
        sites = list(dict.fromkeys(s.read for s in subjects))
        bar = Progress(self.name, self.n_tokens, shown=tools.shown)
        for rows in tools.rows(self.batch_rows):
            left = -(-(self.n_tokens - n_read) // rows.tokens.shape[1])  # rows, whatever the batch
            tokens = rows.tokens[: max(left, 0)]
            if not len(tokens):
                break
            acts = lm.read(tokens, sites)
            keep = torch.stack([s.rule.keep(tokens, acts[s.read]) for s in subjects]).all(0)
            codes = [
                _on_cpu(sae.encode(acts[s.read][keep].float()))
                for sae, s in zip(saes, subjects, strict=True)
            ]
            for i, one in enumerate(codes):
                fired[i] += torch.bincount(one.latents, minlength=sizes[i])
                sums[i].index_add_(0, one.latents, one.values.double())
            n = codes[0].n_rows
            half = torch.arange(n).roll(n // 2)
            for a, b in pairs:
                together[a, b].add(codes[a], codes[b])
                shifted[a, b].add(codes[a], codes[b].take(half))
            if sum(len(some) for some, _ in first) < max(self.effect_rows, ABLATED_ROWS):
                first.append((tokens, keep))
                kept_acts.append({site: acts[site].cpu() for site in sites})
            n_read += tokens.numel()
            n_tokens += n
            bar.reach(n_read)
        bar.close()
        if not n_tokens:
            raise DataError(
                "The held-out text has no row with a token that counts. Give the corpus more text."
            )
        tokens, keep = (torch.cat(part) for part in zip(*first, strict=True))
        acts = {site: torch.cat([one[site] for one in kept_acts]) for site in sites}
        return _Read(fired, sums, together, shifted, (tokens, keep), acts, n_tokens, n_read)

    def _scores(
        self, found: "_Found", published: Each, read: _Read, runs: Sequence[Mapping[str, Any]]
    ) -> dict[str, Score]:
        t, k = self.threshold, len(found.saes)
        living = min(len(d.living) for d in found.saes)
        shares = {pair: m.share(t) for pair, m in found.matches.items()}

        def score(ends: Ends, label: str, better: Better = "higher", n: int = k) -> Score:
            return Score(
                value=ends.value,
                low=ends.low,
                high=ends.high,
                n=n,
                unit="share of latents",
                better=better,
                reason=ends.reason,
                label=label,
            )

        def of(each: Each, label: str, better: Better = "higher") -> Score:
            return score(of_share(each, k, max(living, 1)), label, better)

        both, missing = _encoder_shares(found.matches, t)
        acts = self._activation_shares(found, read)
        scores = {"shared_feature_ratio": of(shares, "latents shared by two SAEs")}
        for kind in ("random", "rotated"):
            each = {p: _share(n[kind], t) for p, n in found.nulls.items()}
            how = "random directions" if kind == "random" else "one SAE rotated"
            by_chance = of(each, f"shared by chance ({how})", "neither")
            scores[f"shared_feature_ratio_{kind}"] = by_chance
        scores |= {
            "shared_feature_ratio_published": of(published, "shared, dead latents counted"),
            "encoder_decoder": of(both, "shared by what they read, too"),
            "one_way": of(_one_way(found.matches, t), "latents with a near one in the other"),
            "activation_match": of(acts[0], "latents with alike activations in the other"),
            "activation_match_shuffled": of(
                acts[1], "alike by chance (tokens shuffled)", "neither"
            ),
        }
        if missing:
            scores["encoder_decoder"] = score(Ends(None, None, None, missing), "shared by both")
        every = sum(len(d.living) for d in found.saes)
        core = found.clusters.core_share(every)
        inside = Ends(None, None, None, "no latent is alive")
        if core is not None:
            low, high = wilson(core, max(living, 1))
            inside = Ends(core, min(low, core), max(high, core), "interval over latents alone")
        scores["core"] = score(inside, "latents that every SAE has")
        dead = 1 - every / sum(len(d.alive) for d in found.saes)
        scores["dead"] = score(
            Ends(dead, None, None, "no interval: a count on the text that was read"),
            "latents that never fire",
            "neither",
        )
        scores |= self._spaces(found)
        for arm, part in arms.components(runs, shares).items():
            ends = Ends(part.value, None, None, part.reason)
            scores[f"instability_{arm}"] = score(ends, f"not shared because of {arm}", "neither")
        return scores

    def _activation_shares(self, found: "_Found", read: _Read) -> tuple[Each, Each]:
        shares: tuple[dict[tuple[int, int], float], ...] = ({}, {})
        for out, sums in zip(shares, (read.together, read.shifted), strict=True):
            for (a, b), one in sums.items():
                best, _ = one.best()
                often = read.fired[a] >= LEAST_FIRED
                out[a, b] = _share(best[often], self.threshold)
        return shares[0], shares[1]

    def _spaces(self, found: "_Found") -> dict[str, Score]:
        values, chance = {}, {}
        for (a, b), m in found.matches.items():
            spaces = unstable_overlap(
                (found.saes[a], found.saes[b]), m, self.threshold, self.subspace_rank
            )
            if spaces is not None:
                values[a, b], chance[a, b] = spaces.mean_square, spaces.random
        undefined = "no pair has two latents without a match in each SAE"
        ends = over_seeds(values, len(found.saes), undefined)
        random = over_seeds(chance, len(found.saes), undefined)
        unit = "squared cosine"
        return {
            "unstable_subspace": Score(
                value=ends.value,
                low=ends.low,
                high=ends.high,
                n=len(found.saes),
                unit=unit,
                better="neither",
                reason=ends.reason,
                label="space that unmatched latents share",
            ),
            "unstable_subspace_random": Score(
                value=random.value,
                n=len(found.saes),
                unit=unit,
                better="neither",
                reason=random.reason or "exact: rank / width",
                label="space shared by chance (random spaces)",
            ),
        }

    def _effects(
        self, subjects: Sequence[Subject], found: "_Found", read: _Read, seed: int
    ) -> dict[str, Score]:
        lm, site = subjects[0].lm, subjects[0].write
        assert lm is not None  # `check` refuses it
        added: tuple[list[float], list[float]] = ([], [])
        out: tuple[list[float], list[float]] = ([], [])
        if self.n_effects:
            tokens, keep = read.first
            effects = Effects(lm, site, tokens[: self.effect_rows], keep[: self.effect_rows])
            ablation = Ablation(lm, site, tokens[:ABLATED_ROWS])
            for (a, b), m in found.matches.items():
                shared = m.over(self.threshold).nonzero()[:, 0]
                chance = generator(seed, "effects", a, b)
                shared = shared[torch.randperm(len(shared), generator=chance)]
                some = shared[: self.n_effects]
                if len(some) > 1:  # one has no pair that is no match
                    sides = [
                        _at_mean(found.saes[i], read, i, numbers[some])
                        for i, numbers in ((a, m.one), (b, m.other))
                    ]
                    _extend(added, correlations(effects, *sides))
                sides = self._acting(subjects, found, read, (a, b), m, shared)
                if len(sides[0].directions) > 1:
                    _extend(out, ablation_correlations(ablation, *sides))
        why = "no pair of SAEs has two shared latents" if self.n_effects else "`n_effects` is 0"
        off = f"{why}, on in {ABLATED_ROWS} rows" if self.n_effects else why
        changed = "change of logits"
        return {
            "effect_matched": _correlation(added[0], why, f"{changed}, matched latents added"),
            "effect_unmatched": _correlation(
                added[1], why, f"{changed}, latents that do not match", "neither"
            ),
            "ablation_matched": _correlation(out[0], off, f"{changed}, matched ones taken out"),
            "ablation_unmatched": _correlation(
                out[1], off, f"{changed}, another's direction taken out", "neither"
            ),
        }

    def _acting(
        self,
        subjects: Sequence[Subject],
        found: "_Found",
        read: _Read,
        pair: tuple[int, int],
        m: PairMatch,
        shared: Tensor,
    ) -> tuple[Acting, Acting]:
        """Return the first `n_effects` shared latents that are on in a row, and their matches."""
        tokens, keep = (part[:ABLATED_ROWS] for part in read.first)
        shared = shared[: LOOKED_AT * self.n_effects]
        acts = []
        for i, numbers in zip(pair, (m.one, m.other), strict=True):
            sae = float32_on(subjects[i].sae, torch.device("cpu"))
            x = read.acts[subjects[i].read][:ABLATED_ROWS][keep.cpu()].float()
            dense = torch.zeros(*tokens.shape, len(shared))
            dense[keep.cpu()] = sae.encode(x).columns(numbers[shared])
            acts.append(dense)
        on = acts[0].abs().amax((0, 1)) > 0
        some = on.nonzero()[:, 0][: self.n_effects]
        one, other = (
            Acting(each[:, :, some], found.saes[i].decoder[numbers[shared[some]]])
            for each, i, numbers in zip(acts, pair, (m.one, m.other), strict=True)
        )
        return one, other

    def _keep(
        self, subjects: Sequence[Subject], found: "_Found", read: _Read, tools: Tools
    ) -> None:
        for i, subject in enumerate(subjects):
            summary, listed = self._tables(i, found, read, weights_digest(subject.sae))
            tools.keep(subject, TABLE, summary)
            tools.keep(subject, MATCHES, listed)

    def _tables(self, i: int, found: "_Found", read: _Read, digest: str) -> tuple[Table, Table]:
        mine, n = found.saes[i], len(found.saes[i].alive)
        others = [j for j in range(len(found.saes)) if j != i]
        cosines = torch.full((len(others), n), torch.nan, dtype=torch.float64)
        at = torch.full((len(others), n), -1)
        reads, acts = cosines.clone(), cosines.clone()
        for row, j in enumerate(others):
            pair = (min(i, j), max(i, j))
            m = found.matches[pair]
            one, other = (m.one, m.other) if i < j else (m.other, m.one)
            cosines[row, one], at[row, one] = m.cosines.double(), other
            if m.encoder is not None:
                reads[row, one] = m.encoder.double()
            acts[row, one] = read.together[pair].of_pairs(m.one, m.other)
        hits = (cosines > self.threshold).sum(0)
        share = hits.double() / len(others)
        ends = {h: wilson(h / len(others), len(others)) for h in range(len(others) + 1)}
        alive = mine.alive.tolist()
        cluster = found.clusters.of[i]
        sizes = [int(found.clusters.sizes[c]) if c >= 0 else None for c in cluster.tolist()]

        def living(values: Sequence[Any]) -> list[Any]:
            return [v if a else None for v, a in zip(values, alive, strict=True)]

        summary = Table(
            columns={
                "latent": list(range(n)),
                "stability": living(share.tolist()),
                "stability_low": living([ends[h][0] for h in hits.tolist()]),
                "stability_high": living([ends[h][1] for h in hits.tolist()]),
                "stability_found": living(hits.tolist()),
                "stability_cosine": living(cosines.nan_to_num(0.0).mean(0).tolist()),
                "stability_cluster": sizes,
            },
            units={
                "stability": "share of SAEs",
                "stability_low": "share of SAEs",
                "stability_high": "share of SAEs",
                "stability_found": "SAEs",
                "stability_cosine": "cosine",
                "stability_cluster": "latents",
            },
        )
        names = [found.saes[j].name for j in others]
        listed: dict[str, list[Any]] = {
            "latent": [x for _ in others for x in range(n)],
            "other": [name for name in names for _ in range(n)],
            "match": [None if x < 0 else x for x in at.flatten().tolist()],
            "cosine": cosines.flatten().tolist(),
            "encoder_cosine": reads.flatten().tolist(),
            "correlation": acts.flatten().tolist(),
            "weights": [digest] * (n * len(others)),
        }
        units = {"cosine": "cosine", "encoder_cosine": "cosine", "correlation": "correlation"}
        return summary, Table(columns=listed, units=units)

    def _notes(self, found: "_Found", runs: Sequence[Mapping[str, Any]]) -> list[str]:
        notes = []
        if arms.shared_start(runs):
            notes.append(
                "some SAEs began from the same weights: latents that these share may be the "
                "initialisation's and not the model's"
            )
        if gaps := [m.gap for m in found.matches.values() if m.gap]:
            notes.append(
                f"{len(gaps)} matchings are not proved to be the best: their sums of cosines are "
                f"at most {max(gaps):.3g} below it"
            )
        return notes

    def _details(self, found: "_Found", read: _Read) -> dict[str, Any]:
        each = {
            f"{found.saes[a].name} - {found.saes[b].name}": {
                "shared": m.share(self.threshold) if len(m.cosines) else None,
                "matched": len(m.cosines),
                "mean_cosine": _mean(m.cosines),
                "gap": m.gap,
            }
            for (a, b), m in found.matches.items()
        }
        kinds = {"matched": [m.cosines for m in found.matches.values()]}
        for kind in ("random", "rotated"):
            kinds[kind] = [n[kind] for n in found.nulls.values()]
        edges = torch.linspace(-0.2, 1, BINS + 1)
        return {
            "tokens": {"read": read.n_read, "counted": read.n_tokens},
            "latents": {d.name: {"all": len(d.alive), "living": len(d.living)} for d in found.saes},
            "pairs": each,
            "curve": {
                "threshold": CURVE,
                **{k: [_mean_share(parts, t) for t in CURVE] for k, parts in kinds.items()},
            },
            "histogram": {
                "edges": [round(e, 4) for e in edges.tolist()],
                **{k: _counts(torch.cat(parts), edges) for k, parts in kinds.items()},
            },
            "top_cosines": {
                "edges": [round(e, 4) for e in edges.tolist()],
                "pairs": len(found.matches),
                "decoder": _tops([m.top for m in found.matches.values()], edges),
                "encoder": _encoder_tops(found.saes, edges),
            },
            "clusters": {str(k): v for k, v in found.clusters.histogram().items()},
        }


class _Found(NamedTuple):
    """What was compared of the dictionaries."""

    saes: list[Dictionary]
    matches: dict[tuple[int, int], PairMatch]
    nulls: dict[tuple[int, int], dict[str, Tensor]]
    clusters: Clusters


def _check_sites(subjects: Sequence[Subject]) -> None:
    sites = {str(s.write) for s in subjects}
    if len(sites) > 1:
        raise ConfigError(
            f"Latents are compared by what they write to one site; the SAEs write to "
            f"{', '.join(sorted(sites))}. Name SAEs of one site."
        )


def _of_one(weights: Mapping[str, str]) -> list[str]:
    """Say which SAEs are one SAE under several names, and so agree in everything."""
    names: dict[str, list[str]] = {}
    for name, digest in weights.items():
        names.setdefault(digest, []).append(name)
    return [
        f"{' and '.join(same)} have the same weights: their agreement says nothing"
        for same in names.values()
        if len(same) > 1
    ]


def _on_cpu(codes: Codes) -> Codes:
    live = codes.live()
    return live._replace(
        values=live.values.cpu(), latents=live.latents.cpu(), starts=live.starts.cpu()
    )


def _share(values: Tensor, threshold: float) -> float:
    return float((values > threshold).double().mean())


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None


def _mean_share(parts: Sequence[Tensor], threshold: float) -> float | None:
    shares = [_share(values, threshold) for values in parts if len(values)]
    return sum(shares) / len(shares) if shares else None


def _counts(values: Tensor, edges: Tensor) -> list[int]:
    clamped = values.float().clamp(float(edges[0]), float(edges[-1]))
    return torch.histogram(clamped, edges).hist.long().tolist()


def _one_way(matches: Mapping[tuple[int, int], PairMatch], t: float) -> Each:
    return {pair: _share(torch.cat([m.best_one, m.best_other]), t) for pair, m in matches.items()}


def _encoder_shares(
    matches: Mapping[tuple[int, int], PairMatch], t: float
) -> tuple[Each, str | None]:
    shares = {}
    for pair, m in matches.items():
        if m.encoder is None:
            return {}, "an SAE has no direction that each latent reads"
        both = m.over(t) & (m.encoder > t)
        shares[pair] = float(both.double().mean())
    return shares, None


def _encoder_tops(saes: Sequence[Dictionary], edges: Tensor) -> list[list[int]] | None:
    from saekit.metrics.nearest import nearest
    from saekit.studies.faithful.stability.pairs import TOP

    tops = []
    for one, other in combinations(saes, 2):
        if one.encoder is None or other.encoder is None:
            return None
        if len(one.living) and len(other.living):
            near = nearest(one.encoder[one.living], other.encoder[other.living], TOP)
            tops.append(near.cosines)
    return _tops(tops, edges) if tops else None


def _tops(each: Sequence[Tensor], edges: Tensor) -> list[list[int]]:
    """Return how many cosines of each rank lie between edges, of all pairs of SAEs together."""
    ranks = min(top.shape[1] for top in each)
    return [_counts(torch.cat([top[:, rank] for top in each]), edges) for rank in range(ranks)]


def _at_mean(sae: Dictionary, read: _Read, i: int, latents: Tensor) -> Float[Tensor, "latents d"]:
    """Return what latents add at their mean activation when on."""
    mean = read.sums[i][latents] / read.fired[i][latents]
    return sae.decoder[latents] * mean[:, None].float()


def _extend(lists: tuple[list[float], list[float]], new: tuple[list[float], list[float]]) -> None:
    for values, more in zip(lists, new, strict=True):
        values += [r for r in more if not math.isnan(r)]


def _correlation(
    values: list[float], undefined: str, label: str, better: Better = "higher"
) -> Score:
    if not values:
        ends: tuple[float | None, ...] = (None, None, None)
        reason = undefined
    else:
        found = mean_interval(torch.tensor(values, dtype=torch.float64))
        ends = tuple(None if math.isnan(float(v)) else float(v) for v in found)
        reason = "" if ends[1] is not None else "no interval: fewer than 8 pairs of latents"
    return Score(
        value=ends[0],
        low=ends[1],
        high=ends[2],
        n=len(values),
        unit="correlation",
        better=better,
        reason=reason,
        label=label,
    )
