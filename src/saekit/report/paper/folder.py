"""`saekit.paper`: a folder with figures, tables and the numbers of each, for a paper."""

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from saekit.core import parts, provenance
from saekit.core.border import bordered
from saekit.core.errors import ConfigError, SaekitError
from saekit.core.files import read_object, write_json, write_text
from saekit.core.result import Table
from saekit.core.writable import check_writable
from saekit.report import style
from saekit.report.blocks import Block
from saekit.report.origin import origin_of
from saekit.report.paper import drawing, latex
from saekit.report.paper.sources import Source, source_of

MARK = "paper.json"  # what makes a folder one that may be written again
FIGURES, TABLES = "figures", "tables"


class Piece(NamedTuple):
    """A figure or a table of the folder.

    Attributes:
        kind: figure or table.
        name: of its files, without ending.
        caption: what it shows, with its source.
        wide: whether a table needs both columns.
    """

    kind: str
    name: str
    caption: str
    wide: bool = False


class Paper(NamedTuple):
    """What was written.

    Attributes:
        folder: that holds it.
        pieces: figures and tables.
        left_out: blocks that no paper prints, by kind.
    """

    folder: Path
    pieces: list[Piece]
    left_out: dict[str, int]

    def __str__(self) -> str:
        kinds = [one.kind for one in self.pieces]
        counted = [(kinds.count(kind), kind) for kind in ("figure", "table")]
        made = ", ".join(f"{n} {kind}{'' if n == 1 else 's'}" for n, kind in counted)
        return f"paper    {self.folder}: {made}, main.tex, README.md"


@bordered("what a paper is made of")
def paper(source: Path | str, out: Path | str | None = None, *, suffix: str = ".pdf") -> Paper:
    r"""Write a folder for a paper: what the page of a run or a study shows, for print.

    Figures are vectors with TrueType fonts, once for one column and once, `-wide`, for both,
    without titles, readable in grey; each has its numbers next to it as CSV. Tables are files to
    ``\input``, with rules of booktabs; values with an interval are rounded to the digits that it
    supports. ``main.tex`` has all of them, ``README.md`` the commands and versions.

    Args:
        source: a run, a result, a comparison, a suite or the folder of a study.
        out: the folder to make; None: ``paper`` in the source's. One that this wrote is replaced.
        suffix: of the figures: .pdf, .svg or .png.

    Raises:
        FormatError: `source` is none of these, or is damaged.
        ConfigError: `out` holds something else.
        MissingExtraError: matplotlib is not installed.
    """
    style.check(suffix)
    path = Path(source)
    found = source_of(path)
    place = Path(out) if out is not None else (path if path.is_dir() else path.parent) / "paper"
    _cleared(place)
    write_json(place / MARK, {"kind": "paper", "source": str(path)})
    pieces, left_out = _written(found, place, suffix)
    write_text(place / "main.tex", _document(found, pieces, suffix))
    write_text(place / "README.md", _readme(path, place, found, pieces, left_out))
    made = {"kind": "paper", "source": str(path), "pieces": [one._asdict() for one in pieces]}
    write_json(
        place / MARK, made | {"made_from": _origin(path), "provenance": provenance.collect()}
    )
    return Paper(place, pieces, left_out)


def _cleared(place: Path) -> None:
    """Remove what an earlier call wrote.

    Raises:
        ConfigError: there is something else.
    """
    check_writable(place, as_folder=True)
    there = {path.name for path in place.iterdir()} if place.is_dir() else set()
    ours = {MARK, "main.tex", "README.md", FIGURES, TABLES}
    if there and (MARK not in there or read_object(place / MARK).get("kind") != "paper"):
        raise ConfigError(
            f"{place} holds something else than a paper folder. Choose another: --out."
        )
    for name in there & ours:
        parts.remove(place / name)


def _written(source: Source, place: Path, suffix: str) -> tuple[list[Piece], dict[str, int]]:
    pieces: list[Piece] = []
    left_out: dict[str, int] = {}
    taken: set[str] = set()
    for block in source.blocks:
        kind = block["kind"]
        if kind in ("table", "facts") and (table := _rows(block)):
            name = _name(block, kind, taken)
            csv = f"{name}.csv"
            table.write_csv(place / TABLES / csv)
            links = tuple(name for name, to in (block.get("links") or {}).items() if to == "latent")
            text = f"% {_source(block)}\n{latex.tabular(table, csv=csv, plain=links)}"
            write_text(place / TABLES / f"{name}.tex", text)
            wide = text.split("\\midrule")[0].count("&") >= latex.MOST_COLUMNS
            pieces.append(Piece("table", name, _caption(block), wide))
        elif drawing.draws(block):
            name = _name(block, kind, taken)
            drawing.draw(block, place / FIGURES / name, suffix)
            pieces.append(Piece("figure", name, _caption(block)))
        elif kind != "text":
            left_out[kind] = left_out.get(kind, 0) + 1
    return pieces, left_out


def _rows(block: Block) -> Table:
    """Return a block as a table whose columns are named as they are printed."""
    if block["kind"] == "facts":
        facts = [(*one, {})[:3] for one in block["facts"]]
        columns = {
            "what": [one[0] for one in facts],
            "value": [one[1] for one in facts],
            "low": [one[2].get("low") for one in facts],
            "high": [one[2].get("high") for one in facts],
            "unit": [one[2].get("unit", "") for one in facts],
        }
        kept = {k: v for k, v in columns.items() if k in ("what", "value") or any(v)}
        return Table(columns=kept)
    names = [one["name"] for one in block["columns"]]
    columns = {name: [row[i] for row in block["rows"]] for i, name in enumerate(names)}
    units = {one["name"]: one["unit"] for one in block["columns"] if one.get("unit")}
    return Table(columns=columns, units=units)


def _name(block: Block, kind: str, taken: set[str]) -> str:
    words = re.sub(r"[^a-z0-9]+", "_", str(block.get("title") or kind).lower()).strip("_")
    stem = words[:48].strip("_") or kind
    name, n = stem, 2
    while name in taken:
        name, n = f"{stem}_{n}", n + 1
    taken.add(name)
    return name


def _caption(block: Block) -> str:
    parts = (block.get("title"), block.get("about"))
    return " ".join(f"{str(part).rstrip('.')}." for part in parts if part)


def _source(block: Block) -> str:
    return " ".join(str(block.get("source") or "see README.md").split())


def _document(source: Source, pieces: list[Piece], suffix: str) -> str:
    """Return a document that prints every piece once."""
    parts = [
        "\\documentclass[10pt]{article}",
        "\\usepackage[T1]{fontenc}\n\\usepackage[utf8]{inputenc}",
        "\\usepackage{booktabs,graphicx}",
        "\\usepackage[margin=2.5cm]{geometry}",
        f"\\title{{{latex.escaped(source.title)}}}\n\\date{{}}",
        "\\begin{document}\n\\maketitle",
    ]
    if suffix == ".svg":
        parts.append("% pdflatex reads no SVG: make the figures as PDF to print them.")
    for one in pieces:
        caption = f"\\caption{{{latex.escaped(one.caption)}}}"
        if one.kind == "figure":
            file = f"{FIGURES}/{one.name}"
            inner = f"\\includegraphics{{{file}{suffix}}}"
            inner = f"% {inner}" if suffix == ".svg" else inner
            label = f"\\label{{fig:{one.name}}}"
            parts.append(
                f"\\begin{{figure}}[htbp]\n\\centering\n{inner}\n{caption}\n{label}\n\\end{{figure}}"
            )
        else:
            inner = f"\\input{{{TABLES}/{one.name}}}"
            # Shrinks a table that is wider than the text and leaves others as they are.
            inner = f"\\resizebox{{\\textwidth}}{{!}}{{{inner}}}" if one.wide else inner
            label = f"\\label{{tab:{one.name}}}"
            parts.append(
                f"\\begin{{table}}[htbp]\n\\centering\\small\n{caption}\n{label}\n{inner}\n"
                f"\\end{{table}}"
            )
        parts.append("\\clearpage" if len(parts) % 12 == 0 else "")
    return "\n\n".join(filter(None, [*parts, "\\end{document}"])) + "\n"


def _origin(path: Path) -> dict[str, Any]:
    """Return the provenance of the source; empty where it keeps none."""
    try:
        return dict(origin_of(path).provenance)
    except SaekitError:
        return {}


def _readme(
    path: Path, place: Path, source: Source, pieces: list[Piece], left_out: dict[str, int]
) -> str:
    made = _origin(path)
    now = provenance.collect()
    again = f"saekit report {shlex.quote(str(path))} --paper --out {shlex.quote(str(place))}"
    lines = [f"# {source.title}", "", "Written by", "", f"    {again}", ""]
    if words := made.get("command"):
        lines += ["from what was made by", "", f"    {shlex.join(map(str, words))}", ""]
    lines += ["| | made with | written with |", "|---|---|---|"]
    for key in ("saekit", "commit", "python", "time"):
        lines.append(
            f"| {key} | {made.get(key) or 'not recorded'} | {now[key] or 'not recorded'} |"
        )
    libraries = made.get("libraries") or {}
    lines += [
        f"| {k} | {libraries.get(k, 'not recorded')} | {v} |" for k, v in now["libraries"].items()
    ]
    lines += ["", "## Files", ""]
    for one in pieces:
        folder = FIGURES if one.kind == "figure" else TABLES
        caption = " ".join(one.caption.split()).replace("|", "\\|")
        lines.append(f"- `{folder}/{one.name}` ({one.kind}): {caption}")
    lines += [
        "",
        "Figures are for one column of a page (3.25 inches), `-wide` ones for both (6.75). "
        "Each has its numbers in a CSV of the same name, and so has each table. `main.tex` prints "
        "everything once.",
    ]
    notes = [str(block["text"]) for block in source.blocks if block["kind"] == "text"]
    if notes:
        lines += ["", "## Notes", "", *(f"- {' '.join(note.split())}" for note in notes)]
    if left_out:
        said = ", ".join(f"{n} of kind {kind}" for kind, n in left_out.items())
        lines += ["", f"Left out, as they are for a screen or hold nothing: {said}."]
    return "\n".join(lines) + "\n"
