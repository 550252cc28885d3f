"""What the scripts of the page draw: curves, histogram and latents, packed small."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from saekit.core.errors import FormatError
from saekit.core.files import read_json, read_json_lines
from saekit.data import table_files

MAX_POINTS = 1000  # of a curve: more than a screen has columns for
CURVES = ("loss", "fvu", "l0", "dead", "lr", "tokens_per_second")


def curves(path: Path) -> dict[str, Any] | None:
    """Return the columns of a training log, or None where it holds no step.

    Returns:
        ``tokens``, each of `CURVES` that was logged, ``terms`` (columns by name), ``every``
        (one record in so many is kept, and the last).

    Raises:
        FormatError: the log is not JSON lines.
    """
    if not path.exists():
        return None
    try:
        steps = [r for r in read_json_lines(path) if r.get("kind") == "step"]
    except FormatError as error:
        raise FormatError(f"{error} Remove it to report without.") from error
    if not steps:
        return None
    every = math.ceil(len(steps) / MAX_POINTS)
    kept = steps[::every] + ([steps[-1]] if (len(steps) - 1) % every else [])
    terms = dict.fromkeys(name for r in kept for name in r.get("terms") or {})
    columns: dict[str, Any] = {"every": every, "tokens": [r.get("tokens") for r in kept]}
    for name in CURVES:
        values = [short(r.get(name), 5) for r in kept]
        if any(v is not None for v in values):
            columns[name] = values
    columns["terms"] = {t: [short((r.get("terms") or {}).get(t), 5) for r in kept] for t in terms}
    return columns


def latents(folder: Path, contexts_per_latent: int) -> dict[str, Any] | None:
    """Return the latents of an index, or None where there is no index.

    Token strings are held once, the most frequent first, and named by number.

    Returns:
        ``strings``; ``id``, ``density``, ``max``, ``mean`` by latent; ``contexts`` by
        latent: ``[tokens, acts, peak]`` each, zeros at the end of acts left out; ``spread``,
        contexts from the whole range of a latent, likewise; ``histogram``, counts by latent, each
        empty where the index has none;
        ``promoted`` and ``suppressed`` by latent: ``[tokens, values]``; ``found``, the
        largest number of contexts that the index holds for a latent.

    Raises:
        FormatError: a file of the index is damaged.
    """
    rows = _stats(folder / "latents.csv")
    records = _records(folder / "contexts.json")
    if rows is None and records is None:
        return None
    by_id = {int(r["latent"]): r for r in records or []}
    if rows is None:
        rows = [
            {"latent": i, "density": r.get("density"), "max": r.get("max")}
            for i, r in by_id.items()
        ]
    ids = [int(row["latent"]) for row in rows]
    ordered = [by_id.get(i, {}) for i in ids]
    shown = [r.get("contexts", [])[:contexts_per_latent] for r in ordered]
    spread = [r.get("spread", []) for r in ordered]
    strings = _strings(ordered, [*shown, *spread])
    number = {s: i for i, s in enumerate(strings)}
    try:
        return {
            "strings": strings,
            "id": ids,
            **{c: [short(_number(r.get(c))) for r in rows] for c in ("density", "max", "mean")},
            "contexts": [[_context(c, number) for c in contexts] for contexts in shown],
            "spread": [[_context(c, number) for c in contexts] for contexts in spread],
            "histogram": [[int(n) for n in r.get("histogram", [])] for r in ordered],
            **{
                s: [_side(r.get(s, []), number) for r in ordered]
                for s in ("promoted", "suppressed")
            },
            "found": max((len(r.get("contexts", [])) for r in ordered), default=0),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from error


def short(value: float | None, digits: int = 3) -> float | int | None:
    """Return a number with few significant digits, as an int where it is whole."""
    if value is None or not math.isfinite(value):
        return None
    near = float(f"{value:.{digits}g}")
    return int(near) if near == int(near) else near


def to_script(value: Any) -> str:
    r"""Return compact JSON that cannot end the element it stands in: no ``<`` is left in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("&", "\\u0026").replace(">", "\\u003e")


def _stats(path: Path) -> list[dict[str, Any]] | None:
    if not path.exists():
        return None
    rows = list(table_files.rows(path))
    if rows and "latent" not in rows[0]:
        raise _damaged(path.parent, f"{path.name} has no column `latent`")
    return rows


def _records(path: Path) -> list[dict[str, Any]] | None:
    if not path.exists():
        return None
    raw = read_json(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("latents"), list):
        raise _damaged(path.parent, f"{path.name} has no list `latents`")
    return raw["latents"]


def _damaged(folder: Path, why: object) -> FormatError:
    again = f"saekit index {folder.parent}"
    return FormatError(f"The index in {folder} is damaged: {why}. Make it again: {again}")


def _strings(records: Sequence[dict[str, Any]], shown: Sequence[list[Any]]) -> list[str]:
    counted: Counter[str] = Counter()
    for contexts in shown:
        for context in contexts:
            counted.update(context["tokens"])
    for record in records:
        for side in ("promoted", "suppressed"):
            counted.update(token for token, _ in record.get(side, []))
    return [token for token, _ in counted.most_common()]


def _context(context: dict[str, Any], number: dict[str, int]) -> list[Any]:
    acts = [short(a) for a in context["acts"]]
    while acts and not acts[-1]:
        acts.pop()
    return [[number[t] for t in context["tokens"]], acts, context["peak"]]


def _side(pairs: Iterable[Any], number: dict[str, int]) -> list[Any]:
    listed = list(pairs)
    return [[number[token] for token, _ in listed], [short(value) for _, value in listed]]


def _number(cell: Any) -> float | None:
    return None if cell in (None, "") else float(cell)
