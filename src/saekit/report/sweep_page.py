"""One HTML file of a sweep: every SAE a row of one table, and a page each to go on to."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from saekit.core.border import bordered
from saekit.core.files import read_json, replace_with
from saekit.core.result import Result, Score
from saekit.report.bare_page import assembled, check
from saekit.report.bare_page import escaped as _e
from saekit.report.bundle import web_file

SWEEP = "sweep.json"  # what makes a folder that of a sweep
SCORES = {
    "fvu": "FVU",
    "l0": "L0",
    "ce_rise": "CE rise",
    "ce_recovered_zero": "CE recovered (zero)",
    "kl": "KL",
    "dead": "Dead",
}
SETTINGS = 6  # settings shown as columns at most
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 480, 280, 56, 40, 12  # of the drawing, pixels


@bordered("a sweep")
def write_sweep_page(
    folder: Path, out: Path, results: Mapping[str, Result | None], pages: Mapping[str, Path]
) -> Path:
    """Write one self-contained HTML page of a sweep and return its path.

    Args:
        folder: the sweep's.
        out: the file to write; replaced where it exists.
        results: of the core evaluation by name of the run; None where there is none.
        pages: of single runs, by name; linked from beside the page.

    Raises:
        FormatError: the folder's sweep.json is damaged.
        ConfigError: `out` does not end in .html.
    """
    check(out)
    runs = read_json(folder / SWEEP)["runs"]
    varied = varied_settings(runs)
    body = "\n".join(
        [_head(folder, runs, results), _table(out, varied, results, pages), _drawing(results)]
    )
    page = assembled(
        f"Sweep: {folder.resolve().name}",
        f"<main>\n{body}\n</main>",
        web_file("app.css"),
        head='<meta name="color-scheme" content="light dark">\n',
    )
    replace_with(out, page.encode("utf-8", "backslashreplace"))
    return out


def varied_settings(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return, by run, the settings in which the runs of a sweep differ."""
    flat = {name: dict(_leaves(run)) for name, run in runs.items()}
    keys = list(dict.fromkeys(key for one in flat.values() for key in one))
    found = [k for k in keys if len({str(one.get(k)) for one in flat.values()}) > 1]
    return {name: {k: one.get(k) for k in found} for name, one in flat.items()}


def _leaves(value: Any, at: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [x for k, v in value.items() for x in _leaves(v, f"{at}.{k}" if at else str(k))]
    return [(at, "+".join(map(str, value)) if isinstance(value, list) else value)]


def _head(folder: Path, runs: Mapping[str, Any], results: Mapping[str, Result | None]) -> str:
    first = next(iter(runs.values()))
    facts = {"model": first.get("model"), "SAEs": len(runs)}
    facts |= {"evaluated": sum(r is not None for r in results.values())}
    facts |= {"text": " and ".join(splits)} if (splits := _splits(results)) else {}
    listed = "".join(f"<span><b>{_e(k)}</b> {_e(v)}</span>" for k, v in facts.items())
    missing = [name for name, r in results.items() if r is None]
    note = ""
    if missing:
        note = (
            f'<p class="missing">Without an evaluation: {_e(", ".join(missing))}. Make it with '
            f"<code>{_e(f'saekit eval {shlex.quote(str(folder))}')}</code></p>"
        )
    name = _e(folder.resolve().name)
    return f'<header><h1>Sweep {name}</h1><p class="facts">{listed}</p>{note}</header>'


def _splits(results: Mapping[str, Result | None]) -> list[str]:
    """Return the parts of the text that scores are of, where they say it."""
    said = (r.provenance.get("split") for r in results.values() if r is not None)
    return sorted({str(one) for one in said if one is not None})


def _table(
    out: Path,
    varied: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, Result | None],
    pages: Mapping[str, Path],
) -> str:
    settings = list(next(iter(varied.values())))[:SETTINGS]
    scores = [n for n in SCORES if any(r and n in r.scores for r in results.values())]
    head = ["SAE", *(s.removeprefix("sae.") for s in settings), *(SCORES[n] for n in scores)]
    rows = []
    for name, result in results.items():
        label = _e(name)
        if name in pages:
            place = os.path.relpath(pages[name].resolve(), out.resolve().parent)
            label = f'<a href="{_e(quote(place))}">{label}</a>'
        cells = [label, *(_e(_plain(varied[name][s])) for s in settings)]
        cells += [_cell(result.scores.get(n) if result else None) for n in scores]
        rows.append("<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    top = "".join(f"<th>{_e(h)}</th>" for h in head)
    return (
        f'<section id="table"><h2>Every SAE</h2><p>On held-out text, with 95 % intervals. '
        f"Columns before the scores are the settings that differ.</p>"
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{"".join(rows)}</tbody>'
        f"</table></div></section>"
    )


def _plain(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _cell(score: Score | None) -> str:
    if score is None or score.value is None:
        return "–"
    interval = ""
    if score.low is not None and score.high is not None:
        interval = f"<br><small>{score.low:.4g} to {score.high:.4g}</small>"
    return f'<span class="number">{score.value:.4g}{interval}</span>'


def _drawing(results: Mapping[str, Result | None]) -> str:
    """Return FVU against L0, a point an SAE with the interval of its FVU."""
    points = [
        (name, r.scores["l0"].value, r.scores["fvu"])
        for name, r in results.items()
        if r and "l0" in r.scores and "fvu" in r.scores
    ]
    known = [(n, x, s) for n, x, s in points if x is not None and s.value is not None]
    if not known:
        return ""
    x_at = _axis([x for _, x, _ in known], LEFT, WIDTH - 20)
    ends = [e for _, _, s in known for e in (s.value, s.low, s.high) if e is not None]
    y_at = _axis(ends, HEIGHT - BOTTOM, TOP)
    marks = []
    for name, x, score in known:
        at = x_at(x)
        title = f"<title>{_e(name)}: L0 {x:.4g}, FVU {_e(score.text())}</title>"
        if score.low is not None and score.high is not None:
            low, high = y_at(score.low), y_at(score.high)
            marks.append(f'<path class="axis" d="M{at:.1f} {low:.1f}V{high:.1f}"/>')
        marks.append(
            f'<circle class="dot-0" cx="{at:.1f}" cy="{y_at(score.value):.1f}" r="5">'
            f"{title}</circle>"
        )
    xs, ys = [x for _, x, _ in known], ends
    labels = [
        *_ticks(
            xs,
            lambda v: (
                f'<text x="{x_at(v):.1f}" y="{HEIGHT - BOTTOM + 16}" '
                f'text-anchor="middle">{v:.4g}</text>'
            ),
        ),
        *_ticks(
            ys,
            lambda v: (
                f'<text x="{LEFT - 6}" y="{y_at(v) + 4:.1f}" text-anchor="end">{v:.3g}</text>'
            ),
        ),
        f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">latents per token '
        f"(L0)</text>",
        f'<text x="4" y="{TOP + 4}">FVU</text>',
        f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH}"/>',
    ]
    return (
        f'<section id="front"><h2>Error against sparsity</h2><p>Lower and further left is better; '
        f"a line is the 95 % interval of FVU.</p>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
        f'aria-label="FVU against L0">{"".join(labels + marks)}</svg></section>'
    )


def _axis(values: Sequence[float], first: float, last: float) -> Any:
    low, high = min(values), max(values)
    pad = 0.08 * (high - low) or max(abs(high), 1e-9) * 0.1
    low, high = low - pad, high + pad
    return lambda value: first + (value - low) / (high - low) * (last - first)


def _ticks(values: Sequence[float], draw: Any) -> list[str]:
    low, high = min(values), max(values)
    steps = 4 if high > low else 0
    return [draw(low + (high - low) * i / max(steps, 1)) for i in range(steps + 1)]
