"""Blocks: what panels and pages of studies are made of, each a JSON-ready dict of one kind.

A block says what it shows and never how: the pages draw the kinds and know no list of panels.
Every maker checks what it is given, so that a page meets no list of another length and no NaN: a
number that is not finite is null, which every drawing leaves out.

Each maker also takes `title`, `about` (what the numbers are, a sentence or two) and `source` (the
file they were read from and the command that made it).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from typing_extensions import Unpack

from saekit.core.errors import ConfigError
from saekit.core.result import Result, Score
from saekit.core.result import Table as Rows

Block = dict[str, Any]
KINDS = (
    "facts",
    "text",
    "label",
    "missing",
    "table",
    "lines",
    "bars",
    "dots",
    "histogram",
    "scatter",
    "heatmap",
    "strip",
    "image",
    "texts",
)
LINKS = ("latent", "sae")
MARKS = ("hit", "miss")
MOST_CELLS = 500_000  # of one block: what a page can draw


class Head(TypedDict, total=False):
    """What every block may say of itself."""

    title: str
    about: str
    source: str


class Axis(TypedDict, total=False):
    """An axis: what it shows, and whether on a logarithmic scale."""

    label: str
    log: bool


def fact(label: str, value: Any, **said: Any) -> list[Any]:
    """Return one line of a block of facts.

    Args:
        label: what it is.
        value: text or number; None where it is undefined.
        said: of the number: its `unit`, the `low` and `high` end of its interval, and what it is
            `about`.
    """
    kept = {key: plain(one) for key, one in said.items() if one not in (None, "")}
    return [label, plain(value), kept] if kept else [label, plain(value)]


def fact_of(label: str, score: Score) -> list[Any]:
    """Return a score as a line of facts, with its interval, or why it has no value."""
    more = score.label if score.label != label else ""
    about = "; ".join(filter(None, [more, score.reason]))
    return fact(label, score.value, unit=score.unit, low=score.low, high=score.high, about=about)


def facts(found: Iterable[Sequence[Any]], **head: Unpack[Head]) -> Block:
    """Return labels with their values, a line each, as `fact` makes them.

    Raises:
        ConfigError: one is not of a label, a value and what is said of it.
    """
    lines = [list(one) for one in found]
    for one in lines:
        if not 2 <= len(one) <= 3 or (len(one) == 3 and not isinstance(one[2], Mapping)):
            raise ConfigError(f"A fact is a label, a value and what is said of it; got {one!r:.80}")
    return _block("facts", head, facts=lines)


def scores(result: Result, names: Mapping[str, str] | None = None, **head: Unpack[Head]) -> Block:
    """Return the scores of a result as facts.

    Args:
        result: of an evaluation.
        names: the scores to show, with their labels; None: all of them.
        head: title, about and source.
    """
    wanted = names or {name: score.label or name for name, score in result.scores.items()}
    shown = [(label, result.scores[n]) for n, label in wanted.items() if n in result.scores]
    return facts([fact_of(label, score) for label, score in shown], **head)


def text(words: str, **head: Unpack[Head]) -> Block:
    """Return a paragraph."""
    return _block("text", head, text=words)


def label(words: str, by: str, **head: Unpack[Head]) -> Block:
    """Return a line that a reader may take as the label of the latent.

    Args:
        words: the line.
        by: who wrote it.
        head: title, about and source.
    """
    return _block("label", head, text=words, by=by)


def missing(words: str, command: str, **head: Unpack[Head]) -> Block:
    """Return what is not there yet, and the command that makes it."""
    return _block("missing", head, text=words, command=command)


def table(
    rows: Rows,
    *,
    names: Mapping[str, str] | None = None,
    said: Mapping[str, str] | None = None,
    links: Mapping[str, str] | None = None,
    most: int = 1000,
    **head: Unpack[Head],
) -> Block:
    """Return the rows of a table.

    Args:
        rows: with the units of its columns.
        names: the columns to show, with what they are called; None: all, as they are named.
        said: what a column is, by its name in `rows`.
        links: columns whose values are numbers of latents ("latent") or ids of SAEs ("sae").
        most: rows shown; the block says how many more there are.
        head: title, about and source.

    Raises:
        ConfigError: a column or a kind of link does not exist, or columns differ in length.
    """
    wanted = dict(names or {name: name for name in rows.columns})
    _known("column", {*wanted, *(said or {}), *(links or {})}, rows.columns)
    _known("kind of link", set((links or {}).values()), LINKS)
    _one_length({name: rows.columns[name] for name in wanted})
    columns = []
    for name, label in wanted.items():
        words = {"unit": rows.units.get(name, ""), "about": (said or {}).get(name, "")}
        columns.append({"name": label} | {key: one for key, one in words.items() if one})
    cells = zip(*(rows.columns[name][:most] for name in wanted), strict=True)
    if len(rows) > most:
        rest = f"The first {most:,} of {len(rows):,} rows."
        head["about"] = " ".join(filter(None, [head.get("about"), rest]))
    block = {"columns": columns, "rows": [list(row) for row in cells]}
    if links:
        block["links"] = {wanted[name]: kind for name, kind in links.items()}
    return _block("table", head, **block)


def filled(
    rows: Rows, names: Mapping[str, str], said: Mapping[str, str], **head: Unpack[Head]
) -> Block:
    """Return the columns of a table that something stands in.

    Args:
        rows: the table; it need not have every column.
        names: columns in their order, with what they are called.
        said: what a column is.
        head: title, about and source.
    """
    there = {
        name: label
        for name, label in names.items()
        if any(v not in (None, "") for v in rows.columns.get(name, []))
    }
    known = {name: words for name, words in said.items() if name in there}
    return table(rows, names=there, said=known, **head)


def series(
    name: str,
    x: Sequence[Any],
    y: Sequence[Any],
    low: Sequence[Any] | None = None,
    high: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """Return one line of a drawing, with the ends of its interval where it has one.

    Raises:
        ConfigError: lists differ in length, or only one end is given.
    """
    if (low is None) != (high is None):
        raise ConfigError(f"An interval has two ends; the line `{name}` has one.")
    ends = {} if low is None or high is None else {"low": list(low), "high": list(high)}
    if not any(one is not None for one in (*ends.get("low", ()), *ends.get("high", ()))):
        ends = {}
    found = {"x": list(x), "y": list(y)} | ends
    _one_length(found)
    return {"name": name} | found


def lines(drawn: Iterable[Mapping[str, Any]], *, x: Axis, y: Axis, **head: Unpack[Head]) -> Block:
    """Return lines, as `series` makes them, over one pair of axes."""
    return _block("lines", head, x=dict(x), y=dict(y), series=[dict(one) for one in drawn])


def bars(labels: Sequence[str], values: Sequence[Any], *, unit: str, **head: Unpack[Head]) -> Block:
    """Return a bar for each label.

    Raises:
        ConfigError: lists differ in length.
    """
    _one_length({"labels": labels, "values": values})
    return _block("bars", head, labels=list(labels), values=list(values), unit=unit)


def dots(
    labels: Sequence[str],
    values: Sequence[Any],
    ends: Sequence[tuple[Any, Any]],
    *,
    unit: str,
    marks: Mapping[str, Sequence[Any]] | None = None,
    **head: Unpack[Head],
) -> Block:
    """Return a dot for each label, with its interval, and marks that it is read by.

    Args:
        labels: of the rows.
        values: None where there is none.
        ends: of each interval; both None where there is none.
        unit: of the values.
        marks: by what they are, as floors, a value for each row.
        head: title, about and source.

    Raises:
        ConfigError: lists differ in length.
    """
    known = {name: list(one) for name, one in (marks or {}).items()}
    known = {name: one for name, one in known.items() if any(v is not None for v in one)}
    _one_length({"labels": labels, "values": values, "ends": ends, **known})
    low, high = [list(column) for column in zip(*ends, strict=True)] if ends else ([], [])
    made = {"labels": list(labels), "values": list(values), "low": low, "high": high}
    listed = [{"name": name, "values": one} for name, one in known.items()]
    return _block("dots", head, **made, unit=unit, marks=listed)


def histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    unit: str,
    log: bool = False,
    **head: Unpack[Head],
) -> Block:
    """Return counts between edges.

    Args:
        edges: one more than counts, rising.
        counts: at least 0.
        unit: of the edges.
        log: counts are drawn on a logarithmic scale.
        head: title, about and source.

    Raises:
        ConfigError: there are not as many as that, or edges do not rise.
    """
    if len(edges) != len(counts) + 1 or any(a >= b for a, b in zip(edges, edges[1:], strict=False)):
        raise ConfigError(
            f"A histogram of {len(counts)} counts needs {len(counts) + 1} rising edges; got "
            f"{len(edges)}."
        )
    made = {"edges": list(edges), "counts": list(counts), "unit": unit}
    return _block("histogram", head, **made, **({"log": True} if log else {}))


def histogram_of(
    values: Iterable[Any], *, unit: str, bins: int = 30, **head: Unpack[Head]
) -> Block:
    """Return the histogram of numbers in bins of one width; those that are not finite left out."""
    known = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        half = abs(low) / 100 or 0.5
        low, high, bins = low - half, high + half, 1
    counts = [0] * bins
    for value in known:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    edges = [low + (high - low) * i / bins for i in range(bins + 1)]
    return histogram(edges, counts, unit=unit, **head)


def scatter(
    x: Sequence[Any],
    y: Sequence[Any],
    latents: Sequence[int],
    *,
    axes: tuple[Axis, Axis],
    **head: Unpack[Head],
) -> Block:
    """Return a point for each latent; one without both numbers is left out.

    Raises:
        ConfigError: lists differ in length.
    """
    _one_length({"x": x, "y": y, "latents": latents})
    points = [[plain(a), plain(b), int(n)] for a, b, n in zip(x, y, latents, strict=True)]
    kept = [one for one in points if one[0] is not None and one[1] is not None]
    return _block("scatter", head, x=dict(axes[0]), y=dict(axes[1]), points=kept)


def heatmap(
    x: Sequence[Any],
    y: Sequence[Any],
    values: Sequence[Sequence[Any]],
    *,
    unit: str,
    signed: bool = False,
    **head: Unpack[Head],
) -> Block:
    """Return a number for each pair.

    Args:
        x: names of columns.
        y: names of rows.
        values: a row for each of `y`, with a number for each of `x`.
        unit: of the numbers.
        signed: they have a middle, 0, and two directions from it.
        head: title, about and source.

    Raises:
        ConfigError: there are not as many numbers as that.
    """
    if len(values) != len(y) or any(len(row) != len(x) for row in values):
        raise ConfigError(
            f"A heatmap of {len(y)} rows and {len(x)} columns needs as many numbers; got "
            f"{len(values)} rows of {sorted({len(row) for row in values})}."
        )
    made = {"x": list(x), "y": list(y), "values": [list(row) for row in values], "unit": unit}
    return _block("heatmap", head, **made, **({"signed": True} if signed else {}))


def channel(
    name: str,
    values: Sequence[Any],
    *,
    unit: str,
    at: Sequence[int] | None = None,
    signed: bool = False,
) -> dict[str, Any]:
    """Return numbers of tokens of a strip.

    Args:
        name: what the numbers are.
        values: of the tokens `at`.
        unit: of the numbers.
        at: places in the strip; None: its first tokens.
        signed: they have two directions from 0.

    Raises:
        ConfigError: lists differ in length.
    """
    places = list(range(len(values))) if at is None else list(at)
    _one_length({"at": places, "values": values})
    made = {"name": name, "unit": unit, "at": places, "values": list(values)}
    return made | ({"signed": True} if signed else {})


def strip(
    tokens: Sequence[str],
    channels: Iterable[Mapping[str, Any]],
    *,
    peak: int | None = None,
    **head: Unpack[Head],
) -> Block:
    """Return a text whose tokens are tinted by channels of numbers.

    Args:
        tokens: the text of each.
        channels: as `channel` makes them; the first one tints, the others can be chosen.
        peak: place of the token that the strip is about.
        head: title, about and source.

    Raises:
        ConfigError: a place is outside the text.
    """
    drawn = [dict(one) for one in channels]
    places = {place for one in drawn for place in one["at"]}
    places |= set() if peak is None else {peak}
    if outside := sorted(p for p in places if not 0 <= p < len(tokens)):
        raise ConfigError(f"A strip of {len(tokens)} tokens has no token {outside[0]}.")
    strings = list(dict.fromkeys(tokens))
    number = {word: i for i, word in enumerate(strings)}
    made = {"strings": strings, "tokens": [number[word] for word in tokens], "channels": drawn}
    return _block("strip", head, **made, **({} if peak is None else {"peak": peak}))


def image(src: str, alt: str, **head: Unpack[Head]) -> Block:
    """Return a picture that is in the page itself.

    Raises:
        ConfigError: `src` is an address and not the picture.
    """
    if not src.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")):
        raise ConfigError(
            f"A picture of a page is a data: address of a PNG or JPEG; got {src[:40]!r}."
        )
    return _block("image", head, src=src, alt=alt)


def texts(found: Iterable[tuple[str, str | None, str]], **head: Unpack[Head]) -> Block:
    """Return texts, each with a mark ("hit", "miss" or None) and a note.

    Raises:
        ConfigError: there is no such mark.
    """
    listed = []
    for words, mark, note in found:
        _known("mark", {mark} - {None}, MARKS)
        said = {"mark": mark, "note": note}
        listed.append({"text": words} | {key: one for key, one in said.items() if one})
    return _block("texts", head, texts=listed)


def plain(value: Any) -> Any:
    """Return a value as JSON has it: what is not finite is null, half of a pair a question mark.

    Raises:
        ConfigError: JSON has no word for it.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):  # a number or an array of numpy, a tensor
        return plain(value.tolist())
    raise ConfigError(f"A block holds text, numbers and lists of them; got {type(value).__name__}.")


def _block(kind: str, head: Mapping[str, Any], **content: Any) -> Block:
    _known("part of the head of a block", head, Head.__annotations__)
    made = plain({"kind": kind} | {key: one for key, one in head.items() if one} | content)
    if (cells := _cells(made)) > MOST_CELLS:
        raise ConfigError(
            f"A block of kind `{kind}` holds {cells:,} values; at most {MOST_CELLS:,} are drawn. "
            f"Show a part of them."
        )
    return made


def _cells(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_cells, value.values()))
    return sum(map(_cells, value)) if isinstance(value, list) else 1


def _one_length(lists: Mapping[str, Sequence[Any]]) -> None:
    lengths = {name: len(one) for name, one in lists.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise ConfigError(f"Lists of a block must be of one length; got {said}.")


def _known(what: str, names: Iterable[Any], there: Iterable[str]) -> None:
    allowed = list(there)
    if unknown := sorted(str(n) for n in set(names) - set(allowed)):
        raise ConfigError(f"There is no {what} `{unknown[0]}`; there are {', '.join(allowed)}.")
