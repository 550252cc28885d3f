"""Tables for LaTeX: text escaped, values rounded to the digits that their intervals support."""

import math
import re
from typing import Any

from saekit.core.result import Table
from saekit.core.text import printable

MOST_ROWS = 40  # of a table that is printed; the CSV has all
MOST_COLUMNS = 7  # above which a table is made narrower in main.tex
_ESCAPED = {
    "\\": r"\textbackslash{}",
    **{char: f"\\{char}" for char in "{}$&#_%"},
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "≠": r"$\ne$",
    "≈": r"$\approx$",
    "→": r"$\to$",
    "·": r"$\cdot$",
    "²": r"$^2$",
    "³": r"$^3$",
    "µ": r"$\mu$",
    "Δ": r"$\Delta$",
    "°": r"$^\circ$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
}


def escaped(text: Any) -> str:
    r"""Return text as LaTeX prints it, on one line.

    Letters of Latin stay; of any other script, which fonts of papers lack, the code is printed, as
    ``U+4E2D``.
    """
    flat = " ".join(printable(str(text)).split())
    return "".join(_letter(char) for char in flat)


def _letter(char: str) -> str:
    if char in _ESCAPED:
        return _ESCAPED[char]
    return char if ord(char) < 0x180 else f"\\texttt{{U+{ord(char):04X}}}"


def decimals(low: float, high: float) -> int | None:
    """Return the decimal places that an interval supports: two digits of its half-width.

    None where the interval has no width.
    """
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return None
    return 1 - math.floor(math.log10(float(f"{half:.2g}")))


def number(value: Any, places: int | None = None) -> str:
    """Return a number as LaTeX prints it.

    Args:
        value: bool, int, float or None; text is escaped.
        places: decimal places, negative to round before the point; None: three digits, and an int
            as it is.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "--"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return escaped(value)
    if places is not None:
        return _signed(f"{round(value, places):,.{max(places, 0)}f}")
    if isinstance(value, int):
        return _signed(f"{value:,}" if abs(value) >= 10_000 else str(value))
    head, _, power = f"{value:.3g}".partition("e")
    if power and -5 < int(power) < 7:
        return _signed(f"{float(f'{value:.3g}'):,.0f}")
    return f"${head}\\times10^{{{int(power)}}}$" if power else _signed(head)


def _signed(digits: str) -> str:
    return f"$-${digits[1:]}" if digits.startswith("-") else digits


def measured(value: Any, low: Any, high: Any) -> str:
    """Return a value with its interval, each rounded to the digits that the interval supports."""
    ends = [v for v in (low, high) if isinstance(v, int | float) and math.isfinite(v)]
    if len(ends) < 2 or not isinstance(value, int | float) or not math.isfinite(value):
        return number(value)
    places = decimals(low, high)
    if places is None:
        return number(value)
    return f"{number(value, places)} [{number(low, places)}, {number(high, places)}]"


def with_intervals(names: list[str], rows: list[list[Any]]) -> tuple[list[str], list[list[str]]]:
    """Return columns and cells for LaTeX, with the ends of intervals next to their values.

    The columns "NAME low" and "NAME high" belong to the column NAME, "low" and "high" to the column
    in front of them.

    Args:
        names: of the columns.
        rows: of cells.
    """
    ends: dict[int, tuple[int, int]] = {}
    for i, name in enumerate(names):
        stem = re.fullmatch(r"(.*?)[ _]?low", name)
        if stem is None or (other := name[: -len("low")] + "high") not in names:
            continue
        owner = names.index(stem[1]) if stem[1] in names else i - 1
        if (stem[1] in names or not stem[1]) and owner >= 0:
            ends[owner] = (i, names.index(other))
    gone = {place for pair in ends.values() for place in pair}
    kept = [i for i in range(len(names)) if i not in gone]
    has = {i for i, (low, _) in ends.items() if any(row[low] is not None for row in rows)}
    heads = [names[i] + (" [95 % interval]" if i in has else "") for i in kept]
    cells = [
        [
            measured(row[i], row[ends[i][0]], row[ends[i][1]]) if i in ends else number(row[i])
            for i in kept
        ]
        for row in rows
    ]
    return [escaped(head) for head in heads], cells


def tabular(table: Table, *, csv: str, plain: tuple[str, ...] = ()) -> str:
    r"""Return a table as a file to ``\input``: a tabular with rules of booktabs.

    Args:
        table: its columns are named as they are printed.
        csv: name of the file with all rows, said where some are left out.
        plain: columns of numbers that count nothing, as those of latents.
    """
    names = list(table.columns)
    rows = [list(row) for row in zip(*table.columns.values(), strict=True)]
    for i, name in enumerate(names):
        if name in plain:
            rows = [
                [*row[:i], None if row[i] is None else str(row[i]), *row[i + 1 :]] for row in rows
            ]
    heads, cells = with_intervals(names, rows[:MOST_ROWS])
    places = [next((j for j, n in enumerate(names) if h.startswith(escaped(n))), 0) for h in heads]
    sides = "".join("r" if _is_numeric(table, names[j]) else "l" for j in places)
    units = [table.units.get(names[j], "") for j in places]
    lines = [f"\\begin{{tabular}}{{{sides}}}", "\\toprule", _begun(" & ".join(heads)) + r" \\"]
    if any(units):
        lines.append(" & ".join(f"({escaped(u)})" if u else "" for u in units) + r" \\")
    lines += ["\\midrule", *(_begun(" & ".join(row)) + r" \\" for row in cells)]
    if (rest := len(rows) - MOST_ROWS) > 0:
        said = f"and {rest:,} more rows in {csv}"
        lines += ["\\midrule", f"\\multicolumn{{{len(heads)}}}{{l}}{{{escaped(said)}}} \\\\"]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _begun(row: str) -> str:
    r"""Return a row that the ``\\`` before it does not take for a space to leave, or a star."""
    return f"{{}}{row}" if row.lstrip().startswith(("[", "*")) else row


def _is_numeric(table: Table, name: str) -> bool:
    known = [v for v in table.columns[name] if v is not None]
    return bool(known) and all(isinstance(v, int | float) for v in known)
