"""Labels file: explanations in the form that the explorer's import of labels takes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saekit.core.errors import DataError
from saekit.core.files import read_object, write_json
from saekit.data import table_files
from saekit.studies.explain.study import SETTINGS, Explained

FORMAT, VERSION = "saekit.labels", 1  # of the explorer's labels
FILE = "explorer_labels.json"
TEXT_CHARS = 500  # that the explorer takes


def write_labels(
    found: Explained, out: Path | None = None, *, scores: Path | None = None, least: float = 0.0
) -> Path:
    """Write the usable explanations for the explorer; return the file.

    Each label has in its note who wrote it and how it scored.

    Args:
        found: explanations (`study.read`).
        out: the file; None: ``explorer_labels.json`` in their folder.
        scores: folder of scores whose numbers are noted; None: none are.
        least: leave out lines whose detection score is lower; needs `scores`.

    Raises:
        DataError: no explanation is left.
    """
    settings = read_object(found.folder / SETTINGS)
    by = settings.get("generator", {})
    name = " ".join(str(by[k]) for k in ("name", "model") if by.get(k))
    rows: dict[int, dict[str, str]] = {}
    if scores is not None:
        rows = {int(r["latent"]): r for r in table_files.rows(scores / "explanations.csv")}
    labels = [
        {
            "weights": settings["weights"],
            "latent": latent,
            "text": text[:TEXT_CHARS],
            "note": _note(rows.get(latent, {})),
            "by": name[:200],
        }
        for latent, text in found.labels.items()
        if not least or _score(rows.get(latent, {})) >= least
    ]
    if not labels:
        wanted = f" and scores {least:g}" if least else ""
        raise DataError(
            f"No explanation in {found.folder} is usable{wanted}. Have another generator write "
            f"them (saekit explain run --by){', or ask for a lower score' if least else ''}."
        )
    made: dict[str, Any] = {"format": FORMAT, "version": VERSION, "labels": labels, "lists": []}
    path = out or found.folder / FILE
    write_json(path, made)
    return path


def _score(row: Mapping[str, str]) -> float:
    try:
        return float(row.get("detection") or "nan")
    except ValueError:
        return float("nan")


def _note(row: Mapping[str, str]) -> str:
    named = ("detection", "fuzzing", "intruder", "embedding", "steering")
    parts = [f"{name} {float(row[name]):.2f}" for name in named if row.get(name)]
    return ", ".join(parts)
