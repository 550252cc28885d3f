"""Run any analysis on the index of a run: `saekit.analyse`, and what `saekit analyse` calls."""

from pathlib import Path
from typing import Any

from saekit.activations.latents import LatentStore, holds_store
from saekit.analysis.base import Analysis, registry
from saekit.analysis.index_codes import make_codes
from saekit.analysis.index_folder import Index
from saekit.analysis.side_tables import tables_folder
from saekit.core.errors import FormatError
from saekit.core.result import Table
from saekit.hub.index_manifest import CODES, INSIDE, is_index, sites_in
from saekit.hub.names import results_folder
from saekit.models.base import LanguageModel


def analyse(
    index: Index | LatentStore | Path | str,
    analysis: Analysis | str,
    /,
    *,
    lm: LanguageModel | None = None,
    **settings: Any,
) -> Table:
    """Run an analysis on every latent of an index.

    Args:
        index: the index, its folder, or that of the run it was made in.
        analysis: which, by its name (``saekit list analyses``) or with its settings.
        lm: the language model, for codes that the index does not keep; None: the one that the
            SAE's card names.
        settings: of the analysis, as ``pairs=100``.

    Returns:
        One row a latent, or an event; the docstring of the analysis says which.

    Where the index does not keep every code, the codes are made anew first, and kept: that is a
    pass of the language model over its text.

    Raises:
        UnknownNameError: there is no such analysis.
        ConfigError: it has no such setting, or refuses the value.
        FormatError: there is no index, or a file of it is damaged.
    """
    config = registry.get(analysis)() if isinstance(analysis, str) else analysis
    if settings:
        config = type(config).from_dict(config.to_dict() | settings)
    return config.run(codes_of(index, lm))


def codes_of(
    place: Index | LatentStore | Path | str, lm: LanguageModel | None = None, *, shown: bool = True
) -> LatentStore:
    """Return the codes of an index, which are made where it does not keep them yet.

    Args:
        place: an index, its folder or that of its run; or a folder of codes alone, as
            `saekit locality` keeps them.
        lm: the language model of its SAE; None: the one that its card names.
        shown: say so on stderr, with progress.

    Raises:
        FormatError: there is no index, a file of it is damaged, or the SAE that it was made of is
            now another.
        ConfigError: nobody knows where the SAE is.
    """
    if isinstance(place, LatentStore):
        return place
    if not isinstance(place, Index) and (bare := _bare(results_folder(place))) is not None:
        return LatentStore.open(bare)
    index = find_index(place)
    return (
        index.codes if holds_store(index.folder / CODES) else make_codes(index, lm=lm, shown=shown)
    )


def _bare(folder: Path) -> Path | None:
    """Return the folder of codes without an index, which a folder is or has as its index."""
    for there in (folder, folder / INSIDE):
        if holds_store(there) and not is_index(there):
            return there
    return None


def find_index(place: Index | Path | str) -> Index:
    """Return the index in a folder.

    Args:
        place: the index itself, its folder, or that of the run it was made in.

    Raises:
        FormatError: there is none, it is of an earlier version, or a file of it is damaged; or
            there are several, of the sites that share an SAE.
    """
    if isinstance(place, Index):
        return place
    folder = results_folder(place)
    if (folder / INSIDE).is_dir():
        return Index(folder / INSIDE)
    if not folder.is_dir():
        raise FormatError(f"There is no folder {folder}. Give the folder of a run, or of an index.")
    if not is_index(folder) and not sites_in(folder) and not holds_store(folder):
        raise FormatError(
            f"There is no index in {folder}. Make one with `saekit index {folder}`, or give the "
            f"folder that holds one."
        )
    return Index(folder)


def table_path(place: Index | Path | str, name: str) -> Path:
    """Return where the table of an analysis goes unless the user says otherwise.

    It is RUN/analysis/NAME.csv for the index of a run; see `side_tables.tables_folder`.

    Args:
        place: an index, its folder or that of its run; or a folder of codes alone.
        name: of the analysis.

    Raises:
        FormatError: there is no index.
    """
    bare = None if isinstance(place, Index) else _bare(results_folder(place))
    return tables_folder(bare or find_index(place).folder) / f"{name}.csv"
