"""Measure a block of windows at one site, through the journal: what every run is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError
from saekit.models.base import LanguageModel
from saekit.models.sites import Site
from saekit.saes.base import SAE
from saekit.studies.locality.influence.base import METHODS, ROUNDED, Influences, influence
from saekit.studies.locality.influence.baseline import TARGETS, token_vector
from saekit.studies.locality.influence.entropy import Places, summaries, unbiased_log_shares
from saekit.studies.locality.influence.latent_gradient import Encoder
from saekit.studies.locality.influence.nulls import NULLS, null_influence
from saekit.studies.locality.runs.journal import Journal


@dataclass(frozen=True, kw_only=True)
class Measure(Config):
    """How influence is measured.

    Args:
        threshold: a latent is on above this activation, in act units.
        method: of influence, as `influence` takes it.
        token_vector: how the token vector's influence is taken: "exact" costs d_model gradients a
            window, "hutchinson" `probes`; "none" leaves it out.
        target: the vector: the activation, what the SAE makes of it, or what it leaves out.
        probes: random directions of an estimate.
        most_latents: latents of a window, the strongest; 0: all that are active.
        legacy_encode: encode as the published code does, which differs for some SAEs.
        nulls: baselines taken beside, of `nulls.NULLS`.
        seed: of windows, probes and nulls.
        matmul: what gradients are multiplied with weights in: "float32", which is exact, or
            "bfloat16", sooner where the processor has it; not with every method.

    Raises:
        ConfigError: a value is out of range.
        UnknownNameError: there is no such null.
    """

    name: ClassVar[str] = "locality_measure"
    threshold: float = setting(0.0, least=0, hint="Below 0 latents that are off would count.")
    method: str = setting("vjp", choices=tuple(METHODS))
    token_vector: Literal["none", "exact", "hutchinson"] = "hutchinson"
    target: str = setting("resid", choices=tuple(TARGETS))
    probes: int = setting(64, least=2)
    most_latents: int = setting(0, least=0)
    legacy_encode: bool = False
    nulls: tuple[str, ...] = setting((), choices=NULLS)
    seed: int = 0
    matmul: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.matmul != "float32" and self.method not in ROUNDED:
            raise ConfigError(
                f"`matmul` {self.matmul} is for methods {', '.join(ROUNDED)}; got {self.method}."
            )


class Failure(NamedTuple):
    """What could not be measured, and why."""

    site: str
    unit: str  # window, length, or "all"
    reason: str


@dataclass(frozen=True)
class MeasureContext:
    """What measuring needs next to windows and SAE."""

    lm: LanguageModel
    measure: Measure
    memory_bytes: int | None = None
    randomised: LanguageModel | None = None
    forgets: tuple[str, ...] = ()  # of the SAE's encode


Arrays = dict[str, np.ndarray]


def measured(context: MeasureContext, sae: SAE, site: Site, tokens: Tensor, first: int) -> Arrays:
    """Return influence and what is told of it, for some windows.

    Args:
        context: model and settings.
        sae: reads the site.
        site: where.
        tokens: the windows; latents are taken at the last position.
        first: number of the first of them in the run.
    """
    lm, how, memory = context.lm, context.measure, context.memory_bytes
    found = influence(
        lm,
        sae,
        tokens,
        site,
        threshold=how.threshold,
        method=how.method,
        forgets=context.forgets,
        memory_bytes=memory,
        matmul=how.matmul,
        latents=strongest(context, sae, site, tokens) if how.most_latents else "active",
    )
    special = torch.isin(tokens, torch.tensor(sorted(lm.tokenizer.special_ids), dtype=torch.long))
    R = error = each = None
    if how.token_vector != "none":
        if found.R is not None and how.target == "resid":
            R = found.R
        else:
            R, error, _, each = token_vector(
                lm,
                sae,
                tokens,
                site,
                target=how.target,
                method=how.token_vector,
                probes=how.probes,
                seed=how.seed + first,
                memory_bytes=memory,
                matmul=how.matmul,
            )
    by_pair = found.places(special[found.window])
    token_R = log_Q = None
    if each is not None:  # estimated: shares of an estimate would raise the divergence
        every = torch.ones(len(each), each.shape[2], dtype=torch.bool)
        log_Q = unbiased_log_shares(each, every)[found.window]
    elif R is not None:
        token_R = R.to(found.J)[found.window]
    told = summaries(found.J, by_pair, token_vector=token_R, log_shares=log_Q)
    out = _plain(found, first) | {f"s.{k}": v.numpy() for k, v in told.items()}
    for kind in how.nulls:
        J = null_influence(
            kind,
            lm,
            Encoder(sae, context.forgets),
            tokens,
            site,
            found,
            seed=how.seed,
            randomised=context.randomised,
            memory_bytes=memory,
            matmul=how.matmul,
        )
        out[f"s.{kind}_entropy_bits"] = summaries(J, by_pair)["entropy_bits"].numpy()
    out |= {"windows": np.arange(first, first + len(tokens)), "tokens": tokens.numpy()}
    if R is not None:
        where = Places(torch.zeros(len(R)).long(), torch.full((len(R),), R.shape[1] - 1), special)
        whole = summaries(R, where)
        out |= {"R": R.numpy()} | {f"v.{k}": v.numpy() for k, v in whole.items()}
    if error is not None:
        out["R_standard_error"] = error.numpy()
    return out


def strongest(context: MeasureContext, sae: SAE, site: Site, tokens: Tensor) -> Tensor:
    """Return pairs of window and latent: the strongest latents of each window."""
    from saekit.studies.locality.influence.pullback import Windows, read_at

    last = torch.full((len(tokens),), tokens.shape[1] - 1)
    x = read_at(context.lm, Windows(tokens, last), [site])
    fired = Encoder(sae, context.forgets).active(x, context.measure.threshold)
    order = torch.argsort(fired.activation.abs(), descending=True, stable=True)
    order = order[torch.argsort(fired.row[order], stable=True)]
    row = fired.row[order]
    place = torch.arange(len(row)) - torch.searchsorted(row, row)
    kept = order[place < context.measure.most_latents].sort().values
    return torch.stack([fired.row[kept], fired.latent[kept]], dim=1)


def _plain(found: Influences, first: int) -> Arrays:
    names = ("J", "latent", "activation", "position", "flags")
    return {k: getattr(found, k).numpy() for k in names} | {"window": found.window.numpy() + first}


def journalled(
    journal: Journal, unit: str, jobs: Mapping[str, Callable[[], Arrays]], site: str
) -> tuple[list[Arrays], list[Failure]]:
    """Return what a unit of work gives: from the journal, or made and recorded.

    Where it fails as a whole, its parts are tried alone, and those that fail are reported; a
    unit with failures is not recorded, so that a later run tries it again.

    Args:
        journal: of the run.
        unit: its name.
        jobs: the whole first, under the unit's name; then its parts.
        site: for the reader.
    """
    if (done := journal.get(unit)) is not None:
        return [done], []
    (_, whole), *parts = jobs.items()
    try:
        made = whole()
    except Exception as error:  # whatever it is, it is reported, and other windows go on
        if not parts:
            return [], [_failure(site, unit, error)]
    else:
        journal.put(unit, made)
        return [made], []
    found, failures = [], []
    for name, part in parts:
        try:
            found.append(part())
        except Exception as error:
            failures.append(_failure(site, name, error))
    return found, failures


def _failure(site: str, unit: str, error: Exception) -> Failure:
    return Failure(site, unit, f"{type(error).__name__}: {error}")


def joined(parts: list[Arrays]) -> Arrays:
    """Return the rows of several measurements, one after another."""
    return {k: np.concatenate([p[k] for p in parts]) for k in (parts[0] if parts else ())}
