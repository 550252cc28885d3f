"""The command line that all benchmarks share, and how each of them ends.

Every benchmark takes `--quick` (a short form, to see that everything runs), `--check` (exit 1 where
a floor is missed) and `--json` (end with one line of JSON on stdout; the tables stay above it).

A figure in full has the floor that was promised for it. In quick form sizes are too small for that
floor, so each benchmark gives loose ones, which a working path meets on a busy machine and a broken
one misses: an SAE that did not train, a path that does the work several times, two ways that give
different numbers. The docstring of each benchmark says which. A check without a floor is an error.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

SHARED = ("--quick", "--check", "--json")


class Floor(NamedTuple):
    """A figure and the ends between which it must lie."""

    name: str
    value: float | None  # None: not measured
    least: float | None = None
    most: float | None = None
    why: str = ""  # it was not measured

    @property
    def met(self) -> bool:
        """Whether it was measured and lies where it must."""
        if self.value is None or not math.isfinite(self.value):
            return False
        low = self.least is None or self.value >= self.least
        return low and (self.most is None or self.value <= self.most)

    def line(self) -> str:
        """Return the one line that says what was reached."""
        ends = [
            f"{word} {end:g}"
            for word, end in (("at least", self.least), ("at most", self.most))
            if end is not None
        ]
        value = f"not measured{': ' if self.why else ''}{self.why}"
        if self.value is not None:
            value = f"{self.value:.4g}"
        verdict = "met" if self.met else "MISSED"
        return f"check: {self.name}: {value}, {' and '.join(ends)}: {verdict}"


def parser_of(doc: str | None, quick: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have.

    Args:
        doc: of the benchmark; its first line describes it.
        quick: what the short form is.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--check", action="store_true", help="exit 1 where a floor is missed")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    return parser


def finish(
    name: str, options: argparse.Namespace, figures: dict[str, Any], floors: list[Floor]
) -> int:
    """Print what was reached, and the JSON line where it was asked for; return the exit code.

    Args:
        name: of the benchmark.
        options: as parsed.
        figures: everything that was measured, JSON-ready.
        floors: those of this form, quick or full.
    """
    missed = [floor.name for floor in floors if not floor.met]
    for floor in floors:
        print(floor.line())
    if options.check and not floors:
        print("check: there is nothing to check in what was asked for", file=sys.stderr)
        missed.append("nothing was checked")
    if options.json:
        asked = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
        record = {"benchmark": name, "quick": options.quick, "options": asked} | figures
        record["floors"] = [floor._asdict() | {"met": floor.met} for floor in floors]
        record["missed"] = missed
        print(json.dumps(record, default=str), flush=True)
    return 1 if options.check and missed else 0


def last_record(path: Path) -> dict[str, Any]:
    """Return the JSON line that ends what a benchmark printed into a file."""
    return json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
