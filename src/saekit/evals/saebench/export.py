"""`saekit.export_saebench`: the results of runs as JSON that tools for SAEBench read."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import read_object
from saekit.core.result import Result
from saekit.evals.saebench.writing import holds_another, path_of, write
from saekit.hub.names import results_folder


class Exported(NamedTuple):
    """The files that were written, and why others were not, by the result's file."""

    written: list[Path]
    left_out: dict[str, str]


def export_saebench(
    runs: Sequence[Path | str] | Path | str, out: Path | str, *, overwrite: bool = False
) -> Exported:
    """Write the results in ``RUN/eval`` as SAEBench writes its own, a file each.

    Args:
        runs: folders of runs or SAEs that have results.
        out: the folder to write to; results that are there are kept.
        overwrite: replace files there that hold other results.

    Raises:
        ConfigError: there is no result, two would be one file, or a file there holds another.
    """
    places = [runs] if isinstance(runs, str | Path) else list(runs)
    if not places:
        raise ConfigError("There is no run to write results of: the list is empty. Name one.")
    if gone := [place for place in places if not Path(place).exists()]:
        raise ConfigError(f"There is no folder {gone[0]}. Nothing was written.")
    found, left_out = _results(_names([Path(place) for place in places]), Path(out))
    if not found:
        why = "; ".join(left_out.values()) or f"saekit eval {places[0]} makes one"
        raise ConfigError(f"There is no result to write: {why}")
    there = [p for p, (result, name, _) in found.items() if holds_another(p, result, name=name)]
    if there and not overwrite:
        raise ConfigError(
            f"{there[0]} is there and holds another result. Name another folder, or replace "
            f"{len(there)} of {len(found)} files: overwrite=True, on a command line --overwrite. "
            f"Nothing was written."
        )
    written = [write(result, Path(out), name=name) for result, name, _ in found.values()]
    return Exported(written, left_out)


def _names(runs: list[Path]) -> dict[str, Path]:
    """Return runs by names that differ: those of their folders, with more of the path at need."""
    found: dict[str, Path] = {}
    for place, run in {run.resolve(): run for run in runs}.items():
        parts = [one for one in place.parts if one != place.anchor]
        tails = ("_".join(parts[-n:]) for n in range(1, len(parts) + 1))
        found[next((name for name in tails if name not in found), str(run))] = run
    return found


def _results(
    runs: dict[str, Path], out: Path
) -> tuple[dict[Path, tuple[Result, str, Path]], dict[str, str]]:
    """Return results by the file that each becomes, with name and place, and what was left out."""
    found: dict[Path, tuple[Result, str, Path]] = {}
    left_out: dict[str, str] = {}
    for name, run in runs.items():
        files = sorted((results_folder(run) / "eval").glob("*.json"))
        if not files:
            left_out[str(run)] = f"it has no result; saekit eval {run} makes one"
        for path in files:
            try:
                if not Result.is_record(read_object(path)):
                    continue
                result = Result.read(path)
                made = path_of(result, out, name=name)
                if made in found:
                    raise ConfigError(f"{made} has {found[made][2]}. Write this one elsewhere.")
                found[made] = result, name, path
            except (ConfigError, FormatError) as error:
                left_out[str(path)] = str(error)
    return found, left_out
