"""Siblings: the other SAEs of a sweep at the same site and of the same width. Without torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saekit.core.files import read_object

SWEEP = "sweep.json"  # what makes a folder that of a sweep


def siblings(run: Path) -> list[Path]:
    """Return the runs of the same sweep that read and predict the same sites with as many latents.

    Those that are not trained yet are left out.

    Args:
        run: the folder of an SAE; one of no sweep has none.

    Raises:
        FormatError: the sweep's file is damaged.
    """
    run = run.resolve()
    if not (run.parent / SWEEP).is_file():
        return []
    runs = read_object(run.parent / SWEEP).get("runs")
    if not isinstance(runs, dict) or run.name not in runs:
        return []
    mine = _alike(runs[run.name])
    names = [n for n, one in runs.items() if n != run.name and _alike(one) == mine]
    found = [run.parent / name for name in names if Path(name).name == name]
    return [folder for folder in found if (folder / "sae" / "config.json").is_file()]


def _alike(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    sae = settings.get("sae") or {}
    return settings.get("model"), settings.get("pair"), sae.get("d_sae"), sae.get("expansion")
