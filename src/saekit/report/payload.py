"""What the scripts of the page draw: curves, histogram and latents, packed small."""

import base64
import json
import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saekit.analysis.index_folder import Index
from saekit.core.errors import FormatError
from saekit.core.files import read_json_lines
from saekit.hub.index_manifest import sites_in

MAX_POINTS = 1000  # of a curve: more than a screen has columns for
SPREAD = {"negative": 2}  # examples kept of a band other than the strongest; 1 of the rest
SIDES = ("promoted", "suppressed")
BEFORE, AFTER = 15, 8  # tokens about the peak of an example
TOP_LOGITS, TOP_TOKENS, TOP_NEIGHBOURS = 8, 6, 5
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


def index_place(folder: Path) -> Path | None:
    """Return the index that a page is of: the one there is, or of several sites the first.

    Args:
        folder: the folder ``index`` of a run.
    """
    if sites := sites_in(folder):
        return folder / sites[0]
    return folder if folder.is_dir() and any(folder.iterdir()) else None


def columns_of(index: Index) -> list[dict[str, str]]:
    """Return what each column of the table of latents is: name, label, unit, about and kind."""
    return [
        {"name": name, **about._asdict(), "kind": _kind(name, index)}
        for name, about in index.columns.items()
    ]


def _kind(name: str, index: Index) -> str:
    if hasattr(index.values[name], "dtype"):
        return "number"
    return "token" if name in ("token", "promotes", "suppresses") else "text"


def latents(index: Index, contexts_per_latent: int) -> dict[str, Any]:
    """Return the latents of an index as `source.js` reads them out of a page.

    Returns:
        ``columns``: names and values; ``packed``: what `packed` gives as JSON, deflated, in base64.

    Raises:
        FormatError: a file of the index is damaged.
    """
    names = ["latent", *index.columns]
    columns = [[_cell(v) for v in _listed(index.values[name])] for name in names]
    most = {band: _kept(band, contexts_per_latent) for band in index.manifest["bands"]}
    records = [index.record(latent, most) for latent in range(index.d_sae)]
    table = {"names": names, "values": columns}
    return {"columns": table, "packed": deflated(packed(records, contexts_per_latent))}


def deflated(value: Any) -> str:
    """Return JSON as raw deflate in base64: about a third of its bytes, and no markup in them."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return base64.b64encode(packer.compress(text.encode()) + packer.flush()).decode("ascii")


def packed(records: Sequence[Mapping[str, Any]], contexts_per_latent: int) -> dict[str, Any]:
    """Return records of an index with few bytes.

    All share their strings; an example is cut to the tokens about its peak and is a list:
    tokens, places, activations, peak, row, document, and where there is no peak the token at which
    the latent is off. Values stand in the columns, and edges of the
    histogram follow from the maximum. Of the longer lists the first are kept.

    Args:
        records: of `Index.record`.
        contexts_per_latent: examples of the band ``top``; of the others one or two are kept.
    """
    counted: Counter[str] = Counter()
    for record in records:
        for band, examples in record["examples"].items():
            for one in examples[: _kept(band, contexts_per_latent)]:
                first, last = _cut(one)
                counted.update(record["strings"][t] for t in one["tokens"][first:last])
        counted.update(record["strings"][t] for t in _in_details(record))
    strings = [string for string, _ in counted.most_common()]
    number = {string: i for i, string in enumerate(strings)}
    return {
        "strings": strings,
        "records": [_packed(record, number, contexts_per_latent) for record in records],
    }


def _kept(band: str, top: int) -> int:
    return top if band == "top" else SPREAD.get(band, 1)


def _cut(example: Mapping[str, Any]) -> tuple[int, int]:
    """Return where the tokens about the peak of an example begin and end."""
    middle = example["token"] if example["peak"] is None else example["peak"]
    return max(0, middle - BEFORE), min(len(example["tokens"]), middle + AFTER + 1)


def _in_details(record: Mapping[str, Any]) -> list[int]:
    """Return the strings that a record names outside of its examples, as they are kept."""
    logits = record["logits"] or {}
    sides = [pair[0] for side in SIDES for pair in logits.get(side, [])[:TOP_LOGITS]]
    return sides + [three[0] for three in record["tokens"]["on"][:TOP_TOKENS]]


def _packed(record: Mapping[str, Any], number: Mapping[str, int], top: int) -> dict[str, Any]:
    of = [number.get(string, 0) for string in record["strings"]]

    def example(one: Mapping[str, Any]) -> list[Any]:
        first, last = _cut(one)
        on = [(j - first, a) for j, a in zip(one["at"], one["acts"], strict=True)]
        on = [(j, short(a)) for j, a in on if 0 <= j < last - first]
        peak = None if one["peak"] is None else one["peak"] - first
        tokens = [of[t] for t in one["tokens"][first:last]]
        packs = [tokens, [j for j, _ in on], [a for _, a in on], peak, one["row"], one["doc"]]
        return packs if peak is not None else [*packs, one["token"] - first]

    def pairs(rows: Sequence[Sequence[Any]], most: int) -> list[Any]:
        return [[of[row[0]], short(row[1]), *map(short, row[2:])] for row in rows[:most]]

    logits, near = record["logits"], record["neighbours"]
    return {
        "latent": record["latent"],
        "examples": {
            band: [example(one) for one in examples[: _kept(band, top)]]
            for band, examples in record["examples"].items()
            if examples
        },
        "histogram": (record["histogram"] or {}).get("counts"),
        "logits": logits
        and {side: pairs(logits[side], TOP_LOGITS) for side in SIDES}
        | {"mean": short(logits["mean"]), "std": short(logits["std"])}
        | {"sets": [[n, *map(short, rest)] for n, *rest in _ends(logits["sets"])]},
        "neighbours": {
            kind: [[row[0], *map(short, row[1:])] for row in rows[:TOP_NEIGHBOURS]]
            for kind, rows in near.items()
        },
        "tokens": record["tokens"] | {"on": pairs(record["tokens"]["on"], TOP_TOKENS)},
        "layers": record["layers"] and _rounded(record["layers"]),
    }


def _rounded(layers: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {n: [short(v) for v in layers[n]] for n in ("density", "mean", "max")}
    return {"sites": layers["sites"]} | numbers


def _ends(rows: Sequence[Any]) -> list[Any]:
    """Return the first and the last of a sorted list."""
    return list(rows) if len(rows) <= 4 else [*rows[:3], rows[-1]]


def _listed(values: Any) -> list[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _cell(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)  # a count is not rounded
    return short(value) if isinstance(value, float) else value


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
