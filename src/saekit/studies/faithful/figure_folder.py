"""Every figure of some SAEs that their results allow, in one folder."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from saekit.core.border import details_of, reading
from saekit.core.errors import FormatError, MissingExtraError
from saekit.core.folder_names import distinct_names
from saekit.core.result import Result, Table
from saekit.data import table_files
from saekit.hub.names import results_folder
from saekit.report import style
from saekit.studies.corpus import planes
from saekit.studies.corpus.planes import Way
from saekit.studies.faithful.figures import (
    cross_data,
    dictionary_map,
    fake_bars,
    fake_scatter,
    probing_bars,
)
from saekit.studies.faithful.probing.statistics import METRICS


class Drawn(NamedTuple):
    """Figures that were drawn, and why others were not."""

    made: list[Path]
    left_out: dict[str, str]


def draw_all(
    folders: Sequence[Path | str], out: Path | str, maps: Sequence[Way] = (), suffix: str = ".svg"
) -> Drawn:
    """Draw what `fake_features`, `probing` and `cross_data` found, and maps of the dictionaries.

    Args:
        folders: of SAEs, with the results in ``eval``.
        out: folder of the figures.
        maps: how the dictionaries are drawn as points; none where empty.
        suffix: what kind of figures: .svg, .pdf or .png.

    Raises:
        ConfigError: `suffix` is not one of a figure, or a map has too few directions.
        FormatError: there is nothing to draw.
        MissingExtraError: matplotlib is not installed.
    """
    style.check()
    folders, out = [Path(folder) for folder in folders], Path(out)
    places = dict(zip(distinct_names(folders), folders, strict=True))
    drawn = Drawn([], {})
    if fakes := _results(places, "fake_features"):
        with details_of("fake_features"):
            _fakes(fakes, places, (out, suffix), drawn)
    if probes := _results(places, "probing"):
        for metric in METRICS:
            drawn.made.append(out / f"probing_{metric}{suffix}")
            with details_of("probing"):
                probing_bars.draw(probes, drawn.made[-1], metric)
    if cross := _results(places, "cross_data"):
        drawn.made.append(out / f"cross_data{suffix}")
        cross_data.draw(cross, drawn.made[-1])
    for way in maps:
        try:
            planes.check(way)
        except MissingExtraError as error:
            drawn.left_out[f"map {way}"] = str(error)
            continue
        drawn.made.append(out / f"map_{way}{suffix}")
        dictionary_map.draw(dictionary_map.table(_dictionaries(places), way), way, drawn.made[-1])
    if not drawn.made:
        raise FormatError(
            f"There is no result to draw in {', '.join(map(str, folders))}. Make one with: saekit "
            f"eval RUN --eval fake_features, probing or cross_data"
        )
    return drawn


def _fakes(
    fakes: dict[str, Result], places: dict[str, Path], where: tuple[Path, str], drawn: Drawn
) -> None:
    out, suffix = where
    drawn.made.append(out / f"fake_features{suffix}")
    fake_bars.draw(fakes, drawn.made[-1])
    for name, result in fakes.items():
        by_token = result.details["definition"]["mode"] == "token"
        latents = latents_of(places[name], "tokens" if by_token else "sequences")
        if latents is None:
            drawn.left_out[f"latents of {name}"] = "it has no table analysis/fake_features"
            continue
        p = float(result.details["definition"]["p"])
        for noise in result.details["noises"]:
            drawn.made.append(out / f"fake_{_plain(noise)}_{_plain(name)}{suffix}")
            fake_scatter.draw(latents, noise, p, drawn.made[-1], name)


def _results(places: dict[str, Path], name: str) -> dict[str, Result]:
    files = {n: results_folder(place) / "eval" / f"{name}.json" for n, place in places.items()}
    return {n: Result.read(file) for n, file in files.items() if file.is_file()}


def _dictionaries(places: dict[str, Path]) -> dict:
    from saekit.hub.native import load

    return {name: load(place).sae.directions() for name, place in places.items()}


def latents_of(folder: Path, unit: str) -> Table | None:
    """Return how often each latent of an SAE fires on text and noise; None without such a table.

    Args:
        folder: of the SAE.
        unit: what rates are shares of.
    """
    stem = results_folder(folder) / "analysis" / "fake_features"
    if not table_files.has(stem):
        return None
    path = table_files.find(stem)
    with reading(path, "a table of fake features"):
        rows = list(table_files.rows(path))
        rates = [name for name in (rows[0] if rows else {}) if name.endswith("_rate")]
        sure = [name for name in (rows[0] if rows else {}) if name.endswith("_surely_fake")]
        columns: dict[str, list] = {"latent": [int(row["latent"]) for row in rows]}
        columns |= {name: [float(row[name]) for row in rows] for name in rates}
        columns |= {name: [str(row[name]) == "True" for row in rows] for name in sure}
    return Table(columns=columns, units=dict.fromkeys(rates, f"share of {unit}"))


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("_")
