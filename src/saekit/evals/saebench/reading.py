"""SAEBench's files of results as results, under names that say which formula each number is of."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saekit.core.border import bordered
from saekit.core.errors import FormatError
from saekit.core.files import read_object
from saekit.core.result import Result, Score
from saekit.evals.saebench.fields import PUBLISHED
from saekit.evals.saebench.writing import END, OWN
from saekit.evals.saebench_core import NO_INTERVAL, SAYS, Says

VERSION = 1
SENTINEL = "SAEBench wrote -1, which stands for a number that is undefined or was not measured"
SIGNED = ("scr_", "tpp_")  # fields that may well be -1


@bordered("a result of SAEBench")
def read(path: Path | str) -> Result:
    """Read one of SAEBench's files of results, or what `write` made.

    A file of `write` gives back the result that it was made from. One of SAEBench gives a result
    called ``saebench_EVALUATION`` with its numbers under its own names, but for those whose meaning
    changed: ``explained_variance`` is ``explained_variance_legacy`` in files from before 0.5, which
    have no other, and ``explained_variance_about_zero`` in later ones; ``mse`` of `core` is
    ``mse_over_batch`` (see `saekit eval --eval saebench_core`). -1 is no number, except where it
    may be one; nothing has an interval.

    Raises:
        FormatError: it is no such file.
    """
    path = Path(path)
    raw = read_object(path)
    own = raw.get("eval_result_unstructured")
    if isinstance(own, Mapping) and isinstance(mine := own.get(OWN), Mapping):
        return Result.from_dict(dict(mine["result"]))
    kind, categories = raw.get("eval_type_id"), raw.get("eval_result_metrics")
    if not isinstance(kind, str) or not isinstance(categories, dict):
        raise FormatError(
            f"{path} is no result of SAEBench: it has no `eval_type_id` with its "
            f"`eval_result_metrics`. Give files that end in {END}."
        )
    scores, tokens = {}, {}
    for category, fields in categories.items():
        if not isinstance(fields, dict):
            raise FormatError(f"{path}: `{category}` must hold fields with numbers.")
        for field, value in fields.items():
            if category == "token_stats":
                tokens[field] = value
                continue
            name = _named(kind, field, fields)
            if name in scores:
                name = f"{category}/{name}"
            scores[name] = _score(f"{path}: `{field}`", kind, name, value)
    return Result(
        name=f"saebench_{kind}",
        version=VERSION,
        config=raw.get("eval_config") or {},
        scores=scores,
        details=_details(raw, kind, tokens),
        provenance=_made_from(raw, path),
    )


def read_all(place: Path | str) -> dict[str, Result]:
    """Read all results of SAEBench in a folder and those below it, or one file.

    Returns:
        results by their place in the folder.

    Raises:
        FormatError: there is none, or one is damaged.
    """
    place = Path(place)
    paths = sorted(place.rglob(f"*{END}")) if place.is_dir() else [place]
    if not paths:
        raise FormatError(f"There is no file in {place} whose name ends in {END}.")
    return {str(p.relative_to(place)) if p != place else p.name: read(p) for p in paths}


def _named(kind: str, field: str, fields: Mapping[str, Any]) -> str:
    """Return the name of a number: SAEBench's, but where that had several meanings."""
    if kind != "core":
        return field
    early = field == "explained_variance" and "explained_variance_legacy" not in fields
    return "explained_variance_legacy" if early else PUBLISHED.get(field, field)


def _score(where: str, kind: str, name: str, value: Any) -> Score:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise FormatError(f"{where} must be a number; got {value!r:.80}.")
    says = SAYS.get(name) if kind == "core" else None
    says = says or Says("as published", "neither", name.replace("_", " "))
    reason = NO_INTERVAL
    if value is None or math.isnan(value):
        value, reason = None, "SAEBench wrote no number"
    elif value == -1 and not name.startswith(SIGNED):
        value, reason = None, SENTINEL
    elif math.isinf(value):
        value, reason = None, "SAEBench wrote an infinity"
    return Score(
        value=None if value is None else float(value),
        n=0,
        unit=says.unit,
        better=says.better,
        reason=reason,
        label=says.label,
    )


def _details(raw: Mapping[str, Any], kind: str, tokens: dict[str, Any]) -> dict[str, Any]:
    """Return what stands behind the numbers: rows of tasks or letters, how many latents."""
    rows = raw.get("eval_result_details") or []
    if kind != "core":
        return {"rows": rows}
    return {
        "tokens": tokens.get("total_tokens_eval_sparsity_variance"),
        "loss_tokens": tokens.get("total_tokens_eval_reconstruction"),
        "latents": len(rows),  # of each, a record that nothing here reads
    }


def _made_from(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    settings = raw.get("sae_cfg_dict") or {}
    config = raw.get("eval_config") or {}
    release, one = raw.get("sae_lens_release_id"), raw.get("sae_lens_id")
    return {
        "subject": "/".join(str(part) for part in (release, one) if part),
        "sae": settings,
        "model": {"name": config.get("model_name") or settings.get("model_name") or "unknown"},
        "saebench": {
            key: raw.get(key)
            for key in (
                "eval_id",
                "datetime_epoch_millis",
                "sae_bench_commit_hash",
                "sae_lens_version",
                "sae_lens_release_id",
                "sae_lens_id",
            )
        },
        "file": path.name,
        "notes": ["numbers of SAEBench, by its own formulas"],
    }
