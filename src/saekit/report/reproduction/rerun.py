"""`saekit.reproduce`: run the command that made something once more, and compare the numbers."""

import functools
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saekit.core import provenance
from saekit.core.border import reading
from saekit.core.errors import ConfigError, ResourceError
from saekit.core.files import write_json
from saekit.core.writable import check_writable
from saekit.report.origin import Origin, origin_of
from saekit.report.reproduction.environment import Fact, begun, environment, exact, threads
from saekit.report.reproduction.numbers import VERDICTS, Compared, Quantity, compared
from saekit.report.reproduction.words import Again, again

TOLERANCE = 1e-3  # where the environment is another: sums in another order, and what follows
DONE = (0, 3)  # exit codes of a command that made what it makes
TABLE, RECORD, SAID = "reproduction.csv", "reproduction.json", "output.txt"
MOST_LINES = 20

Run = Callable[[Again, Mapping[str, str], Path], int]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be run, and what of the environment is another than it was.

    Args:
        origin: of what was made.
        facts: of the environment, then and now.
        command: that makes it again; None where only the environment is asked for.
        out: the folder of the reproduction.
        tolerance: a share of the largest number of a name; 0: bit for bit.
    """

    origin: Origin
    facts: list[Fact]
    command: Again | None
    out: Path
    tolerance: float

    @property
    def exact(self) -> bool:
        """Whether the same bits are promised."""
        return exact(self.facts)

    @property
    def different(self) -> list[Fact]:
        """What is known to differ, or is not known."""
        return [one for one in self.facts if not one.same]

    def lines(self) -> list[str]:
        """Return what is another than it was, and what will be run."""
        found = [
            f"differs  {one.what}: was {one.then}, is {one.now}"
            + ("" if one.decides else " (decides no number)")
            for one in self.different
        ]
        if not found:
            found.append("same     versions, machine, code, model and text are what they were")
        if self.command is not None:
            found.append(f"command  saekit {shlex.join(self.command.words)}")
            found.append(f"in       {self.command.cwd}")
            if "cwd" not in begun(self.origin):
                found.append("note     `folder`, where the command ran, was not recorded")
        return [*found, f"judged   {self.judged()}"]

    def judged(self) -> str:
        """Return within what a difference is rounding, in words."""
        if self.exact:
            why = "the same bits are expected: nothing that decides them is different"
        else:
            why = "the same bits are not promised, as the environment is another"
            why = why if self.different else "a GPU promises no bits"
        within = f"differences within {self.tolerance:g} of a quantity are rounding"
        return f"{why}; {within if self.tolerance else 'any difference is one'}"


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What came of making something again. `print` shows the table.

    Args:
        plan: what was run.
        compared: the numbers, then and now.
        seconds: that the command took.
    """

    plan: Plan
    compared: Compared

    @property
    def counts(self) -> dict[str, int]:
        """How many quantities are same, within rounding, and differ."""
        found = Counter(one.verdict for one in self.compared.quantities)
        return {verdict: found[verdict] for verdict in VERDICTS}

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return bool(self.compared.quantities) and not self.counts["differs"]

    def __str__(self) -> str:
        return "\n".join(lines(self))

    def record(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {
            "kind": "reproduction",
            "of": str(self.plan.origin.file),
            "made": None if self.plan.command is None else str(self.plan.command.made),
            "tolerance": self.plan.tolerance,
            "exact": self.plan.exact,
            "same": self.same,
            "counts": self.counts,
            "environment": [one._asdict() for one in self.plan.facts],
            "not_made_again": self.compared.only_then,
            "new": self.compared.only_now,
        }


def plan_of(
    source: Path | str,
    *,
    out: Path | str | None = None,
    tolerance: float | None = None,
    check: bool = False,
) -> Plan:
    """Return what `reproduce` would run, and what is different from then; nothing is written.

    Args:
        source: what was made.
        out: the folder to make; None: ``reproduced/NAME``.
        tolerance: see `reproduce`.
        check: only the environment, so that a record without a command will do.

    Raises: as `reproduce`.
    """
    if tolerance is not None and not 0 <= tolerance < 1:
        raise ConfigError(
            f"`tolerance` is a share of a quantity, at least 0 and below 1; got {tolerance:g}."
        )
    origin = origin_of(source)
    place = Path(out) if out is not None else Path("reproduced") / _name(origin)
    place = place.expanduser().absolute()
    with reading(origin.file, "a record of what was made"):
        facts = environment(origin)
        command = None if check else again(origin, place, write=False)
    allowed = (0.0 if exact(facts) else TOLERANCE) if tolerance is None else tolerance
    return Plan(origin=origin, facts=facts, command=command, out=place, tolerance=allowed)


def reproduce(
    source: Path | str,
    *,
    out: Path | str | None = None,
    tolerance: float | None = None,
    shown: bool = True,
    run: Run | None = None,
) -> Reproduction:
    """Make something again by the command that its record names, and compare the numbers.

    On a CPU of the same kind, with the same versions, threads, model and text, the same bits are
    expected, and any difference is one. Elsewhere sums are made in another order: differences
    within `tolerance` of the largest number of a quantity are called rounding.

    Args:
        source: a run, a result, a comparison, an index, a written text or the folder of a study; or
            the JSON file in it that says what it was made from.
        out: the folder to make, with what is made in ``made`` and the comparison in
            ``reproduction.csv`` and ``reproduction.json``; None: ``reproduced/NAME``.
        tolerance: None: 0 where the same bits are expected, and 0.001 elsewhere.
        shown: show the progress of the command on stderr.
        run: runs a command and returns its exit code; None: in a process of its own.

    Raises:
        FormatError: a field that this needs was not recorded; the message names it.
        ConfigError: `out` is in use, or `tolerance` is no share.
        ResourceError: the command failed.
    """
    plan = plan_of(source, out=out, tolerance=tolerance)
    return carried_out(plan, shown=shown, run=run)


def carried_out(plan: Plan, *, shown: bool = True, run: Run | None = None) -> Reproduction:
    """Run what `plan_of` gave and compare; see `reproduce`."""
    origin, out = plan.origin, plan.out
    check_writable(out, as_folder=True)
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty. Choose another folder: --out.")
    out.mkdir(parents=True, exist_ok=True)
    command = again(origin, out)
    said = out / SAID
    start = functools.partial(_in_process, shown=shown) if run is None else run
    had = threads(origin)
    environ = {} if had is None else {"OMP_NUM_THREADS": str(had), "NUMBA_NUM_THREADS": str(had)}
    code = start(command, environ, said)
    if code not in DONE or not command.made.exists():
        last = said.read_text(encoding="utf-8", errors="replace").strip() if said.exists() else ""
        told = (
            f": {last[-400:]} All it said is in {said}." if last else ", and the reason is above."
        )
        words = f"`saekit {shlex.join(command.words)}` in {command.cwd}"
        raise ResourceError(f"{words} ended with exit code {code}{told}")
    then = origin.file if command.made.is_file() else origin.folder
    now = command.made / command.part
    if not now.exists():
        raise ResourceError(
            f"The command made no {command.part} in {command.made}, so nothing of "
            f"{then} can be compared. Name the folder that it made before."
        )
    found = Reproduction(plan=plan, compared=compared(then, now, plan.tolerance))
    found.compared.table().write_csv(out / TABLE)
    write_json(out / RECORD, found.record() | {"provenance": provenance.collect()})
    return found


def _name(origin: Origin) -> str:
    """Return a name of what is made again, for a folder."""
    place = Path(os.path.normpath(origin.path.absolute()))
    parts = place.parts[-3:] if place.is_file() else place.parts[-1:]
    return "-".join(part.removesuffix(".json") for part in parts if part not in ("/", "eval"))


def _in_process(command: Again, environ: Mapping[str, str], said: Path, *, shown: bool) -> int:
    words = [sys.executable, "-m", "saekit", *command.words]
    how = {"cwd": command.cwd, "env": os.environ | environ}
    with said.open("w", encoding="utf-8") as file:
        errors = None if shown else subprocess.STDOUT
        return subprocess.run(words, stdout=file, stderr=errors, check=False, **how).returncode


def lines(found: Reproduction) -> list[str]:
    """Return the table for a reader: files with their counts, and what differs most."""
    quantities = found.compared.quantities
    rows = []
    for file in dict.fromkeys(one.file for one in quantities):
        mine = Counter(one.verdict for one in quantities if one.file == file)
        worst = max((one.off or 0.0 for one in quantities if one.file == file), default=0.0)
        rows.append((file, *(f"{mine[v]:,}" for v in VERDICTS), f"{worst:.2g}"))
    said = [_aligned([("file", *VERDICTS, "largest"), *rows])] if rows else []
    order = sorted(quantities, key=lambda q: (q.verdict != "differs", -(q.off or 0.0)))
    off = [one for one in order if one.verdict == "differs"]
    near = [one for one in order if one.verdict == "within rounding"]
    shown = [*off, *near][:MOST_LINES]
    said += [_line(one) for one in shown]
    if rest := len(off) + len(near) - len(shown):
        said.append(f"and {rest:,} more: {found.plan.out / TABLE}")
    if found.compared.only_now:
        said.append(f"new      {_some(found.compared.only_now)}")
    if found.compared.only_then:
        said.append(f"not made again: {_some(found.compared.only_then)}")
    counts = ", ".join(f"{n:,} {verdict}" for verdict, n in found.counts.items())
    return [*said, f"result   {counts}" if quantities else "result   there is nothing to compare"]


def _line(one: Quantity) -> str:
    off = "" if one.off is None else f", off by {one.off:.2g}"
    name = f"{one.file}: {one.name}"
    return f"{one.verdict:<15}  {name}: was {_cell(one.then)}, is {_cell(one.now)}{off}"


def _cell(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else f"{value!s:.40}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    told = []
    for first, *rest in rows:
        cells = [c.rjust(w) for c, w in zip(rest, widths[1:], strict=True)]
        told.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(told)
