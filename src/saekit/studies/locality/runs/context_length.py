"""Entropy against context length: the same last token, seen with more and more before it.

A window of length b is the last b tokens of the longest, so that the latents asked for are at one
and the same token of the text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, DataError, SaekitError
from saekit.core.files import digest, replace_with, write_json
from saekit.core.progress import Progress
from saekit.core.provenance import collect
from saekit.core.result import Result, Score, Table
from saekit.data import table_files
from saekit.models.base import LanguageModel, Tokenizer
from saekit.saes.base import SAE
from saekit.studies.locality.runs.bench import Bench
from saekit.studies.locality.runs.journal import Journal, archive
from saekit.studies.locality.runs.measure import Arrays, Failure, Kit, Measure, journalled, measured
from saekit.studies.locality.runs.run_scores import latent_table, site_scores
from saekit.studies.locality.runs.subjects import Subject, check_subjects, facts
from saekit.studies.locality.windows.drawing import check_length

VERSION = 2  # windows are drawn from the whole corpus
SITES = "sites.json"  # of a sweep at several sites: the folders of each


@dataclass(frozen=True, kw_only=True)
class ContextLength(Config):
    """A sweep of context lengths.

    Args:
        least: shortest context, tokens.
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


class Sweep(NamedTuple):
    """A finished sweep."""

    result: Result
    latents: Table  # a row for each length, window and latent
    failures: list[Failure]


def prompt_tokens(
    tokenizer: Tokenizer, text: str, config: ContextLength
) -> Int[Tensor, "1 most"]:
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


def run(  # noqa: PLR0913 - what is measured, and how a run goes on
    lm: LanguageModel, subject: Subject, tokens: Int[Tensor, "windows most"],
    config: ContextLength, out: Path, *, told: dict[str, Any] | None = None,
    resume: bool = False, memory_bytes: int | None = None, shown: bool = True,
    tables: str = "csv",
) -> Sweep:  # fmt: skip
    """Measure one SAE at every length; write tables, influences and the result to `out`.

    Args:
        lm: the model.
        subject: the SAE and its site.
        tokens: the longest windows, without BOS.
        config: the lengths, and how to measure.
        out: folder to make.
        told: where the text is from, JSON-ready.
        resume: go on with what is there.
        memory_bytes: budget.
        shown: whether progress is.
        tables: their format, of `table_files.FORMATS`.

    Raises:
        ConfigError: the model reads no windows of that length, or the folder is in use.
        MissingExtraError: tables are to be Parquet and pyarrow is not installed.
    """
    table_files.check(tables)
    check_length(lm, config.most, "n_ctx")
    settings = {
        "run": config.to_dict(), "model": lm.provenance(), "site": str(subject.site),
        "sae": subject.source, "windows": digest([tokens.numpy().tobytes()]),
    }  # fmt: skip
    journal = Journal(out, settings, resume=resume)
    sae, forgets = subject.load()
    sae.requires_grad_(False)
    kit = Kit(lm, config.measure, memory_bytes)
    kit = kit._replace(forgets=forgets if config.measure.legacy_encode else ())
    bar, bench = Progress("locality", len(config.lengths()), "lengths", shown=shown), Bench()
    found: dict[int, Arrays] = {}
    failures: list[Failure] = []
    for length in config.lengths():
        unit = f"{length:06d}"
        jobs = {unit: _job(kit, sae, subject, _suffix(lm, tokens, length, config.bos))}
        with bench.timed(str(length), len(tokens)):
            made, failed = journalled(journal, unit, jobs, str(subject.site))
        for part in made:
            found[length] = part
        failures += [f._replace(unit=f"length {length}") for f in failed]
        bar.add(1, f"{length} tokens")
    bar.close()
    write_json(out / "bench.json", bench.record(resumed=resume, device=lm.device.type))
    settings["saes"] = {str(subject.site): facts(sae, subject)}
    result = _result(config, settings, (lm, tokens, found), failures, told or {})
    latents = _table(found)
    for length, arrays in found.items():
        kept = {k: v for k, v in arrays.items() if k[:2] not in ("s.", "v.")}
        replace_with(out / "influences" / f"ctx{length:04d}.npz", archive(kept))
    table_files.write(latents, out / "latents", tables)
    table_files.write(Table(**result.details["by_length"]), out / "lengths", tables)
    result.write(out / "result.json")
    return Sweep(result, latents, failures)


def run_all(  # noqa: PLR0913 - what is measured, and how a run goes on
    lm: LanguageModel, subjects: Sequence[Subject], tokens: Int[Tensor, "windows most"],
    config: ContextLength, out: Path, **how: Any,
) -> dict[str, Sweep | Failure]:  # fmt: skip
    """Measure several SAEs on the same windows, each in a folder below `out` of its site's name.

    An SAE that cannot be read is a failure of its own and does not stop the others.

    Args:
        lm: the model.
        subjects: the SAEs and their sites.
        tokens: the longest windows, without BOS.
        config: the lengths, and how to measure.
        out: folder to make; ``sites.json`` in it names the folders.
        how: what `run` takes besides.

    Returns:
        What came of each site, in order.

    Raises:
        ConfigError: two SAEs are of one site, or a folder is in use.
    """
    check_subjects(lm, subjects)
    table_files.check(how.get("tables", "csv"))
    found: dict[str, Sweep | Failure] = {}
    for subject in subjects:
        site = str(subject.site)
        try:
            opened = subject.load()
        except (SaekitError, OSError, RuntimeError) as error:
            found[site] = Failure(site, "all", f"{type(error).__name__}: {error}")
            continue
        # Opened once; a setting that the run refuses is the user's to mend, and ends all of them.
        held = subject._replace(load=lambda opened=opened: opened)
        found[site] = run(lm, held, tokens, config, out / site, **how)
    done = [site for site, one in found.items() if isinstance(one, Sweep)]
    failed = [one._asdict() for one in found.values() if isinstance(one, Failure)]
    write_json(out / SITES, {"name": config.name, "sites": done, "failed": failed})
    return found


def _suffix(lm: LanguageModel, tokens: Tensor, length: int, bos: bool) -> Tensor:
    if not bos:
        return tokens[:, -length:]
    if lm.tokenizer.bos_id is None:
        raise ConfigError(f"The tokenizer of {lm.name} has no BOS.")
    head = torch.full((len(tokens), 1), lm.tokenizer.bos_id)
    return torch.cat([head, tokens[:, tokens.shape[1] - length + 1 :]], dim=1)


def _job(kit: Kit, sae: SAE, subject: Subject, tokens: Tensor) -> Callable[[], Arrays]:
    return lambda: measured(kit, sae, subject.site, tokens, 0)


def _table(found: dict[int, Arrays]) -> Table:
    table = latent_table({str(k): v for k, v in found.items()})
    columns = {"n_ctx": [int(s) for s in table.columns["site"]]}
    columns |= {k: v for k, v in table.columns.items() if k != "site"}
    return Table(columns=columns, units=table.units | {"n_ctx": "tokens"})


def kept_everywhere(found: dict[int, Arrays]) -> set[tuple[int, int]]:
    """Return the pairs of window and latent that are active at every length."""
    sets = [
        set(zip(a["window"].tolist(), a["latent"].tolist(), strict=True)) for a in found.values()
    ]
    return set.intersection(*sets) if sets else set()


def _result(
    config: ContextLength, settings: dict[str, Any], seen: tuple[LanguageModel, Tensor, Any],
    failures: list[Failure], told: dict[str, Any],
) -> Result:  # fmt: skip
    lm, tokens, found = seen
    scores: dict[str, Score] = {}
    rows: dict[str, list[Any]] = {}
    everywhere = kept_everywhere(found)
    for length, arrays in found.items():
        pairs = zip(arrays["window"].tolist(), arrays["latent"].tolist(), strict=True)
        kept = np.array([p in everywhere for p in pairs], dtype=bool)
        row: dict[str, Any] = {"n_ctx": length, "n_pairs": len(kept), "n_kept": int(kept.sum())}
        few = {k: v[kept] if k[:2] == "s." or k == "window" else v for k, v in arrays.items()}
        kinds = {"": site_scores(arrays)}
        kinds["kept_"] = {
            k: v for k, v in site_scores(few).items() if "pooled" in k
        }
        for prefix, some in kinds.items():
            for name, score in some.items():
                scores[f"{length}/{prefix}{name}"] = score
                row |= {prefix + name: score.value, f"{prefix}{name}_low": score.low,
                        f"{prefix}{name}_high": score.high}  # fmt: skip
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    details = {
        "by_length": {"columns": rows, "units": {}},
        "failures": [f._asdict() for f in failures],
        "lengths": config.lengths(),
        "active_at_every_length": len(everywhere),
        "windows": len(tokens),
        "tokens": tokens.tolist(),
        "pieces": [lm.tokenizer.pieces(row) for row in tokens.tolist()],
        "leaf": "output of the token embedding module (site embed)",
        "text": told,
    } | {k: settings[k] for k in ("model", "site", "sae", "saes")}
    return Result(
        name=config.name, version=VERSION, config=config.to_dict(), scores=scores,
        details=details, provenance=collect(config.measure.seed),
    )  # fmt: skip
