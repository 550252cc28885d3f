"""Shares of fake latents, how far they move with other noise, and whether two of them differ.

A share of latents over a threshold is no smooth function of what was drawn: a latent that fires
in almost exactly a share p of sequences is counted or not by chance, and with few sequences more
of them are counted than with many. So the interval is of the share that this many sequences find
on average: it says how far the number would move with other noise. Simulated, it holds that in
93 to 99.5 % of cases, where the usual bootstrap intervals hold the share of endless sequences in
46 to 99 % (docs/measurements/coverage.md).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.border import details_of
from saekit.core.errors import ConfigError
from saekit.core.result import Result, Score, Table
from saekit.core.seeds import generator
from saekit.core.stats.permutation import Null, sign_flips
from saekit.core.stats.proportions import wilson
from saekit.core.stats.resamples import PairedDraws
from saekit.core.stats.student import Z, t_quantile
from saekit.evals.intervals import LEAST_BLOCKS
from saekit.studies.faithful import lists
from saekit.studies.faithful.fakes.firing import Tally

BLOCK_ENTRIES = 2**24  # of resampled counts at a time
OVER = 1 + 1e-12  # so that a rate that is p exactly is not over it by rounding


class Units(NamedTuple):
    """Hits and sizes by what is resampled together: sequences, or documents of text."""

    hits: Float[Tensor, "units d_sae"]
    sizes: Float[Tensor, "units"]


class Drawn(NamedTuple):
    """Resampled numbers of latents, of which the first entry of a pair is what was seen."""

    seen: dict[str, int]
    draws: dict[str, Int[Tensor, "n_draws"]]


def units_of(tally: Tally, groups: Int[Tensor, "n_seqs"] | None = None) -> Units:
    """Return the hits of a tally by what is resampled; sequences without a token are left out.

    Args:
        tally: of sequences.
        groups: which sequences belong together; None: each stands alone.
    """
    hits, sizes = tally.hits.float(), tally.sizes
    some = sizes > 0
    hits, sizes = hits[some], sizes[some].float()
    if groups is None:
        return Units(hits, sizes)
    which = groups[some].unique(return_inverse=True)[1]
    n = int(which.max()) + 1 if len(which) else 0
    summed = torch.zeros(n, hits.shape[1]).index_add_(0, which, hits)
    return Units(summed, torch.zeros(n).index_add_(0, which, sizes))


def weights(n: int, n_draws: int, seed: int, what: str) -> Float[Tensor, "n_draws n"]:
    """Return how often each of `n` units comes in each resample.

    The same for all SAEs that are measured with one seed: resamples are shared, and a difference
    of two SAEs is resampled draw by draw.
    """
    chance = generator(seed, "fake_features", what, n)
    drawn = torch.randint(n, (n_draws, n), generator=chance)
    return torch.zeros(n_draws, n).scatter_add_(1, drawn, torch.ones(n_draws, n))


def over_in_draws(
    units: Units, p: float, drawn: Float[Tensor, "n_draws n"], latents: slice
) -> Bool[Tensor, "n_draws m"]:
    """Return which of some latents fire in more than a share `p` of each resample."""
    total = (drawn @ units.sizes).double() * p * OVER
    return (drawn @ units.hits[:, latents]).double() > total[:, None]


def count(noise: Units, text: Units, p: float, n_draws: int, seed: int) -> Drawn:
    """Count latents over `p` on noise, and those of them that are not on text; and resample both.

    Args:
        noise: hits on noise.
        text: hits on text, of the same latents.
        p: share of sequences or tokens.
        n_draws: resamples; 0: none.
        seed: of the draws.

    Returns:
        ``fake`` on noise, ``dense`` on text, and ``excess``: fake and not dense.
    """
    d_sae = noise.hits.shape[1]
    of_noise = _with_seen(weights(len(noise.sizes), n_draws, seed, "noise"))
    of_text = _with_seen(weights(len(text.sizes), n_draws, seed, "text"))
    found = {
        name: torch.zeros(n_draws + 1, dtype=torch.int64) for name in ("fake", "dense", "excess")
    }
    size = max(1, BLOCK_ENTRIES // (n_draws + 1))
    for first in range(0, d_sae, size):
        part = slice(first, first + size)
        fake = over_in_draws(noise, p, of_noise, part)
        dense = over_in_draws(text, p, of_text, part)
        for name, which in (("fake", fake), ("dense", dense), ("excess", fake & ~dense)):
            found[name] += which.sum(1)
    return Drawn(
        {name: int(counts[0]) for name, counts in found.items()},
        {name: counts[1:] for name, counts in found.items()},
    )


def _with_seen(drawn: Tensor) -> Tensor:
    """Put what was seen, each unit once, in front of resamples."""
    return torch.cat([torch.ones(1, drawn.shape[1]), drawn])


def surely(
    noise: Float[Tensor, "d_sae"], text: Float[Tensor, "d_sae"], p: float, n: int, n_text: int
) -> Bool[Tensor, "d_sae"]:
    """Return which latents are over `p` on noise and below it on text, neither by chance.

    Both rates lie outside of what a rate of `p` gives in 95 % of cases (score test). With few
    documents no rate is low enough to tell.

    Args:
        noise: rates on noise.
        text: rates on text.
        p: share of sequences or tokens.
        n: sequences of noise.
        n_text: documents of text.
    """
    spread = math.sqrt(p * (1 - p))
    return (noise > p + Z * spread / math.sqrt(n)) & (text < p - Z * spread / math.sqrt(n_text))


def undecided(rates: Float[Tensor, "d_sae"], p: float, n: int) -> int:
    """Return for how many latents `n` units leave open on which side of `p` their rate is."""
    close = [rate for rate in rates[(rates - p).abs() < _farthest(n)].tolist()]
    ends = (wilson(rate, n) for rate in close)
    return sum(low <= p <= high for low, high in ends)


def _farthest(n: int) -> float:
    """Return how far a rate can be from its Wilson interval's ends, at most."""
    return 4 / math.sqrt(max(n, 1))


class Wording(NamedTuple):
    """How a share of latents is told."""

    label: str
    better: Any = "neither"


def share(counted: Drawn, name: str, d_sae: int, n_units: int, wording: Wording) -> Score:
    """Return a share of latents with its 95 % interval over resamples.

    Args:
        counted: seen and resampled numbers.
        name: which of them.
        d_sae: latents.
        n_units: what was resampled: sequences or documents.
        wording: its label, and which way is good.
    """
    value = counted.seen[name] / d_sae
    low, high, reason = ends(value, counted.draws[name].double() / d_sae, n_units)
    if low is not None and high is not None:
        low, high = max(low, 0.0), min(high, 1.0)
    return Score(
        value=value,
        low=low,
        high=high,
        n=n_units,
        unit="share of latents",
        better=wording.better,
        reason=reason,
        label=wording.label,
    )


def ends(
    value: float, draws: Float[Tensor, "n_draws"], n_units: int
) -> tuple[float | None, float | None, str]:
    """Return the ends of a 95 % interval: t standard errors of resamples about the value."""
    if n_units < LEAST_BLOCKS:
        what = f"{n_units} sequences or documents; {LEAST_BLOCKS} are needed"
        return None, None, f"no interval: {what}"
    if len(draws) < 2:  # noqa: PLR2004 - a spread needs two
        return None, None, "no interval: n_draws=0, nothing was resampled"
    half = t_quantile(n_units - 1) * float(draws.std())
    return value - half, value + half, ""


class Difference(NamedTuple):
    """Share of fake latents of one SAE less that of another, on the same noise."""

    value: float
    low: float | None
    high: float | None
    p: float | None  # two-sided, of draws about their mean
    p_published: float | None  # one-sided: (1 + draws at or below 0) / (1 + draws)
    n: int  # draws


def difference(one: Result, other: Result, noise: str, what: str = "excess") -> Difference:
    """Return how much more fake features the first of two SAEs has, with paired resamples.

    Args:
        one: what `fake_features` found of an SAE.
        other: and of another, with the same seed, on the same noise and sequences.
        noise: of `noises`.
        what: "fake" or "excess".

    Raises:
        ConfigError: they were not measured on the same noise with the same settings.

    Source:
        The published notes plan a bootstrap on shared noise with the one-sided p; ours centres
        the draws, since more sequences move both shares.
    """
    first, second, draws, units = paired_draws(one, other, noise, what)
    value = first - second
    low, high, _ = ends(value, draws, units)
    if low is None:
        return Difference(value, None, None, None, None, len(draws))
    far = int(((draws - draws.mean()).abs() >= abs(value) - 1e-12).sum())
    below = int((draws <= 0).sum())
    n = len(draws)
    return Difference(value, low, high, (1 + far) / (1 + n), (1 + below) / (1 + n), n)


def paired_draws(one: Result, other: Result, noise: str, what: str = "excess") -> PairedDraws:
    """Return the shares of two SAEs on the same noise, with their paired resamples.

    Raises: as `difference`.
    """
    with details_of("fake_features"):
        a, b = (_of(result, noise, what) for result in (one, other))
    if a["alike"] != b["alike"]:
        raise ConfigError(
            f"The two results are not of one noise: {a['alike']} against {b['alike']}. Measure "
            f"both with the same seed and settings, on rows of the same length."
        )
    return PairedDraws(a["value"], b["value"], a["draws"] - b["draws"], a["n"])


def differences(one: Result, other: Result) -> Table:
    """Return how much more fake features the first of two SAEs has, a row a noise and kind.

    Raises: as `difference`.
    """
    names = ("noise", "what", "first", "second", *Difference._fields)
    columns: dict[str, list[Any]] = {name: [] for name in names}
    with details_of("fake_features"):
        noises = list(one.details.get("noises", {"uniform_tokens": None}))
    for noise in noises:
        for what in ("fake", "excess"):
            found = difference(one, other, noise, what)
            with details_of("fake_features"):
                both = [r.scores[f"{noise}/{what}"].value for r in (one, other)]
            for name, value in zip(names, (noise, what, *both, *found), strict=True):
                columns[name].append(value)
    shares = ["first", "second", "value", "low", "high"]
    return Table(columns=columns, units=dict.fromkeys(shares, "share of latents"))


def over_models(differences: Sequence[float], seed: int = 0) -> Null:
    """Test differences of several models, or seeds, against none, by turning their signs.

    Args:
        differences: one for each model.
        seed: of the draws, where there are too many models for all sign patterns.
    """
    values = torch.tensor(list(differences), dtype=torch.float64)
    return sign_flips(values, generator(seed, "fake_features", "models"))


def _of(result: Result, noise: str, what: str) -> dict[str, Any]:
    details = result.details
    if result.name != "fake_features" or noise not in details.get("noises", {}):
        there = ", ".join(details.get("noises", {})) or "no noise"
        raise ConfigError(
            f"A result of `fake_features` with the noise {noise} is needed; got `{result.name}` "
            f"with {there}. Measure it: saekit eval RUN --eval fake_features"
        )
    mine = details["noises"][noise]
    draws = lists.read(mine["draws"][what])
    return {
        "value": mine["latents"][what] / details["d_sae"],
        "draws": draws.double() / details["d_sae"],
        "n": mine["n"],
        "alike": {
            "definition": details["definition"],
            "noise": mine["sha256"],
            "text": details["text"]["sha256"] if what == "excess" else None,
            "draws": len(draws),
        },
    }
