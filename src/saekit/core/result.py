"""What a measurement leaves behind: the only thing reports and pages read."""

import csv
import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any, Literal, get_origin

from saekit.core.border import bordered
from saekit.core.config import field_types, fits
from saekit.core.files import read_object, write_json, write_text
from saekit.core.text import as_cell

SHOWN_ROWS, SHOWN_CHARACTERS = 10, 40  # of a table that is printed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """One number, its interval, and what it means.

    Args:
        value: point estimate; None where it is undefined (never a stand-in number).
        low: lower end of the 95 % interval; None where there is none.
        high: upper end.
        n: independent units behind it (rows, documents, latents).
        unit: what it counts, as "latents/token".
        better: which way is good.
        reason: why the value is None, or what the reader must know.
        label: what it is in words, for a reader of a list of scores.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    unit: str
    better: Literal["lower", "higher", "neither"]
    reason: str = ""
    label: str = ""

    def beats(self, other: "Score") -> bool:
        """Tell whether this is better than `other`; false where neither is."""
        if self.value is None or other.value is None:
            return False
        sign = {"higher": 1, "lower": -1, "neither": 0}[self.better]
        return sign * (self.value - other.value) > 0

    def text(self) -> str:
        """Return the value with its interval, as a table cell."""
        if self.value is None:
            return f"undefined ({self.reason})"
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of one kind, with named columns and their units.

    Args:
        columns: column name to list of values; all lists have one length.
        units: column name to unit, for the columns that have one.
    """

    columns: dict[str, list[Any]]
    units: dict[str, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def __repr__(self) -> str:
        return f"Table({len(self):,} rows of {', '.join(self.columns)})"

    def __str__(self) -> str:
        shown = [
            [_short(value) for value in column[:SHOWN_ROWS]] for column in self.columns.values()
        ]
        heads = [f"{n} ({self.units[n]})" if n in self.units else n for n in self.columns]
        widths = [max(map(len, (h, *c)), default=0) for h, c in zip(heads, shown, strict=True)]
        lines = [heads, *(list(row) for row in zip(*shown, strict=True))]
        found = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in lines]
        rest = len(self) - SHOWN_ROWS
        return "\n".join([*found, *([f"and {rest:,} more rows"] if rest > 0 else [])])

    def rows(self) -> list[dict[str, Any]]:
        """Return each row by the names of its columns."""
        rows = zip(*self.columns.values(), strict=True)
        return [dict(zip(self.columns, row, strict=True)) for row in rows]

    def write_csv(self, path: Path) -> None:
        """Write as CSV (UTF-8, header row); None and NaN become empty cells.

        Text that a spreadsheet would run as a formula gets a quotation mark in front, which
        `saekit.data.table_files.rows` takes off again.
        """
        lines = _Lines()
        # With this end of a line fields that hold either character of it are put in quotes.
        writer = csv.writer(lines, lineterminator="\r\n")
        writer.writerow(map(as_cell, self.columns))
        for row in zip(*self.columns.values(), strict=True):
            writer.writerow([_cell(v) for v in row])
        write_text(path, "".join(lines.parts))


# In a cell, as the pages show them: a token may be nothing else, and a row is one line.
_BREAKS = str.maketrans({"\n": "↵", "\r": "↵", "\t": "⇥"})


def _short(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    text = "" if value is None else str(value).translate(_BREAKS)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


class _Lines:
    """What a csv writer writes to: keeps each row as a line that ends in a newline alone."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def write(self, row: str) -> None:
        self.parts.append(row.removesuffix("\r\n") + "\n")


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return as_cell(value) if isinstance(value, str) else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Scores of one subject under one evaluation, and where they came from.

    Args:
        name: the evaluation.
        version: raised when the same input gives another number; two versions are never
            shown in one column.
        config: the evaluation's configuration.
        scores: by name.
        details: anything else worth keeping that is JSON-ready: counts, per-latent lists.
        provenance: see `saekit.core.provenance.collect`.
    """

    name: str
    version: int
    config: dict[str, Any]
    scores: dict[str, Score]
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Result({self.name} v{self.version}: {', '.join(self.scores)})"

    def __str__(self) -> str:
        notes = [f"note     {note}" for note in self.provenance.get("notes", [])]
        return "\n".join([*score_lines(self.scores), *split_lines(self.provenance), *notes])

    def write(self, path: Path | str) -> None:
        """Write as one JSON file, atomically."""
        write_json(Path(path), dataclasses.asdict(self))

    @staticmethod
    @bordered("a result")
    def read(path: Path | str) -> "Result":
        """Read what `write` wrote.

        Raises:
            FormatError: the file is not a result.
        """
        return Result.from_dict(read_object(Path(path)))

    @staticmethod
    def is_record(raw: dict[str, Any]) -> bool:
        """Return whether a record is meant as a result; `from_dict` refuses one that is damaged."""
        return {"name", "version", "config", "scores"} <= raw.keys()

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> "Result":
        """Return the result that `dataclasses.asdict` made this record of.

        Raises:
            TypeError: it is of no result, or a number is text, or the other way round.
        """
        rest = {k: v for k, v in raw.items() if k != "scores"}
        result = Result(scores={k: Score(**v) for k, v in raw["scores"].items()}, **rest)
        for record in (result, *result.scores.values()):
            _check_kinds(record)
        return result


def score_lines(scores: dict[str, Score]) -> list[str]:
    """Return a line a score: what it is, its value and its 95 % interval, or why there is none."""
    labels = {name: score.label or name for name, score in scores.items()}
    width = max(map(len, labels.values()), default=0)
    undefined = Counter(score.reason for score in scores.values() if score.value is None)
    often = [why for why, n in undefined.items() if why and n > 1]
    lines = [
        f"  {labels[name]:<{width}}  "
        + ("undefined" if score.value is None and score.reason in often else score.text())
        for name, score in scores.items()
    ]
    lines += [f"note     undefined: {why}" for why in often]
    for why, names in without_interval(scores).items():
        said = "all" if len(names) == len(scores) else ", ".join(labels[name] for name in names)
        lines.append(f"note     {said}: {why}")
    return lines


def split_lines(provenance: dict[str, Any]) -> list[str]:
    """Return a line on which part of which text was read; none where no text was."""
    split, text = provenance.get("split"), provenance.get("text", "")
    if split is None or text is None:
        return []
    of = f" of {text}" if text else ""
    told = {"validation": ", which is for choosing: report scores of the test split"}
    return [f"read     the {split} split{of}{told.get(split, '')}"]


def without_interval(scores: dict[str, Score]) -> dict[str, list[str]]:
    """Return why scores have no interval: each reason once, with the names it is of."""
    reasons: dict[str, list[str]] = {}
    for name, score in scores.items():
        if score.value is not None and score.low is None and score.reason:
            reasons.setdefault(score.reason, []).append(name)
    return reasons


def _check_kinds(record: Any) -> None:
    """Refuse a record read from a file in which a number is text, or the other way round.

    Raises:
        TypeError: it is.
    """
    for name, hint in field_types(type(record)).items():
        value = getattr(record, name)
        if not fits(value, hint) or isinstance(value, dict) != (get_origin(hint) is dict):
            raise TypeError(f"`{name}` is {value!r:.80}")
