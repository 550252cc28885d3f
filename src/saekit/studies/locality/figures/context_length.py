"""Entropy against context length: all latents, those active at every length, and some by name."""

from pathlib import Path
from typing import Any

import numpy as np

from saekit.core.errors import FormatError
from saekit.core.result import Result, Table
from saekit.data import table_files
from saekit.report import style
from saekit.studies.locality.runs.strongest import most_active_first

TOP, MOST_GREY, SHOWN_TOKENS, LINE_CHARS = 10, 200, 64, 130
MOST_CODE = 0x250  # the font of figures has all letters below; others are drawn as a box
LINES = {
    "entropy_bits_pooled": ("all active latents", 0),
    "kept_entropy_bits_pooled": ("latents active at every length", 2),
    "token_vector_entropy_bits": ("token vector", 1),
}


def draw(run: Path, path: Path) -> Path:
    """Draw a sweep of `saekit locality context`, with its numbers beside as CSV.

    Raises:
        FormatError: the folder holds no such sweep.
        MissingExtraError: matplotlib is not installed.
    """
    result = Result.read(run / "result.json")
    if result.name != "locality_context_length":
        raise FormatError(f"{run} holds a result of `{result.name}`, not of locality context.")
    table = result.details["by_length"]["columns"]
    figure, axes = style.new(10, 5.2, 2, 2, gridspec_kw={"height_ratios": [4, 1]})
    rows: list[tuple[Any, ...]] = []
    _means(axes[0][0], table, rows)
    _latents(axes[0][1], run, result, rows)
    for at in axes[0]:
        lengths = table["n_ctx"]
        at.plot(lengths, np.log2(lengths), ":", color="#888888", linewidth=1, label="log2 length")
        at.set(xlabel="context (tokens)", ylabel="entropy of influence (bits)", xscale="log")
        shown = _spread(lengths)
        at.set_xticks(shown, [str(n) for n in shown])
        at.minorticks_off()
        at.legend(fontsize=7)
    grid = axes[1][0].get_gridspec()
    for at in axes[1]:
        at.remove()
    _text(figure.add_subplot(grid[1, :]), result)
    windows = result.details["windows"]
    many = f"{windows} windows; bands: 95 % intervals, windows drawn anew"
    figure.suptitle(
        f"{result.details['model']['name']}, {result.details['site']}: latents at the last token "
        "of " + ("one window, so there are no intervals" if windows == 1 else many),
        fontsize=9,
    )
    names = ("mark", "n_ctx", "entropy_bits", "low", "high", "n")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    style.save(figure, path, Table(columns=columns, units={"entropy_bits": "bits"}))
    return path


def _spread(lengths: list[int]) -> list[int]:
    """Return the longest length and those below it whose names do not touch on a log axis."""
    apart = (max(lengths) / min(lengths)) ** 0.09
    shown = [lengths[-1]]
    for n in reversed(lengths):
        if shown[-1] / n >= apart:
            shown.append(n)
    return shown[::-1]


def _means(at: Any, table: dict[str, list[Any]], rows: list[tuple[Any, ...]]) -> None:
    x = table["n_ctx"]
    for name, (label, colour) in LINES.items():
        if name not in table or any(v is None for v in table[name]):
            continue
        of_vector = name.startswith("token")
        n = table["n_kept" if name.startswith("kept") else "n_pairs"]
        low, high = table[f"{name}_low"], table[f"{name}_high"]
        shown = label + ("" if of_vector else f" (n = {_span(n)})")
        at.plot(x, table[name], "o-", markersize=3, color=style.COLOURS[colour], label=shown)
        if all(v is not None for v in [*low, *high]):
            at.fill_between(x, low, high, color=style.COLOURS[colour], alpha=0.2, linewidth=0)
        n = [None] * len(x) if of_vector else n
        rows += [(label, *values) for values in zip(x, table[name], low, high, n, strict=True)]


def _span(n: list[int]) -> str:
    return f"{min(n)}" if min(n) == max(n) else f"{min(n)} to {max(n)}"


def _latents(at: Any, run: Path, result: Result, rows: list[tuple[Any, ...]]) -> None:
    by: dict[tuple[int, int], list[tuple[int, float, float]]] = {}
    for row in table_files.rows(table_files.find(run / "latents")):
        if row["entropy_bits"]:
            key = (int(row["window"]), int(row["latent"]))
            value = (int(row["n_ctx"]), float(row["entropy_bits"]), float(row["activation"]))
            by.setdefault(key, []).append(value)
    order = most_active_first({key: [v[2] for v in values] for key, values in by.items()})
    many, lengths = result.details["windows"] > 1, result.details["lengths"]

    def line(key: tuple[int, int], mark: str, **how: Any) -> None:
        H = {n: bits for n, bits, _ in by[key]}  # a line breaks where the latent is off
        at.plot(lengths, [H.get(n, np.nan) for n in lengths], mark, **how)

    for key in reversed(order[TOP : TOP + MOST_GREY]):
        line(key, ".-", color="#dddddd", linewidth=0.6, markersize=2)
    for i, key in enumerate(order[:TOP]):
        name = f"latent {key[1]}" + (f", window {key[0]}" if many else "")
        line(
            key,
            ".-" if i < len(style.COLOURS) else ".--",
            linewidth=1,
            label=name,
            color=style.COLOURS[i % len(style.COLOURS)],
        )
    at.set_title(f"the {min(TOP, len(order))} most active of {len(order)}, others grey", fontsize=8)
    for key in order[: TOP + MOST_GREY]:
        name = f"latent {key[1]}, window {key[0]}"
        rows += [(name, n, H, None, None, 1) for n, H, _ in by[key]]


def _text(at: Any, result: Result) -> None:
    """Write the last tokens of the first window, the one that latents are taken at in brackets."""
    pieces = result.details["pieces"][0][-SHOWN_TOKENS:]
    text = "".join(pieces[:-1]) + f"[{pieces[-1]}]"
    text = " ".join(text.split())
    plain = "".join(c if ord(c) < MOST_CODE and c.isprintable() else "\u25a1" for c in text)
    plain = plain.replace("$", r"\$")
    lines = [plain[i : i + LINE_CHARS] for i in range(0, len(plain), LINE_CHARS)]
    at.set_axis_off()
    more = result.details["windows"] - 1
    title = f"last {len(pieces)} tokens" + (f" of the first of {more + 1} windows" if more else "")
    at.text(0, 1, title + ":", va="top", fontsize=8, color="#666666", transform=at.transAxes)
    at.text(
        0,
        0.75,
        "\n".join(lines[:4]),
        va="top",
        fontsize=7,
        family="monospace",
        transform=at.transAxes,
    )
