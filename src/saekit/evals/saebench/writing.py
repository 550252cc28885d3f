"""A result as a file that tools for SAEBench read."""

import dataclasses
import re
import uuid
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import read_object, to_json_line, write_json
from saekit.core.result import Result
from saekit.evals.saebench.fields import COUNTERPARTS, OTHER_THINGS
from saekit.models.sites import parse_site, transformer_lens_name

END = "_eval_results.json"
OWN = "saekit"  # in the part of the file that has no schema
CORRECTED = "core_corrected"  # folder of numbers that are in fields of other formulas
ID = "custom_sae"  # SAEBench's of any SAE that SAELens did not load


def write(result: Result, folder: Path | str, *, name: str | None = None) -> Path:
    """Write a result as SAEBench's JSON: ``FOLDER/EVALUATION/NAME_custom_sae_eval_results.json``.

    EVALUATION is SAEBench's name, and ``core_corrected`` where fields of its `core` hold numbers of
    saekit's `core`, which has other formulas; numbers by SAEBench's own go to ``core``
    (`saekit eval --eval saebench_core`).

    Fields hold numbers alone; what is undefined, or was not measured, is left out, never -1. The
    part that has no schema holds the whole result, with intervals and reasons, which
    `saekit.evals.saebench.read` gives back, and says in what each field's number differs.

    Args:
        result: of an evaluation that SAEBench has something like.
        folder: of all evaluations.
        name: of the SAE; None: the one in the result.

    Raises:
        ConfigError: SAEBench has no such evaluation, or means another quantity by the name.
    """
    record, path = to_record(result, name=name), path_of(result, folder, name=name)
    write_json(path, record)
    return path


def path_of(result: Result, folder: Path | str, *, name: str | None = None) -> Path:
    """Return the file that `write` writes.

    Raises: as `write`.
    """
    check_written(result)
    called = re.sub(r"[^\w.-]+", "_", f"{name or _subject(result)}_{ID}")
    place = CORRECTED if result.name == "core" else COUNTERPARTS[result.name].id
    return Path(folder) / place / f"{called}{END}"


def holds_another(path: Path, result: Result, *, name: str | None = None) -> bool:
    """Tell whether a file is there that is not what `write` makes of this result.

    Args:
        path: of the file.
        result: the result.
        name: of the SAE; see `write`.
    """
    if not path.exists():
        return False
    try:
        there = read_object(path)
    except FormatError:
        return True
    made = to_record(result, name=name)
    return any(there.get(key) != made[key] for key in ("eval_id", "sae_lens_release_id"))


def stem_of(path: str) -> str:
    """Return what a file of `write` says of its SAE's name."""
    return Path(path).name.removesuffix(END).removesuffix(f"_{ID}")


def to_record(result: Result, *, name: str | None = None) -> dict[str, Any]:
    """Return what `write` writes.

    Raises: as `write`.
    """
    check_written(result)
    counterpart, made = COUNTERPARTS[result.name], result.provenance
    found = counterpart.fields(result)
    known = {c: {f: v for f, v in of.items() if v is not None} for c, of in found.values.items()}
    lacking = [f for of in found.values.values() for f, v in of.items() if v is None]
    whole = dataclasses.asdict(result)
    model = (made.get("model") or {}).get("name", "")
    return {
        "eval_type_id": counterpart.id,
        "eval_config": {"model_name": model, "saekit": result.config},
        "eval_id": str(uuid.uuid5(uuid.NAMESPACE_OID, to_json_line(whole))),
        "datetime_epoch_millis": _millis(made.get("time")),
        "eval_result_metrics": known,
        "eval_result_details": [
            {k: v for k, v in row.items() if v is not None} for row in found.rows
        ],
        "sae_bench_commit_hash": f"saekit {metadata.version('saekit')}",
        "sae_lens_id": ID,
        "sae_lens_release_id": name or _subject(result),
        "sae_lens_version": None,
        "sae_cfg_dict": _config(made, model),
        "eval_result_unstructured": {
            OWN: {
                "result": whole,
                "differs": {f: how for f, how in found.differs.items() if f not in lacking},
                "left_out": lacking,
            }
        },
    }


def check_written(result: Result) -> None:
    """Refuse a result that is not written.

    Raises: as `write`.
    """
    if result.name not in COUNTERPARTS:
        why = OTHER_THINGS.get(result.name, "SAEBench has nothing like it")
        raise ConfigError(
            f"`{result.name}` is not written as SAEBench's: {why}. Written are "
            f"{', '.join(COUNTERPARTS)}."
        )


def _subject(result: Result) -> str:
    return str(result.provenance.get("subject", ""))


def _millis(time: str | None) -> int:
    return int(datetime.fromisoformat(time).timestamp() * 1000) if time else 0


def _config(made: dict[str, Any], model: str) -> dict[str, Any]:
    """Return an SAE's settings with what SAEBench's figures ask of them."""
    own = dict(made.get("sae") or {})
    own |= {"architecture": own.pop("name", ""), "model_name": model}
    site = made.get("write", made.get("read"))
    if isinstance(site, str):
        place = parse_site(site)
        own["hook_layer"] = place.layer
        if place.point not in ("z", "mlp_in"):
            own["hook_name"] = transformer_lens_name(place)
    return own
