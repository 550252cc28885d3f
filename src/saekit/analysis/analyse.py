"""Run any analysis on the index of a run: `saekit.analyse`, and what `saekit analyse` calls."""

from pathlib import Path
from typing import Any

from saekit.activations.latents import holds_store
from saekit.analysis.base import Analysis, registry
from saekit.analysis.index_folder import Index
from saekit.core.errors import FormatError
from saekit.core.result import Table
from saekit.hub.names import results_folder

INSIDE = "index"  # what `saekit index` calls the folder that it makes in a run


def analyse(index: Index | Path | str, analysis: Analysis | str, /, **settings: Any) -> Table:
    """Run an analysis on every latent of an index.

    Args:
        index: the index, its folder, or that of the run it was made in.
        analysis: which, by its name (``saekit list analyses``) or with its settings.
        settings: of the analysis, as ``pairs=100``.

    Returns:
        One row a latent, or an event; the docstring of the analysis says which.

    Raises:
        UnknownNameError: there is no such analysis.
        ConfigError: it has no such setting, or refuses the value.
        FormatError: there is no index, or a file of it is damaged.
    """
    config = registry.get(analysis)() if isinstance(analysis, str) else analysis
    if settings:
        config = type(config).from_dict(config.to_dict() | settings)
    return config.run(find_index(index).store)


def find_index(place: Index | Path | str) -> Index:
    """Return the index in a folder.

    Args:
        place: the index itself, its folder, or that of the run it was made in.

    Raises:
        FormatError: there is none, or a file of it is damaged.
    """
    if isinstance(place, Index):
        return place
    folder = results_folder(place)
    if (folder / INSIDE).is_dir():
        return Index(folder / INSIDE)
    if not folder.is_dir():
        raise FormatError(f"There is no folder {folder}. Give the folder of a run, or of an index.")
    if not holds_store(folder):
        raise FormatError(
            f"There is no index in {folder}. Make one with `saekit index {folder}`, or give the "
            f"folder that holds one."
        )
    return Index(folder)


def table_path(index: Index, name: str) -> Path:
    """Return where the table of an analysis goes unless the user says otherwise.

    It is RUN/analysis/NAME.csv for the index of a run. An index that was put elsewhere has a folder
    of tables next to it: two of them may lie side by side, and an index is replaced as a whole.
    """
    folder = index.folder
    in_run = folder.name == INSIDE
    return folder.with_name("analysis" if in_run else f"{folder.name}-analysis") / f"{name}.csv"
