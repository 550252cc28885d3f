"""Blocks of a page as figures for print, one function a kind: what a page draws, a paper can have.

Lines differ in dash and mark as well as in colour, and shades rise in lightness alone, so that a
figure is read in grey and by the colour-blind. Nothing is written above a figure: captions say it.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from saekit.core.result import Table
from saekit.report import style
from saekit.report.blocks import Block

WIDTHS = {"": 3.25, "-wide": 6.75}  # inches: of one column of a page, and of both
MARKS, DASHES = "os^Dv<>", ("-", "--", "-.", ":")
SHADES = "cividis"
MOST_LABELS, SOME_LABELS = 40, 12  # rows that are all named; names of more than these
MOST_POINTS = 5_000  # that stay vectors
_PRINT: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.use14corefonts": False,
}


def draws(block: Block) -> bool:
    """Tell whether a block can be a figure, and has something to draw."""
    return block["kind"] in _DRAW and bool(numbers(block))


def draw(block: Block, stem: Path, suffix: str = ".pdf") -> list[Path]:
    """Draw a block for one column of a page and for both, with its numbers as CSV.

    Args:
        block: of a kind that `draws`.
        stem: of the files, without ending.
        suffix: of the figures.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    style.check(suffix)
    made = []
    for name, width in WIDTHS.items():
        with _printed():
            figure, axes = style.new(width, _height(block, width))
            _DRAW[block["kind"]](axes[0][0], block)
            made.append(stem.with_name(f"{stem.name}{name}{suffix}"))
            style.save(figure, made[-1])
    numbers(block).write_csv(stem.with_suffix(".csv"))
    return made


@contextlib.contextmanager
def _printed() -> Iterator[None]:
    """A context in which figures have the sizes of print."""
    import matplotlib

    with matplotlib.rc_context(_PRINT):
        yield


def _height(block: Block, width: float) -> float:
    rows = {"bars": "labels", "dots": "labels", "heatmap": "y"}.get(block["kind"])
    usual = 0.68 * width if width < 4 else 0.42 * width
    if rows is None or len(block[rows]) > MOST_LABELS:
        return usual if rows is None else 3.5
    return max(1.4, 0.75 + 0.16 * len(block[rows]))


def numbers(block: Block) -> Table:
    """Return what the marks of a figure stand for, one row a mark."""
    kind = block["kind"]
    if kind == "lines":
        names = ("series", "x", "y", "low", "high")
        found = [
            (s["name"], *row)
            for s in block["series"]
            for row in zip(
                s["x"], s["y"], *(s.get(e) or _none(s["x"]) for e in names[3:]), strict=True
            )
            if row[0] is not None and row[1] is not None
        ]
        return _table(names, found, {"x": _label(block["x"]), "y": _label(block["y"])})
    if kind == "bars":
        found = zip(block["labels"], block["values"], strict=True)
        return _table(("label", "value"), found, {"value": block["unit"]})
    if kind == "dots":
        marks = {one["name"]: one["values"] for one in block["marks"]}
        names = ("label", "value", "low", "high", *marks)
        found = zip(
            *(block[f"{n}s" if n in names[:2] else n] for n in names[:4]),
            *marks.values(),
            strict=True,
        )
        return _table(names, found, {"value": block["unit"]})
    if kind == "histogram":
        edges = block["edges"]
        found = zip(edges, edges[1:], block["counts"], strict=False)
        return _table(("from", "to", "count"), found, {"from": block["unit"], "to": block["unit"]})
    if kind == "scatter":
        names = ("x", "y", "latent")
        units = {"x": _label(block["x"]), "y": _label(block["y"])}
        return _table(names, block["points"], units)
    rows = zip(block["y"], block["values"], strict=True)
    found = [(x, y, v) for y, row in rows for x, v in zip(block["x"], row, strict=True)]
    return _table(("x", "y", "value"), found, {"value": block["unit"]})


def _none(values: list[Any]) -> list[None]:
    return [None] * len(values)


def _table(names: tuple[str, ...], rows: Any, units: Mapping[str, str]) -> Table:
    listed = [list(row) for row in rows]
    columns = {name: [row[i] for row in listed] for i, name in enumerate(names)}
    return Table(columns=columns, units={k: v for k, v in units.items() if v})


def _label(axis: Mapping[str, Any]) -> str:
    return str(axis.get("label", ""))


def _axes(at: Any, block: Block) -> None:
    for name, set_label, set_scale in (
        ("x", at.set_xlabel, at.set_xscale),
        ("y", at.set_ylabel, at.set_yscale),
    ):
        axis = block[name]
        set_label(_label(axis))
        if axis.get("log"):
            set_scale("log")


def _lines(at: Any, block: Block) -> None:
    drawn = [one for one in block["series"] if one["x"]]
    marked = max(len(one["x"]) for one in drawn) <= 30
    for i, one in enumerate(drawn):
        colour = style.COLOURS[i % len(style.COLOURS)]
        look = {"color": colour, "linestyle": DASHES[i % len(DASHES)], "label": one["name"]}
        if marked:
            look["marker"] = MARKS[i % len(MARKS)]
        x, y, low, high = _known(one)
        at.plot(x, y, **look)
        if low and marked:
            at.vlines(x, low, high, color=colour, linewidth=0.8)
        elif low:
            at.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    _axes(at, block)
    if len(drawn) > 1:
        at.legend(frameon=False)


def _known(one: Mapping[str, Any]) -> tuple[list[Any], ...]:
    """Return the points of a line that have both numbers; a missing end is the value itself."""
    n = len(one["x"])
    ends = [one.get(end) or [None] * n for end in ("low", "high")]
    rows = [r for r in zip(one["x"], one["y"], *ends, strict=True) if None not in r[:2]]
    has = any(r[2] is not None for r in rows)
    low, high = ([r[1] if r[k] is None else r[k] for r in rows] if has else [] for k in (2, 3))
    return [r[0] for r in rows], [r[1] for r in rows], low, high


def _bars(at: Any, block: Block) -> None:
    rows = [r for r in zip(block["labels"], block["values"], strict=True) if r[1] is not None]
    rows = rows[:MOST_LABELS]
    places = range(len(rows))
    at.barh(places, [v for _, v in rows], color="#b0b0b0", edgecolor="black", linewidth=0.6)
    _rows(at, [str(name) for name, _ in rows], block["unit"])


def _dots(at: Any, block: Block) -> None:
    places = range(len(block["labels"][:MOST_LABELS]))
    for i in places:
        value, low, high = (block[name][i] for name in ("values", "low", "high"))
        if low is not None and high is not None:
            at.hlines(i, low, high, color="black", linewidth=0.9)
        if value is not None:
            at.plot([value], [i], "o", color="black")
    for j, one in enumerate(block["marks"]):
        known = [(v, i) for i, v in zip(places, one["values"], strict=False) if v is not None]
        at.plot(
            [v for v, _ in known],
            [i for _, i in known],
            linestyle="none",
            marker="sDv^<>"[j % 6],
            markerfacecolor="none",
            color=style.COLOURS[j % len(style.COLOURS)],
            label=one["name"],
        )
    _rows(at, [str(name) for name in block["labels"][:MOST_LABELS]], block["unit"])
    if block["marks"]:
        at.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=3)


def _rows(at: Any, labels: list[str], unit: str) -> None:
    """Name the rows of a figure, the first at the top."""
    at.set_yticks(range(len(labels)), [_short(label) for label in labels])
    at.set_ylim(len(labels) - 0.4, -0.6)
    at.set_xlabel(unit)


def _short(label: str) -> str:
    return label if len(label) <= 32 else f"{label[:15]}…{label[-16:]}"


def _histogram(at: Any, block: Block) -> None:
    edges = block["edges"]
    widths = [b - a for a, b in zip(edges, edges[1:], strict=False)]
    at.bar(
        edges[:-1],
        block["counts"],
        widths,
        align="edge",
        color="#b0b0b0",
        edgecolor="black",
        linewidth=0.3,
    )
    if edges[0] > 0 and edges[-1] / edges[0] > 1000:
        at.set_xscale("log")
    if block.get("log"):
        at.set_yscale("log")
    at.set(xlabel=block["unit"], ylabel="count")


def _scatter(at: Any, block: Block) -> None:
    points = block["points"]
    at.plot(
        [p[0] for p in points],
        [p[1] for p in points],
        linestyle="none",
        marker=".",
        markersize=2,
        color="black",
        alpha=0.5,
        rasterized=len(points) > MOST_POINTS,
    )
    _axes(at, block)


def _heatmap(at: Any, block: Block) -> None:
    values = [[float("nan") if v is None else v for v in row] for row in block["values"]]
    known = [v for row in values for v in row if v == v]
    most = max(map(abs, known), default=1.0) or 1.0
    ends = {"vmin": -most, "vmax": most} if block.get("signed") else {}
    shown = at.imshow(values, aspect="auto", cmap=SHADES, interpolation="none", **ends)
    _ticks(at.set_xticks, block["x"], rotation=45 if len(block["x"]) > 4 else 0)
    _ticks(at.set_yticks, block["y"])
    at.get_figure().colorbar(shown, ax=at, label=block["unit"])
    for side in at.spines.values():
        side.set_visible(False)


def _ticks(put: Callable[..., Any], labels: list[Any], rotation: int = 0) -> None:
    step = 1 if len(labels) <= MOST_LABELS else -(-len(labels) // SOME_LABELS)
    places = list(range(0, len(labels), step))
    how = {"rotation": rotation, "ha": "right"} if rotation else {}
    put(places, [_short(str(labels[i])) for i in places], **how)


_DRAW: dict[str, Callable[[Any, Block], None]] = {
    "lines": _lines,
    "bars": _bars,
    "dots": _dots,
    "histogram": _histogram,
    "scatter": _scatter,
    "heatmap": _heatmap,
}
