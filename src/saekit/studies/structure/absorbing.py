"""Absorption: latents that carry a letter where the latents for the letter are off."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.codes import Codes
from saekit.core.config import Config, setting
from saekit.core.stats.resamples import interval
from saekit.saes.base import SAE
from saekit.studies.structure import probes

OFF = 1e-8  # act units; a main latent below it is off
LEAST_ON = 2  # train words that a latent for a letter is on at


@dataclass(frozen=True, kw_only=True)
class Thresholds(Config):
    """What counts as absorption, as published.

    Args:
        split: F1 by which a further latent must raise the probe on those before it.
        most_split: latents for one letter at most.
        cosine: of the direction of an absorbing latent with the probe, for the fraction.
        full_cosine: of the one latent of a full absorption.
        share: of the projection on the probe that absorbing latents carry together.
        most_absorbing: latents that may absorb one word together.
    """

    name: ClassVar[str] = "absorption_thresholds"
    split: float = setting(0.03, least=0)
    most_split: int = setting(10, least=1)
    cosine: float = setting(0.1, least=-1, most=1)
    full_cosine: float = setting(0.025, least=-1, most=1)
    share: float = setting(0.4, least=0)
    most_absorbing: int = setting(3, least=1)


class Letter(NamedTuple):
    """What became of one letter in a dictionary."""

    main: list[int]  # latents for it, the best first
    f1: float  # of the probe on them, on test words
    f1_by_latents: list[float]  # on train words, of one latent, of two and so on
    words: Int[Tensor, "m"]  # test words of the letter that the probe of activations tells
    fraction: Float[Tensor, "m"]  # of each, how much of the letter other latents took over
    full: Float[Tensor, "m"]  # 1 where one other latent took it over whole
    kept: Float[Tensor, "m"]  # share of the letter's projection that main latents carry, 0 to 1
    absorbing: Int[Tensor, "m"]  # the latent that took most of it over; -1: none did


@torch.no_grad()
def of_letters(
    sae: SAE,
    train: Codes,
    test: Codes,
    letters: tuple[Int[Tensor, "n_train"], Int[Tensor, "n_test"]],
    x: Float[Tensor, "n_test d"],
    probe: probes.Linear,
    how: Thresholds,
) -> list[Letter]:
    """Return what a dictionary makes of each letter that a probe of activations was fitted for.

    With u the unit vector of the letter's probe, x' the activation less what the SAE predicts with
    no latent on, and c_j = a_j d_j . u what latent j adds to the projection x' . u:

    The latents for a letter (main) are those of the k-sparse probe for the largest k each of whose
    steps raises F1 on train words by more than `split`. Of a test word of the letter that the probe
    of activations tells, the fraction is

        0    where main latents add x' . u or more, or the others less than `share` of it,
        1    where main latents add nothing to it,
        t / (t + m)   else: m what main latents add, t the smaller of what the others add and
                      x' . u - m,

    the others being the `most_absorbing` latents that add most among those whose direction has a
    cosine of `cosine` or more with u. It is absorbed in full where every main latent is off and the
    one latent that adds most has a cosine of `full_cosine` and adds `share` of x' . u or more.

    Args:
        sae: the dictionary.
        train: codes of train words, a row each.
        test: codes of test words.
        letters: of train and test words, 0 for a.
        x: activations of test words.
        probe: of all letters, on activations.
        how: thresholds.

    Source:
        Chanin et al. 2024, arXiv:2409.14507 (absorption); Karvonen et al. 2025, arXiv:2503.09532
        (SAEBench: its fraction, its thresholds).
        Differs: latents are chosen one after another by a score test, in place of an L1 probe; how
        many is decided on train words; projections leave out what is predicted with no latent on,
        and are in act units whatever the length of decoder rows.
    """
    n_letters = len(probe.bias)
    is_train = letters[0][:, None] == torch.arange(n_letters)
    is_test = letters[1][:, None] == torch.arange(n_letters)
    latents, words = torch.unique(train.live().latents, return_counts=True)
    seen = latents[words >= LEAST_ON]
    columns, others = train.columns(seen), test.columns(seen)
    found = probes.sparse(columns, is_train, torch.cat([columns, others]), how.most_split)
    blank = sae.decode(Codes.from_dense(torch.zeros(1, test.d_sae))).reshape(-1).double()
    directions = sae.directions().double()
    lengths = directions.norm(dim=-1).clamp_min(1e-30)
    told = probe.scores(x) > 0
    units = probe.weights / probe.weights.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    every, n_train = [], len(is_train)
    for q in range(n_letters):
        answers = found.yes[:, :, q]
        curve = [probes.f1(said[:n_train], is_train[:, q]) for said in answers]
        k = _splits(curve, found.latents[q], how.split)
        main = seen[found.latents[q, :k]].tolist()
        words = (is_test[:, q] & told[:, q]).nonzero()[:, 0]
        f1 = probes.f1(answers[max(k, 1) - 1, n_train:], is_test[:, q])
        adds = directions @ units[q]
        acts = test.take(words).dense().double()
        whole = (x[words].double() - blank) @ units[q]
        measured = _absorbed(acts, adds, adds / lengths, whole, main, how)
        every.append(Letter(main, f1, curve, words, *measured))
    return every


def _splits(curve: list[float], latents: Tensor, jump: float) -> int:
    """Return how many latents a letter has: as long as each raises F1 by more than the jump."""
    if int(latents[0]) < 0:
        return 0
    k = 1
    while k < len(curve) and int(latents[k]) >= 0 and curve[k] > curve[k - 1] + jump:
        k += 1
    return k


def _absorbed(
    acts: Float[Tensor, "m d_sae"],
    adds: Float[Tensor, "d_sae"],
    cosines: Float[Tensor, "d_sae"],
    whole: Float[Tensor, "m"],
    main: list[int],
    how: Thresholds,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return fraction, full absorption, kept share and the latent that absorbs, of each word."""
    parts = acts * adds
    own = parts[:, main].sum(1)
    apart = parts.clone()
    apart[:, main] = 0.0
    apart[:, cosines < how.cosine] = 0.0
    best = apart.clamp_min(0).topk(min(how.most_absorbing, apart.shape[1]), dim=1)
    taken = best.values.sum(1)
    above = whole > 0  # of a projection below 0 there is nothing to share
    rest = torch.minimum(taken, whole - own)
    fraction = torch.where(own <= 0, 1.0, rest / (rest + own).clamp_min(1e-30)).clamp(0, 1)
    too_little = taken < how.share * whole
    fraction = torch.where(~above | (own >= whole) | too_little, 0.0, fraction)
    top = parts.max(1)
    off = (acts[:, main].abs() < OFF).all(1)
    enough = (cosines[top.indices] >= how.full_cosine) & (top.values >= how.share * whole)
    full = (off & above & enough).double()
    kept = torch.where(above, own / whole.clamp_min(1e-30), 0.0).clamp(0, 1)
    first = torch.where(full > 0, top.indices, best.indices[:, 0])
    absorbing = torch.where((fraction > 0) | (full > 0), first, -1)
    return fraction, full, kept, absorbing


def shuffled(codes: Codes, chance: torch.Generator) -> Codes:
    """Return the codes of the same words in another order, so that they tell nothing of a word."""
    return codes.take(torch.randperm(codes.n_rows, generator=chance))


def bootstrap(values: Float[Tensor, "m"], n_draws: int, chance: torch.Generator) -> dict[str, Any]:
    """Return a mean over words, each of them 0 to 1, with its 95 % interval over resamples."""
    which = torch.randint(len(values), (n_draws, len(values)), generator=chance)
    every = torch.cat([values.mean()[None], values[which].mean(1)])
    ends = interval(every, len(values), (0.0, 1.0))
    low, high = (None, None) if isinstance(ends, str) else ends
    return {"value": float(every[0]), "low": low, "high": high}
