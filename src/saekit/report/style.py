"""How a figure is made and kept: vector or pixels by suffix, with the numbers it drew beside it.

Only this file knows matplotlib. A figure is the same file when it is drawn again.
"""

import importlib.util
import io
from pathlib import Path
from typing import Any

from saekit.core.errors import ConfigError, MissingExtraError
from saekit.core.files import replace_with
from saekit.core.result import Table

SUFFIXES = (".svg", ".pdf", ".png")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "os^Dv<>"
_PLAIN = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {"Software": None}}


def check(suffix: str = SUFFIXES[0]) -> None:
    """Refuse, before any work, where figures cannot be drawn.

    Args:
        suffix: of the figures.

    Raises:
        ConfigError: it is none of `SUFFIXES`.
        MissingExtraError: matplotlib is not installed.
    """
    if suffix not in SUFFIXES:
        raise ConfigError(
            f"A figure is a file ending in one of {', '.join(SUFFIXES)}; got {suffix!r}."
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "figures")


def new(width: float, height: float, rows: int = 1, columns: int = 1, **kwargs: Any):
    """Return an empty figure and its axes, ``[rows, columns]``.

    Args:
        width: inches.
        height: inches.
        rows: of axes.
        columns: of axes.
        kwargs: to `Figure.subplots`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "figures") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def save(figure: Any, path: Path, drawn: Table | None = None) -> None:
    """Write the figure, and the numbers in it under the same name with the suffix ``.csv``.

    Args:
        figure: from `new`.
        path: ends in one of `SUFFIXES`.
        drawn: what the marks stand for, one row a mark; None where a caller has written them.

    Raises:
        ConfigError: `path` ends in something else.
        ResourceError: the disk is full or refuses the file; what was there before is as it was.
    """
    import matplotlib

    if path.suffix not in SUFFIXES:
        raise ConfigError(
            f"A figure is a file ending in one of {', '.join(SUFFIXES)}; got {path.name!r}."
        )
    _keep_dollars(figure)
    drawing = io.BytesIO()
    # Type 42: whole TrueType outlines, which editors of figures and publishers ask for.
    with matplotlib.rc_context({"svg.hashsalt": "saekit", "pdf.fonttype": 42}):
        figure.savefig(drawing, format=path.suffix[1:], metadata=_PLAIN[path.suffix], dpi=150)
    replace_with(path, drawing.getvalue())
    if drawn is not None:
        drawn.write_csv(path.with_suffix(".csv"))


def _keep_dollars(figure: Any) -> None:
    """Draw dollar signs of tokens and names as they are, where matplotlib would read formulas.

    Its own labels of logarithmic axes are formulas and stay so.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if not text.get_text().startswith("$\\mathdefault"):
            text.set_parse_math(False)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            own = type(axis.get_major_formatter()).__name__ in ("FixedFormatter", "FuncFormatter")
            for label in axis.get_ticklabels():  # makes those that are not made yet
                label.set_parse_math(not own)


def with_better(said: str, better: str) -> str:
    """Return what an axis says, its unit or its score, and which end of it is better."""
    return said if better == "neither" else f"{said}; {better} is better"


def layer_label(site: str) -> str:
    """Return a short label of a site: its layer where it is a residual output, else its name."""
    head, _, point = site.partition(".")
    return head.removeprefix("L") if point == "resid_post" else site
