"""What the scripts of the page draw: curves, histogram and latents, packed small."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saekit.analysis.index_folder import Index
from saekit.core.errors import FormatError
from saekit.core.files import read_json_lines
from saekit.hub.index_manifest import sites_in

MAX_POINTS = 1000  # of a curve: more than a screen has columns for
SPREAD = ("q4", "q3", "q2", "q1", "boundary")  # bands of which one example each is shown
BEFORE, AFTER = 15, 8  # tokens about the peak of a context
TOP_LOGITS = 8
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
        FormatError: a file of the index is damaged, or the index is of an earlier version.
    """
    if (place := index_place(folder)) is None:
        return None
    index = Index(place)
    records = [index.record(latent) for latent in range(index.d_sae)]
    shown = [_cut(r, ("top",), contexts_per_latent) for r in records]
    spread = [_cut(r, SPREAD, 1) for r in records]
    sides = {s: [_words(r, s) for r in records] for s in ("promoted", "suppressed")}
    counted: Counter[str] = Counter()
    for contexts in (*shown, *spread):
        for tokens, _, _ in contexts:
            counted.update(tokens)
    for pairs in (*sides["promoted"], *sides["suppressed"]):
        counted.update(token for token, _ in pairs)
    strings = [token for token, _ in counted.most_common()]
    number = {s: i for i, s in enumerate(strings)}
    columns = {c: _listed(index.values.get(c), index.d_sae) for c in ("density", "max", "mean")}
    return {
        "strings": strings,
        "id": list(range(index.d_sae)),
        **columns,
        "contexts": [[_context(c, number) for c in contexts] for contexts in shown],
        "spread": [[_context(c, number) for c in contexts] for contexts in spread],
        "histogram": [(r["histogram"] or {}).get("counts", []) for r in records],
        **{s: [_side(pairs, number) for pairs in found] for s, found in sides.items()},
        "found": max((len(r["examples"]["top"]) for r in records), default=0),
    }


def index_place(folder: Path) -> Path | None:
    """Return the index that a page is of: the one there is, or of several sites the first.

    Args:
        folder: the folder ``index`` of a run.
    """
    if sites := sites_in(folder):
        return folder / sites[0]
    return folder if folder.is_dir() and any(folder.iterdir()) else None


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


Context = tuple[list[str], list[float], int]  # tokens, activations on them, and the peak


def _cut(record: dict[str, Any], bands: Sequence[str], most: int) -> list[Context]:
    """Return examples of some bands, `most` of each, cut to the tokens about their peak."""
    found = []
    for band in bands:
        for one in record["examples"][band][:most]:
            begin, end = max(0, one["peak"] - BEFORE), one["peak"] + AFTER + 1
            tokens = [record["strings"][i] for i in one["tokens"][begin:end]]
            acts = [0.0] * len(tokens)
            for at, act in zip(one["at"], one["acts"], strict=True):
                if begin <= at < begin + len(tokens):
                    acts[at - begin] = act
            found.append((tokens, acts, one["peak"] - begin))
    return found


def _words(record: dict[str, Any], side: str) -> list[tuple[str, float]]:
    found = (record["logits"] or {}).get(side, [])[:TOP_LOGITS]
    return [(record["strings"][i], value) for i, value in found]


def _context(context: Context, number: dict[str, int]) -> list[Any]:
    tokens, every, peak = context
    acts = [short(a) for a in every]
    while acts and not acts[-1]:
        acts.pop()
    return [[number[t] for t in tokens], acts, peak]


def _side(pairs: Sequence[tuple[str, float]], number: dict[str, int]) -> list[Any]:
    return [[number[token] for token, _ in pairs], [short(value) for _, value in pairs]]


def _listed(values: Any, n: int) -> list[float | int | None]:
    return [None] * n if values is None else [short(v) for v in values.tolist()]
