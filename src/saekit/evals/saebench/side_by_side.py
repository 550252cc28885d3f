"""Scores of several results in one table: published ones next to one's own, never in one column."""

from collections.abc import Mapping
from typing import Any

from saekit.core.errors import ConfigError
from saekit.core.result import Result, Table


def side_by_side(results: Mapping[str, list[Result]]) -> Table:
    """Return a row for each SAE and a column for each score of each evaluation.

    A column is called ``EVALUATION/SCORE``: numbers of two formulas never share one, and neither do
    two versions of an evaluation. To have one's own SAE in a column of published numbers, measure
    it by their formulas: ``saekit eval RUN --eval saebench_core``.

    Args:
        results: by the name of the SAE.

    Raises:
        ConfigError: an SAE has two results of one evaluation.
    """
    versions: dict[str, set[int]] = {}
    for result in (one for some in results.values() for one in some):
        versions.setdefault(result.name, set()).add(result.version)
    rows: list[dict[str, Any]] = []
    units: dict[str, str] = {}
    for name, some in results.items():
        rows.append({"sae": name})
        kinds = [(result.name, result.version) for result in some]
        if twice := [kind for kind in kinds if kinds.count(kind) > 1]:
            raise ConfigError(f"{name} has two results of `{twice[0][0]}`. Give them two names.")
        for result in some:
            several = len(versions[result.name]) > 1
            head = f"{result.name}@{result.version}" if several else result.name
            for key, score in result.scores.items():
                rows[-1][f"{head}/{key}"] = score.value
                units[f"{head}/{key}"] = score.unit
    names = ["sae", *units]
    return Table(columns={n: [row.get(n) for row in rows] for n in names}, units=units)
