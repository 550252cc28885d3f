"""Entropy against context length: the same last token, seen with more and more before it.

A window of length b is the last b tokens of the longest, so that the latents asked for are at one
and the same token of the text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, DataError, FormatError, SaekitError
from saekit.core.files import digest, write_json
from saekit.core.provenance import collect
from saekit.core.result import Result, Score, Table
from saekit.models.base import LanguageModel, Tokenizer
from saekit.studies.locality.runs.measure import (
    Arrays,
    Failure,
    Measure,
    MeasureContext,
    journalled,
    measured,
)
from saekit.studies.locality.runs.run_folder import DEFAULTS, FinishedRun, RunFolder, RunOptions
from saekit.studies.locality.runs.run_scores import latent_table, site_scores
from saekit.studies.locality.runs.subjects import Subject, check_subjects, facts
from saekit.studies.locality.windows.drawing import check_length

VERSION = 2  # windows are drawn from the whole corpus
SITES = "sites.json"  # of a sweep at several sites: the folders of each


@dataclass(frozen=True, kw_only=True)
class ContextLength(Config):
    """A sweep of context lengths.

    Args:
        least: shortest context, in tokens.
        most: longest.
        step: between lengths; the longest is taken whether or not a step ends there.
        bos: whether a BOS is put before every context; it counts to its length.
        trim: which end of a fixed prompt is used: "tail", its last tokens, or "head".
        measure: how.

    Raises:
        ConfigError: lengths are out of order.
    """

    name: ClassVar[str] = "locality_context_length"
    least: int = setting(8, least=2, unit="tokens")
    most: int = setting(2048, least=2, unit="tokens")
    step: int = setting(128, least=1)
    bos: bool = False
    trim: str = setting("tail", choices=("tail", "head"))
    measure: Measure = field(default_factory=Measure)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least > self.most:
            raise ConfigError(
                f"A sweep goes from `least` to `most`; got least={self.least}, most={self.most}. "
                f"Lower `least` or raise `most`."
            )

    def lengths(self) -> list[int]:
        """Return the lengths of the sweep, from the shortest."""
        found = range(self.least, self.most + 1, self.step)
        return sorted({*found, self.most})


def prompt_tokens(tokenizer: Tokenizer, text: str, config: ContextLength) -> Int[Tensor, "1 most"]:
    """Return the part of a fixed text that a sweep reads, so that models see the same text.

    Raises:
        DataError: it has too few tokens.
    """
    ids = tokenizer.encode([text])[0]
    wanted = config.most - config.bos
    if len(ids) < wanted:
        raise DataError(
            f"The prompt has {len(ids)} tokens of this model; the sweep needs {wanted}. Give a "
            f"longer prompt or a smaller --n-ctx."
        )
    return torch.tensor([ids[-wanted:] if config.trim == "tail" else ids[:wanted]])


def run(
    lm: LanguageModel,
    subject: Subject,
    tokens: Int[Tensor, "windows most"],
    config: ContextLength,
    out: Path,
    options: RunOptions = DEFAULTS,
    *,
    source: Mapping[str, Any] | None = None,
) -> FinishedRun:
    """Measure one SAE at every length; write tables, influences and the result to `out`.

    Args:
        lm: the model.
        subject: the SAE and its site.
        tokens: the longest windows, without BOS.
        config: the lengths, and how to measure.
        out: folder to make.
        options: how to go about it.
        source: where the text is from, JSON-ready.

    Raises:
        ConfigError: the model reads no windows of that length, or the folder is in use.
    """
    check_length(lm, config.most, "n_ctx")
    settings = {
        "run": config.to_dict(),
        "model": lm.provenance(),
        "site": str(subject.site),
        "sae": subject.source,
        "windows": digest([tokens.numpy().tobytes()]),
    }
    folder = RunFolder(out, settings, options, total=len(config.lengths()), unit="lengths")
    loaded = subject.load()
    loaded.sae.requires_grad_(False)
    forgets = loaded.forgets if config.measure.legacy_encode else ()
    context = MeasureContext(lm, config.measure, options.memory_bytes, forgets=forgets)
    by_length: dict[int, Arrays] = {}
    failures: list[Failure] = []
    for length in config.lengths():
        unit = f"{length:06d}"
        rows = _suffix(lm, tokens, length, config.bos)
        jobs = {unit: partial(measured, context, loaded.sae, subject.site, rows, 0)}
        with folder.bench.timed(str(length), len(tokens)):
            made, failed = journalled(folder.journal, unit, jobs, str(subject.site))
        for part in made:
            by_length[length] = part
        failures += [f._replace(unit=f"length {length}") for f in failed]
        folder.progress.add(1, f"{length} tokens")
    settings["saes"] = {str(subject.site): facts(loaded.sae, subject)}
    settings["pieces"] = [lm.tokenizer.pieces(row) for row in tokens.tolist()]
    result = _result(config, settings | {"text": dict(source or {})}, tokens, by_length, failures)
    latents = _table(by_length)
    tables = {"latents": latents, "lengths": Table(**result.details["by_length"])}
    influences = {f"ctx{length:04d}": arrays for length, arrays in by_length.items()}
    folder.finish(lm, result, tables, influences)
    return FinishedRun(result, latents, failures)


def run_sites(
    lm: LanguageModel,
    subjects: Sequence[Subject],
    tokens: Int[Tensor, "windows most"],
    config: ContextLength,
    out: Path,
    options: RunOptions = DEFAULTS,
    *,
    source: Mapping[str, Any] | None = None,
) -> dict[Path, FinishedRun]:
    """Measure SAEs on the same windows: one in `out`, several in folders below it, one a site.

    An SAE that cannot be read is a failure of its own and does not stop the others. Of several,
    ``sites.json`` in `out` names the folders.

    Args:
        lm: the model.
        subjects: the SAEs and their sites.
        tokens: the longest windows, without BOS.
        config: the lengths, and how to measure.
        out: folder to make.
        options: how to go about it.
        source: where the text is from, JSON-ready.

    Returns:
        What came of each site, by its folder; SAEs that could not be read are failures of the
        first.

    Raises:
        ConfigError: two SAEs are of one site, or a folder is in use.
        FormatError: no SAE could be read.
    """
    if len(subjects) == 1:
        return {out: run(lm, subjects[0], tokens, config, out, options, source=source)}
    check_subjects(lm, subjects)
    by_folder: dict[Path, FinishedRun] = {}
    unread: list[Failure] = []
    for subject in subjects:
        site = str(subject.site)
        try:
            loaded = subject.load()
        except (SaekitError, OSError, RuntimeError) as error:
            unread.append(Failure(site, "all", f"{type(error).__name__}: {error}"))
            continue
        # Opened once; a setting that the run refuses is the user's to mend, and ends all of them.
        held = subject._replace(load=lambda loaded=loaded: loaded)
        by_folder[out / site] = run(lm, held, tokens, config, out / site, options, source=source)
    record = {
        "sites": [folder.name for folder in by_folder],
        "failed": [one._asdict() for one in unread],
    }
    write_json(out / SITES, {"name": config.name} | record)
    if not by_folder:
        raise FormatError(f"No SAE could be read: {unread[0].site}: {unread[0].reason}")
    first = next(iter(by_folder))
    by_folder[first] = replace(by_folder[first], failures=[*unread, *by_folder[first].failures])
    return by_folder


def _suffix(lm: LanguageModel, tokens: Tensor, length: int, bos: bool) -> Tensor:
    if not bos:
        return tokens[:, -length:]
    if lm.tokenizer.bos_id is None:
        raise ConfigError(
            f"The tokenizer of {lm.name} has no BOS to put before windows. Leave it out: --no-bos."
        )
    head = torch.full((len(tokens), 1), lm.tokenizer.bos_id)
    return torch.cat([head, tokens[:, tokens.shape[1] - length + 1 :]], dim=1)


def _table(by_length: dict[int, Arrays]) -> Table:
    table = latent_table({str(k): v for k, v in by_length.items()})
    columns = {"n_ctx": [int(s) for s in table.columns["site"]]}
    columns |= {k: v for k, v in table.columns.items() if k != "site"}
    return Table(columns=columns, units=table.units | {"n_ctx": "tokens"})


def active_everywhere(by_length: dict[int, Arrays]) -> set[tuple[int, int]]:
    """Return the pairs of window and latent that are active at every length."""
    sets = [
        set(zip(a["window"].tolist(), a["latent"].tolist(), strict=True))
        for a in by_length.values()
    ]
    return set.intersection(*sets) if sets else set()


def _result(
    config: ContextLength,
    settings: dict[str, Any],
    tokens: Tensor,
    by_length: dict[int, Arrays],
    failures: list[Failure],
) -> Result:
    scores: dict[str, Score] = {}
    rows: dict[str, list[Any]] = {}
    everywhere = active_everywhere(by_length)
    for length, arrays in by_length.items():
        pairs = zip(arrays["window"].tolist(), arrays["latent"].tolist(), strict=True)
        always = np.array([p in everywhere for p in pairs], dtype=bool)
        row: dict[str, Any] = {"n_ctx": length, "n_pairs": len(always), "n_kept": int(always.sum())}
        few = {k: v[always] if k[:2] == "s." or k == "window" else v for k, v in arrays.items()}
        kinds = {"": site_scores(arrays)}
        kinds["kept_"] = {k: v for k, v in site_scores(few).items() if "pooled" in k}
        for prefix, some in kinds.items():
            for name, score in some.items():
                scores[f"{length}/{prefix}{name}"] = score
                row |= {
                    prefix + name: score.value,
                    f"{prefix}{name}_low": score.low,
                    f"{prefix}{name}_high": score.high,
                }
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    details = {
        "by_length": {"columns": rows, "units": {}},
        "failures": [f._asdict() for f in failures],
        "lengths": config.lengths(),
        "active_at_every_length": len(everywhere),
        "windows": len(tokens),
        "tokens": tokens.tolist(),
        "leaf": "output of the token embedding module (site embed)",
    } | {k: settings[k] for k in ("pieces", "text", "model", "site", "sae", "saes")}
    return Result(
        name=config.name,
        version=VERSION,
        config=config.to_dict(),
        scores=scores,
        details=details,
        provenance=collect(config.measure.seed),
    )
