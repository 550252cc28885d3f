"""Entropy against depth: the same windows of one corpus at every site that an SAE reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from saekit.core.config import Config, setting
from saekit.core.errors import SaekitError
from saekit.core.files import digest
from saekit.core.provenance import collect
from saekit.core.result import Result, Score, Table
from saekit.data.base import Corpus, Split
from saekit.models.base import LanguageModel
from saekit.models.sites import Site
from saekit.studies.locality.filters.base import Filter
from saekit.studies.locality.filters.plain import Plain
from saekit.studies.locality.influence.base import check_reads
from saekit.studies.locality.runs.measure import (
    Arrays,
    Failure,
    Measure,
    MeasureContext,
    joined,
    journalled,
    measured,
)
from saekit.studies.locality.runs.run_folder import DEFAULTS, FinishedRun, RunFolder, RunOptions
from saekit.studies.locality.runs.run_scores import latent_table, site_scores
from saekit.studies.locality.runs.subjects import LoadedSAE, Subject, check_subjects, facts
from saekit.studies.locality.windows import active_windows, drawing

VERSION = 2  # windows are drawn from the whole corpus
BLOCK_WINDOWS = 8  # measured together, and recorded together


@dataclass(frozen=True, kw_only=True)
class Depth(Config):
    """A run of entropy against depth.

    Args:
        corpus: the text.
        filter: which windows of the corpus may be used.
        n_ctx: tokens of a window, BOS included.
        windows: number of windows of text.
        bos: whether a BOS is put before each window.
        split: of the corpus.
        documents: read only the first documents of the corpus; 0: all of them.
        min_active_latents: a window with fewer above the threshold at its last position, at any
            site, is refused, and another taken; 0: none is.
        measure: how.

    Raises:
        ConfigError: a number is out of range.
    """

    name: ClassVar[str] = "locality_depth"
    corpus: Corpus
    filter: Filter = field(default_factory=Plain)
    n_ctx: int = setting(64, least=2, unit="tokens")
    windows: int = setting(50, least=1)
    bos: bool = False
    split: Split = "test"
    documents: int = setting(0, least=0)
    min_active_latents: int = setting(0, least=0)
    measure: Measure = field(default_factory=Measure)


def run(
    lm: LanguageModel,
    subjects: Sequence[Subject],
    config: Depth,
    out: Path,
    options: RunOptions = DEFAULTS,
) -> FinishedRun:
    """Measure every site on the same windows; write tables, influences and the result to `out`.

    What fails is left out, listed in the result, and tried again by a run with `resume`.

    Args:
        lm: the model.
        subjects: the SAEs and their sites.
        config: text, windows, and how to measure.
        out: folder to make.
        options: how to go about it.

    Raises:
        ConfigError: there is nothing to measure, or the folder is in use.
        DataError: no window passes the filter.
    """
    check_subjects(lm, subjects)
    drawing.check_length(lm, config.n_ctx, "n_ctx")
    drawn = drawing.from_corpus(
        config.corpus,
        config.split,
        lm.tokenizer,
        config.filter,
        n_ctx=config.n_ctx,
        windows=config.windows,
        seed=config.measure.seed,
        bos=config.bos,
        most_docs=config.documents,
        late=active_windows.check(lm, subjects, config.measure, config.min_active_latents),
    )
    settings = {
        "run": config.to_dict(),
        "model": lm.provenance(),
        "sites": {str(s.site): s.source for s in subjects},
        "windows": digest([drawn.tokens.numpy().tobytes(), drawn.start.numpy().tobytes()]),
    }
    total = len(subjects) * len(drawn.tokens)
    folder = RunFolder(out, settings, options, total=total, unit="windows")
    randomised = lm.shuffled(config.measure.seed) if "weights" in config.measure.nulls else None
    context = MeasureContext(lm, config.measure, options.memory_bytes, randomised)
    by_site: dict[str, Arrays] = {}
    saes: dict[str, Any] = {}
    failures = _too_few(config, drawn)
    for subject in subjects:
        site = str(subject.site)
        with folder.bench.timed(site, len(drawn.tokens)):
            try:
                sae = _opened(context, subject)
            except (SaekitError, OSError, RuntimeError) as error:
                failures.append(Failure(site, "all", f"{type(error).__name__}: {error}"))
                folder.progress.add(len(drawn.tokens), f"{site} failed")
                continue
            saes[site] = facts(sae.sae, subject)
            parts, failed = _at_site(context, subject.site, sae, drawn.tokens, folder)
        failures += failed
        if parts:
            by_site[site] = joined(parts)
    result = _result(config, settings | {"saes": saes}, drawn, by_site, failures)
    latents = latent_table(by_site)
    tables = {
        "latents": latents,
        "depth": Table(**result.details["by_site"]),
        "windows": Table(**result.details["by_window"]),
    }
    folder.finish(lm, result, tables, by_site)
    return FinishedRun(result, latents, failures)


def _too_few(config: Depth, drawn: drawing.Selection) -> list[Failure]:
    missing = config.windows - len(drawn.tokens)
    if not missing:
        return []
    why = f"the corpus lacks {missing} of {config.windows} windows: {drawn.refused or 'no text'}"
    return [Failure("all", "windows", why)]


def _opened(context: MeasureContext, subject: Subject) -> LoadedSAE:
    """Return the SAE of a subject, which reads its site of the model."""
    loaded = subject.load()
    loaded.sae.requires_grad_(False)
    check_reads(context.lm, loaded.sae, subject.site)
    return loaded


def _at_site(
    context: MeasureContext, site: Site, loaded: LoadedSAE, tokens: Tensor, folder: RunFolder
) -> tuple[list[Arrays], list[Failure]]:
    """Return what the blocks of windows give at one site."""
    forgets = loaded.forgets if context.measure.legacy_encode else ()
    context = replace(context, forgets=forgets)
    parts, failures = [], []
    for first in range(0, len(tokens), BLOCK_WINDOWS):
        block = tokens[first : first + BLOCK_WINDOWS]

        def job(rows: Tensor, at: int) -> Callable[[], Arrays]:
            return lambda: measured(context, loaded.sae, site, rows, at)

        unit = f"{site}/{first:06d}"
        jobs = {unit: job(block, first)}
        jobs |= {f"window {first + i}": job(block[i : i + 1], first + i) for i in range(len(block))}
        made, failed = journalled(folder.journal, unit, jobs, str(site))
        parts += made
        failures += failed
        folder.progress.add(len(block), f"{site}{', some failed' if failed else ''}")
    return parts, failures


def _result(
    config: Depth,
    settings: dict[str, Any],
    drawn: drawing.Selection,
    found: dict[str, Arrays],
    failures: list[Failure],
) -> Result:
    scores: dict[str, Score] = {}
    by_site: dict[str, list[Any]] = {}
    for site, arrays in found.items():
        row = {"site": site, "layer": int(site[1:].split(".")[0]) if site[0] == "L" else -1}
        for name, score in site_scores(arrays).items():
            scores[f"{site}/{name}"] = score
            row |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
        row |= {
            "n_windows": len(arrays["windows"]),
            "n_pairs": len(arrays["latent"]),
            "n_latents": len(np.unique(arrays["latent"])),
            "n_undefined": int(np.nansum(arrays["s.undefined"])),
        }
        for name, value in row.items():
            by_site.setdefault(name, []).append(value)
    details = {
        "by_site": {"columns": by_site, "units": {}},
        "by_window": {"columns": window_columns(drawn, found), "units": {}},
        "failures": [f._asdict() for f in failures],
        "refused": drawn.refused,
        "candidates": drawn.candidates,
        "sample": None if drawn.sample is None else drawn.sample.record(),
        "leaf": "output of the token embedding module (site embed)",
        "model": settings["model"],
        "sites": settings["sites"],
        "saes": settings["saes"],
        "corpus": config.corpus.provenance(),
        "tokens": drawn.tokens.tolist(),
    }
    return Result(
        name=config.name,
        version=VERSION,
        config=config.to_dict(),
        scores=scores,
        details=details,
        provenance=collect(config.measure.seed),
    )


def window_columns(drawn: drawing.Selection, found: dict[str, Arrays]) -> dict[str, list[Any]]:
    """Return a row for each site and window."""
    names = ["site", "window", "start", "source", "active_latents", "mean_entropy_bits"]
    columns: dict[str, list[Any]] = {k: [] for k in names}
    vector = any("v.entropy_bits" in a for a in found.values())
    if vector:
        columns["token_vector_entropy_bits"] = []
    for site, arrays in found.items():
        for i, w in enumerate(arrays["windows"].tolist()):
            H = arrays["s.entropy_bits"][arrays["window"] == w]
            H = H[~np.isnan(H)]
            values = [site, w, int(drawn.start[w]), drawn.source[w], len(H)]
            values.append(float(H.mean()) if len(H) else None)
            if vector:
                values.append(float(arrays["v.entropy_bits"][i]))
            for name, value in zip(columns, values, strict=True):
                columns[name].append(value)
    return columns
