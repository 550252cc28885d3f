"""HTML that a notebook shows of an object: one piece, no script, nothing from elsewhere.

Viewers of saved notebooks may drop scripts and take the style of one output for the next: what is
here needs none, and its rules hold within `ROOT` alone. All text is escaped.
"""

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from saekit.core.text import printable

ROOT = "saekit-out"
_STYLE = """
.saekit-out { font: 13px/1.5 system-ui, sans-serif; max-width: 60em; }
.saekit-out h4 { margin: .2em 0 .4em; font-size: 1.15em; font-weight: 600; }
.saekit-out h5 { margin: .8em 0 .2em; font-size: 1em; font-weight: 600; }
.saekit-out table { border-collapse: collapse; margin: 0; font-size: 1em; }
.saekit-out td, .saekit-out th { text-align: left; padding: .1em 1em .1em 0; border: 0;
  vertical-align: top; background: none; }
.saekit-out th { font-weight: 600; }
.saekit-out .t { unicode-bidi: isolate; white-space: pre-wrap; border-radius: 2px; }
.saekit-out .r { margin: .15em 0; overflow-wrap: anywhere; }
.saekit-out .n { opacity: .7; font-variant-numeric: tabular-nums; }
.saekit-out .off { opacity: .5; }
.saekit-out svg { display: block; }
"""
# Characters that show nothing or move what is around them; controls are spelled out by `printable`.
_HIDDEN = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2028\u2029"
    "\u2060-\u2065\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\ue000-\uf8ff]"
)
LONGEST = 200  # characters of a token that are shown
TINT = "245, 158, 11"


def escaped(text: Any) -> str:
    """Return text as it stands in HTML, also in an attribute; half of a pair of surrogates too."""
    return html.escape(str(text).encode("utf-8", "backslashreplace").decode(), quote=True)


def visible(token: str) -> str:
    r"""Return a token as a reader can see it: ``⏎`` for a line's end, ``\x00`` for a control."""
    token = token.encode("utf-8", "backslashreplace").decode()
    text = printable(token.replace("\n", "⏎").replace("\t", "⇥"))
    text = _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def number(value: Any) -> str:
    """Return a number with four digits; a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def page(title: str, *parts: str) -> str:
    """Return parts of HTML under a title, with their style."""
    body = "\n".join(filter(None, parts))
    return f'<div class="{ROOT}"><style>{_STYLE}</style><h4>{escaped(title)}</h4>\n{body}</div>'


def section(title: str, body: str) -> str:
    """Return a part with a heading; nothing where it is empty."""
    return f"<h5>{escaped(title)}</h5>\n{body}" if body else ""


def facts(found: Mapping[str, Any]) -> str:
    """Return labels with their values, a row each; those without a value are left out."""
    rows = [
        f"<tr><th>{escaped(label)}</th><td>{escaped(number(value))}</td></tr>"
        for label, value in found.items()
        if value not in (None, "")
    ]
    return f"<table>{''.join(rows)}</table>" if rows else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table.

    Args:
        head: names of columns.
        rows: cells that are HTML already.
    """
    top = "".join(f"<th>{escaped(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def token(text: str, strength: float = 0.0, title: str = "") -> str:
    """Return a token, tinted.

    Args:
        text: of it.
        strength: 0 to 1.
        title: what pointing at it says.
    """
    share = min(1.0, max(0.0, strength if math.isfinite(strength) else 0.0))
    tint = f' style="background: rgba({TINT}, {share:.2f})"' if share else ""
    said = f' title="{escaped(title)}"' if title else ""
    return f'<span class="t"{tint}{said}>{escaped(visible(text))}</span>'


def histogram(edges: Sequence[float], counts: Sequence[int], unit: str) -> str:
    """Return a histogram as a drawing; heights are logarithms, and its words say the numbers."""
    if not counts or not any(counts):
        return ""
    width, height, n = 320, 60, len(counts)
    most = math.log1p(max(counts))
    bars = []
    for i, count in enumerate(counts):
        tall = height * math.log1p(count) / most
        place = f'x="{i * width / n:.1f}" y="{height - tall:.1f}"'
        size = f'width="{max(width / n - 1, 0.5):.1f}" height="{tall:.1f}"'
        said = f"{number(edges[i])} to {number(edges[i + 1])}: {count:,}"
        bars.append(f'<rect {place} {size} fill="#3b6fd4"><title>{escaped(said)}</title></rect>')
    label = (
        f"histogram from {number(edges[0])} to {number(edges[-1])} {unit}, counts on a log scale"
    )
    drawing = (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escaped(label)}">{"".join(bars)}</svg>'
    )
    ends = f"{number(edges[0])} to {number(edges[-1])} {unit}"
    return f'{drawing}<div class="n">{escaped(ends)}</div>'
