"""Whether the ways of taking influence agree on an SAE's own latents, and what each costs."""

import math
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError
from saekit.core.progress import Progress
from saekit.core.provenance import collect
from saekit.core.result import Result, Score, Table
from saekit.core.stats.means import LEAST_UNITS, mean_interval
from saekit.data.base import Corpus
from saekit.models.base import LanguageModel
from saekit.models.sites import Site
from saekit.saes.base import SAE
from saekit.studies.locality.filters.base import Filter
from saekit.studies.locality.filters.plain import Plain
from saekit.studies.locality.influence.base import METHODS, Influences, check_reads, influence
from saekit.studies.locality.influence.checks import agreement
from saekit.studies.locality.runs.measure import Measure, MeasureContext, strongest
from saekit.studies.locality.runs.subjects import LoadedSAE, Subject
from saekit.studies.locality.windows import drawing

VERSION = 2  # windows are drawn from the whole corpus
EXACT = ("loop", "vjp", "jacobian")  # the first is what others are compared with
ALSO_ROUNDED = "vjp"  # also taken with products in bfloat16
COLUMNS = ("rank_correlation", "overlap", "entropy_difference_bits", "same_top")


@dataclass(frozen=True, kw_only=True)
class MethodCheck(Config):
    """A comparison of the ways of taking influence.

    Exact ways agree where no influence differs by more than `tolerance` of its profile's largest.
    The others measure finite changes: they agree in order where the 95 % interval of the mean
    rank correlation over windows is above 0, which takes 8 windows or more: chance alone says so
    1 time in 40. With "vjp" goes a row of the same in bfloat16.

    Args:
        corpus: the text.
        filter: which windows of the corpus may be used.
        n_ctx: tokens of a window.
        windows: number of windows of text.
        latents: of a window, the strongest.
        methods: ways, beside the loop.
        threshold: a latent is on above this activation, in act units.
        tolerance: share of a profile's largest influence.
        documents: read only the first documents of the corpus; 0: all of them.
        seed: of the windows.
        bos: whether a BOS is put before each window; it counts to its length.

    Raises:
        ConfigError: a number is out of range, or a method is unknown.
    """

    name: ClassVar[str] = "locality_check"
    corpus: Corpus
    filter: Filter = field(default_factory=Plain)
    n_ctx: int = setting(32, least=2, unit="tokens")
    windows: int = setting(8, least=1)
    latents: int = setting(6, least=1)
    methods: tuple[str, ...] = setting(
        tuple(m for m in METHODS if m != EXACT[0]), choices=tuple(METHODS)
    )
    threshold: float = setting(0.0, least=0, hint="Below 0 latents that are off would count.")
    tolerance: float = setting(1e-4, above=0)
    documents: int = setting(0, least=0)
    seed: int = 0
    bos: bool = False


@dataclass(frozen=True)
class CheckResult:
    """What a check found."""

    result: Result
    methods: Table  # a row for each site and method
    disagree: list[str]  # exact ways beyond the tolerance, as "L3.resid_post/vjp"


def run(
    lm: LanguageModel,
    subjects: list[Subject],
    config: MethodCheck,
    *,
    memory_bytes: int | None = None,
    shown: bool = True,
) -> CheckResult:
    """Compare the ways on the strongest latents of some windows, at each site.

    Raises:
        ConfigError: the SAE and the model do not go together.
        DataError: no window passes the filter.
    """
    drawing.check_length(lm, config.n_ctx, "n_ctx")
    drawn = drawing.from_corpus(
        config.corpus,
        "test",
        lm.tokenizer,
        config.filter,
        n_ctx=config.n_ctx,
        windows=config.windows,
        seed=config.seed,
        most_docs=config.documents,
        bos=config.bos,
    )
    rows: list[dict[str, Any]] = []
    encodes: dict[str, Any] = {}
    bar = Progress("check", len(subjects) * len(_ways(config)), "methods", shown=shown)
    for subject in subjects:
        loaded = subject.load()
        loaded.sae.requires_grad_(False)
        check_reads(lm, loaded.sae, subject.site)
        context = MeasureContext(lm, _measure(config), memory_bytes)
        rows += _at_site(config, context, loaded.sae, subject.site, drawn.tokens, bar)
        if loaded.forgets:
            encodes[str(subject.site)] = _encodes(context, loaded, subject, drawn.tokens)
    bar.close()
    methods = _table(rows)
    disagree = [f"{r['site']}/{r['method']}" for r in rows if r["agrees"] == "no"]
    details = {
        "methods": {"columns": methods.columns, "units": methods.units},
        "encodes": encodes,
        "disagree": disagree,
        "model": lm.provenance(),
        "tokens": drawn.tokens.tolist(),
        "sites": {str(s.site): s.source for s in subjects},
        "corpus": config.corpus.provenance(),
        "start": drawn.start.tolist(),
        "sample": None if drawn.sample is None else drawn.sample.record(),
    }
    scores = {f"{r['site']}/{r['method']}/{name}": r[name] for r in rows for name in COLUMNS}
    notes = drawing.notes_on(drawn, config.windows)
    result = Result(
        name=config.name,
        version=VERSION,
        config=config.to_dict(),
        scores=scores,
        details=details,
        provenance=collect(config.seed) | {"notes": notes},
    )
    return CheckResult(result, methods, disagree)


def _at_site(
    config: MethodCheck,
    context: MeasureContext,
    sae: SAE,
    site: Site,
    tokens: Tensor,
    bar: Progress,
) -> list[dict[str, Any]]:
    """Return a row for each way."""
    pairs = strongest(context, sae, site, tokens)
    if not len(pairs):
        raise ConfigError(
            f"No latent is above {config.threshold} at {site} in any window. Lower --threshold, or "
            f"draw more --windows."
        )
    rows: list[dict[str, Any]] = []
    exact: Influences | None = None
    for method, matmul in _ways(config):
        began = time.perf_counter()
        found = influence(
            context.lm,
            sae,
            tokens,
            site,
            latents=pairs,
            method=method,
            threshold=config.threshold,
            memory_bytes=context.memory_bytes,
            matmul=matmul,
        )
        seconds = (time.perf_counter() - began) / len(tokens)
        exact = exact or found
        if matmul != "float32":
            method = f"{method}_{matmul}"
        row = _row(config, str(site), method, exact, found)
        rows.append(row | {"seconds_a_window": seconds})
        bar.add(1, f"{site} {method}")
    return rows


def _ways(config: MethodCheck) -> list[tuple[str, str]]:
    """Return methods, the loop first, and what each multiplies in."""
    found = [(m, "float32") for m in dict.fromkeys((EXACT[0], *config.methods))]
    if ALSO_ROUNDED in config.methods:
        found.insert(found.index((ALSO_ROUNDED, "float32")) + 1, (ALSO_ROUNDED, "bfloat16"))
    return found


def _table(rows: list[dict[str, Any]]) -> Table:
    """Return the rows, with the ends of intervals beside the scores."""
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for key, value in row.items():
            if isinstance(value, Score):
                cells = {key: value.value, f"{key}_low": value.low, f"{key}_high": value.high}
            else:
                cells = {key: value}
            for name, cell in cells.items():
                columns.setdefault(name, []).append(cell)
    units = {"seconds_a_window": "s", "entropy_difference_bits": "bits"}
    return Table(columns=columns, units=units)


def _measure(config: MethodCheck) -> Measure:
    return Measure(
        threshold=config.threshold,
        most_latents=config.latents,
        token_vector="none",
        seed=config.seed,
    )


def _row(
    config: MethodCheck, site: str, method: str, exact: Influences, found: Influences
) -> dict[str, Any]:
    """Return how one way compares with the loop."""
    scale = exact.J.amax(-1, keepdim=True).clamp_min(torch.finfo(exact.J.dtype).tiny)
    worst = float(((found.J - exact.J).abs() / scale).max())
    alike = agreement(exact.J, found.J, exact.places())
    row: dict[str, Any] = {
        "site": site,
        "method": method,
        "kind": "exact" if method in EXACT else "check",
        "n_pairs": len(found.J),
        "largest_difference": worst,
    }
    row |= {name: _score(alike[name], exact.window, name) for name in COLUMNS}
    if method in EXACT:
        return row | {"agrees": "yes" if worst <= config.tolerance else "no"}
    ranks = row["rank_correlation"]
    sure = ranks.low is not None and ranks.low > 0
    return row | {"agrees": "in order" if sure else "not told"}


def _score(values: Tensor, groups: Tensor, name: str) -> Score:
    known = ~values.isnan()
    n = len(groups[known].unique())
    unit = "bits" if name.endswith("bits") else "share" if name != "rank_correlation" else "rho"
    if not n:
        return Score(value=None, n=0, unit=unit, better="neither", reason="nothing is defined")
    mean, low, high = (float(v) for v in mean_interval(values[known, None], groups[known]))
    # Means of bounded values are bounded, where Student's t knows of no bound.
    least, most = {"share": (0.0, 1.0), "rho": (-1.0, 1.0)}.get(unit, (-math.inf, math.inf))
    low, high = max(low, least), min(high, most)
    few = f"no interval: {n} windows, {LEAST_UNITS} are needed"
    ends = {"reason": few} if math.isnan(low + high) else {"low": low, "high": high}
    return Score(value=mean, n=n, unit=unit, better="neither", **ends)  # type: ignore[arg-type]


def _encodes(
    context: MeasureContext, loaded: LoadedSAE, subject: Subject, tokens: Tensor
) -> dict[str, Any]:
    """Return how the SAE's own encode and the published one differ on all active latents."""
    own, theirs = (
        influence(
            context.lm,
            loaded.sae,
            tokens,
            subject.site,
            threshold=context.measure.threshold,
            memory_bytes=context.memory_bytes,
            forgets=forgets,
        )
        for forgets in ((), loaded.forgets)
    )
    keys = [list(zip(f.window.tolist(), f.latent.tolist(), strict=True)) for f in (own, theirs)]
    both = sorted(set(keys[0]) & set(keys[1]))
    H = [
        dict(zip(k, f.entropy_bits().tolist(), strict=True))
        for k, f in zip(keys, (own, theirs), strict=True)
    ]
    moved = torch.tensor([H[1][k] - H[0][k] for k in both], dtype=torch.float64)
    whole = [float(f.entropy_bits().nanmean()) if len(f.J) else None for f in (own, theirs)]
    return {
        "forgets": list(loaded.forgets),
        "active_own": len(keys[0]),
        "active_legacy": len(keys[1]),
        "active_both": len(both),
        "mean_entropy_bits_own": whole[0],
        "mean_entropy_bits_legacy": whole[1],
        "largest_entropy_difference_bits_both": float(moved.abs().max()) if len(both) else None,
    }
