"""Calibration: how well scores that need no truth rank SAEs by what they recovered of one."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.codes import Codes
from saekit.core.errors import ConfigError
from saekit.core.result import Score, Table
from saekit.core.seeds import generator
from saekit.core.stats.jackknife import jackknife
from saekit.core.stats.ranks import spearman
from saekit.metrics.base import Batch, Sums, added
from saekit.metrics.density import Density
from saekit.metrics.fvu import FVU
from saekit.metrics.l0 import L0
from saekit.metrics.matching import cosines
from saekit.saes.base import SAE
from saekit.studies.truth.evals.ground_truth import whole_sequences
from saekit.studies.truth.model.base import Sample, Truth

LEAST_SAES = 4  # of a truth; of fewer a rank correlation says nothing
LEAST_FOR_INTERVAL = 6  # of a truth; of 4, intervals hold the truth in 76 to 98 %
BATCH = 2**10

UNSUPERVISED: dict[str, Literal["lower", "higher", "neither"]] = {
    "fvu": "lower",
    "l0": "neither",
    "density": "neither",
    "max_cosine": "lower",
    "stability": "higher",
    "hit_rate": "higher",
}


class SAEScores(NamedTuple):
    """What is known of one SAE on one truth."""

    truth: str
    sae: str
    unsupervised: dict[str, float | None]
    recovery: dict[str, float | None]


@torch.no_grad()
def unsupervised(
    sae: SAE, twin: SAE, truth: Truth, *, n_tokens: int = 2**14, seed: int = 0
) -> dict[str, float | None]:
    r"""Return the scores of an SAE that look at samples and weights, not at features.

    - ``fvu``, ``l0``, ``density`` (median over living latents): as everywhere in saekit.
    - ``max_cosine``: mean over living latents of the largest \|cosine\| with another row of
      the decoder.
    - ``stability``: mean over living latents of the largest \|cosine\| with a living latent of
      `twin`, trained alike from another seed.
    - ``hit_rate``: of the tokens where a latent fired, the share where it fires again once the
      sample is made anew with the same features on; mean over living latents. Magnitudes of a
      feature are exchanged between its tokens and noise between all tokens, so both keep their
      distributions. It stands in for the sensitivity of a latent to texts of one meaning, and
      uses the truth only to make such pairs.

    Args:
        sae: takes single raw samples.
        twin: of the same settings.
        truth: where samples come from.
        n_tokens: samples, rounded up to whole batches.
        seed: decides them.

    Returns:
        A value by name; None where no latent fired.
    """
    chance = generator(seed, "calibration", device=str(truth.device))
    metrics = {"fvu": FVU(), "l0": L0(), "density": Density()}
    sums: dict[str, Sums] = {}
    d_sae = sae.cfg.d_sae
    fired, again = torch.zeros(d_sae, dtype=torch.float64), torch.zeros(d_sae, dtype=torch.float64)
    twin_fired = torch.zeros(twin.cfg.d_sae, dtype=torch.bool)
    size = whole_sequences(truth, BATCH)
    for _ in range(-(-n_tokens // size)):
        sample = truth.sample(size, chance)
        acts = sae.encode(sample.x)
        batch = Batch(sample.x, sae.decode(acts), acts)
        for name, metric in metrics.items():
            new = metric.sums(batch)
            sums[name] = added(sums[name], new) if name in sums else new
        on = _on(acts)
        both = on & _on(sae.encode(remade(sample, truth, chance)))
        fired += on.sum(0).double().cpu()
        again += both.sum(0).double().cpu()
        twin_fired |= _on(twin.encode(sample.x)).any(0).cpu()
    alive = fired > 0
    found = {name: metric.compute(sums[name]) for name, metric in metrics.items()}
    rows, others = (
        sae.directions()[alive.to(truth.device)],
        twin.directions()[twin_fired.to(truth.device)],
    )
    among = cosines(rows, rows).abs().fill_diagonal_(0) if len(rows) > 1 else rows.new_zeros(0, 1)
    between = cosines(rows, others).abs() if len(others) else rows.new_zeros(0, 1)
    return found | {
        "max_cosine": _mean(among.amax(1)),
        "stability": _mean(between.amax(1)),
        "hit_rate": _mean((again / fired)[alive]),
    }


def remade(sample: Sample, truth: Truth, chance: torch.Generator) -> Float[Tensor, "n d_model"]:
    """Return samples with the same features on, other magnitudes and other noise.

    The magnitudes that a feature has in this batch change places among the tokens where it is
    on; what the features do not explain changes places among all tokens.
    """
    acts = sample.acts
    drawn = torch.randperm(len(acts.latents), generator=chance, device=acts.latents.device)
    there = acts.latents.argsort(stable=True)
    came = drawn[acts.latents[drawn].argsort(stable=True)]
    values = torch.empty_like(acts.values)
    values[there] = acts.values[came]
    noise = sample.x - truth.decode(acts)
    order = torch.randperm(len(noise), generator=chance, device=noise.device)
    return truth.decode(acts._replace(values=values)) + noise[order]


def rank_scores(measured: Sequence[SAEScores]) -> dict[str, dict[str, Score]]:
    """Return, by unsupervised score and by recovery score, how alike they rank SAEs.

    SAEs are ranked within a truth, and the value is the mean of the truths' rank correlations:
    between truths numbers differ for other reasons. The interval leaves each SAE out
    in turn, and is there where each truth has 6 SAEs or more. An SAE for which either score is
    undefined is left out of that pair.

    Raises:
        ConfigError: a truth has fewer than 4 SAEs.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 11.4 (jackknife).
    """
    by_truth: dict[str, list[SAEScores]] = {}
    for one in measured:
        by_truth.setdefault(one.truth, []).append(one)
    for truth, rows in by_truth.items():
        if len(rows) < LEAST_SAES:
            raise ConfigError(
                f"Ranks need {LEAST_SAES} SAEs of each truth; {truth} has {len(rows)}. Name more "
                f"architectures or sparsities."
            )
    found: dict[str, dict[str, Score]] = {}
    for name in measured[0].unsupervised:
        found[name] = {}
        for target in measured[0].recovery:
            groups = [_defined(rows, name, target) for rows in by_truth.values()]
            found[name][target] = _rank_score(groups)
    return found


def _defined(rows: Sequence[SAEScores], name: str, target: str) -> Float[Tensor, "n two"]:
    both = [(r.unsupervised[name], r.recovery[target]) for r in rows]
    kept = [(a, b) for a, b in both if a is not None and b is not None]
    return torch.tensor(kept, dtype=torch.float64).reshape(-1, 2)


def _rank_score(groups: list[Float[Tensor, "_n two"]]) -> Score:
    some = [g for g in groups if len(g)]
    value = _mean_correlation(some)
    defined = not math.isnan(value)
    low = high = None
    reason = "" if defined else "one of the scores does not vary"
    few = min((len(g) for g in some), default=0)
    if defined and few < LEAST_FOR_INTERVAL:
        reason = f"no interval: {few} SAEs of a truth, {LEAST_FOR_INTERVAL} are needed"
    elif defined:
        without = [
            _mean_correlation([*some[:t], torch.cat([g[:i], g[i + 1 :]]), *some[t + 1 :]])
            for t, g in enumerate(some)
            for i in range(len(g))
        ]
        truth = torch.arange(len(some)).repeat_interleave(torch.tensor([len(g) for g in some]))
        low, high = jackknife(value, torch.tensor(without).double(), None, "correlation", truth)
    return Score(
        value=value if defined else None,
        low=low,
        high=high,
        n=sum(map(len, groups)),
        unit="rank correlation",
        better="neither",
        reason=reason,
    )


def _mean_correlation(groups: list[Float[Tensor, "_n two"]]) -> float:
    """Return the mean over truths of the rank correlation, without those where one is constant."""
    each = [spearman(g[:, 0], g[:, 1]) for g in groups]
    known = [v for v in each if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def as_table(measured: Sequence[SAEScores]) -> Table:
    """Return a row for each SAE and truth."""
    columns: dict[str, list[Any]] = {
        "truth": [m.truth for m in measured],
        "sae": [m.sae for m in measured],
    }
    for part in ("unsupervised", "recovery"):
        for name in getattr(measured[0], part) if measured else ():
            columns[name] = [getattr(m, part)[name] for m in measured]
    return Table(columns=columns)


def _on(acts: Codes) -> Tensor:
    live = acts.live()
    on = torch.zeros(live.n_rows, live.d_sae, dtype=torch.bool, device=live.values.device)
    on[live.rows(), live.latents] = True
    return on


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None


def usual_sparsities(features_on: float) -> list[int]:
    """Return latents per token to calibrate at: half of the features on in a sample, all, twice."""
    return [whole(k) for k in (features_on / 2, features_on, 2 * features_on)]


def whole(k: float, most: int | None = None) -> int:
    """Return a number of latents kept per token: whole, at least 1, and at most `most`."""
    kept = max(round(k), 1)
    return kept if most is None else min(kept, most)
