"""Every figure of some runs, in one folder."""

from collections.abc import Sequence
from pathlib import Path

from saekit.core.errors import FormatError
from saekit.core.folder_names import distinct_names
from saekit.core.result import Result, Table
from saekit.data import table_files
from saekit.report import style
from saekit.studies.sensitivity.figures import (
    against_sparsity,
    distribution,
    generated_against_original,
    thresholds,
)
from saekit.studies.sensitivity.study import RESULT, STATS


def draw_all(folders: Sequence[Path], out: Path) -> list[Path]:
    """Draw every figure and return the files.

    Args:
        folders: of runs.
        out: folder of the figures.

    Raises:
        FormatError: a folder holds no finished run.
        MissingExtraError: matplotlib is not installed.
    """
    style.check()
    homes = [folder.resolve().parent for folder in folders]  # of the SAEs, mostly one run of each
    names = distinct_names(homes if len({*homes}) == len(homes) else folders)
    results, tables = {}, {}
    for name, folder in zip(names, folders, strict=True):
        results[name] = result_of(folder)
        tables[name] = latents_of(folder)
    kinds = ("generated_against_original", "thresholds", "against_sparsity", "distribution")
    made = [out / f"{name}.svg" for name in kinds]
    generated_against_original.draw(tables, made[0])
    thresholds.draw(tables, made[1])
    against_sparsity.draw(results, made[2])
    distribution.draw(tables, made[3])
    return made


def result_of(folder: Path) -> Result:
    """Return the result of a run.

    Raises:
        FormatError: the folder holds no finished one.
    """
    if not (folder / RESULT).exists():
        raise FormatError(
            f"{folder} holds no finished run: it has no {RESULT}. Make one with "
            f"`saekit sensitivity run`."
        )
    return Result.read(folder / RESULT)


def latents_of(folder: Path) -> Table:
    """Return the table of latents of a run, numbers as numbers and empty cells as None."""
    return Table(columns=table_files.columns(folder / f"{STATS}.csv"))
