"""Feed hurt inputs to what reads them, and keep a list of what ended otherwise than it should.

From the command line: ``python -m tests.fuzz.run INPUTS [from=SEED] [KIND ...]`` deals INPUTS over
all kinds, or those named, fewer to those that take long, and prints a table. It exits 1 if one
input ended otherwise than it should.
"""

import contextlib
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from saekit.core.errors import SaekitError
from tests.fuzz.kinds import KINDS, Kind
from tests.fuzz.mutations import hurt, lay

SECONDS = 20.0  # of processor time for one input; and as many times 6 of waiting
GROWTH_KB = 1_000_000  # of the process' largest memory, by one input


READ, REFUSED, RAW, HANG, MEMORY = "read", "refused", "raw", "hang", "memory"


class Fault(NamedTuple):
    """An input that ended otherwise than in a value or a sentence."""

    kind: str
    seed: int
    sort: str
    what: str


@dataclass
class Tally:
    """What became of the inputs that ended as they should."""

    read: int = 0  # hurt where it does not matter
    refused: int = 0
    slowest: float = 0.0  # s of processor time of one input, of all


class Slow(BaseException):
    """An input took too long; not an Exception, so that no border takes it for damage."""


def inputs(name: str, first: int, n: int, tally: Tally | None = None) -> Iterator[Fault]:
    """Yield the faults among inputs ``first`` to ``first + n`` of a kind; count the others."""
    kind, tally = KINDS[name], tally or Tally()
    with tempfile.TemporaryDirectory(prefix="saekit-fuzz-") as home, _timed():
        whole = Path(home) / "whole"
        whole.mkdir()
        kind.make(whole)
        kind.load(whole)  # as it is, it is read
        (whole / "page.html").unlink(missing_ok=True)
        tree = {str(p.relative_to(whole)): p.read_bytes() for p in whole.rglob("*") if p.is_file()}
        for seed in range(first, first + n):
            folder = Path(home) / f"{seed}"
            chance = random.Random(f"{name} {seed}")
            files, kinds = hurt(tree, chance)
            if chance.random() < 0.8:
                files = kind.mend(files)
            lay(folder, files, kinds)
            began = time.process_time()
            sort, what = _ends(kind, folder)
            tally.slowest = max(tally.slowest, time.process_time() - began)
            tally.read += sort == READ
            tally.refused += sort == REFUSED
            if sort not in (READ, REFUSED):
                yield Fault(name, seed, sort, what)
            shutil.rmtree(folder)


def _ends(kind: Kind, folder: Path) -> tuple[str, str]:
    """Return how reading ends, and what is wrong with that."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 6 * SECONDS)
    ended = READ
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.load(folder)
    except SaekitError as error:
        ended = REFUSED
        try:
            str(error).encode()
        except UnicodeEncodeError:
            return RAW, f"a message that cannot be printed: {str(error)!r}"
    except Slow:
        return HANG, f"took more than {SECONDS} s: {traceback.format_exc(limit=-3)}"
    except Exception as error:
        return RAW, f"{type(error).__name__}: {traceback.format_exc(limit=-4)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return (MEMORY, f"took {grown / 1e6:.1f} GB of memory") if grown > GROWTH_KB else (ended, "")


@contextlib.contextmanager
def _timed() -> Iterator[None]:
    def late(*_: object) -> None:
        raise Slow

    before = [(s, signal.signal(s, late)) for s in (signal.SIGPROF, signal.SIGALRM)]
    try:
        yield
    finally:
        for which, handler in before:
            signal.signal(which, handler)


def shares(n: int, names: list[str]) -> dict[str, int]:
    """Deal a number of inputs over kinds, by what one of each costs; one each at least."""
    most = n / sum(1 / KINDS[name].cost for name in names)
    dealt = {name: max(int(most / KINDS[name].cost), 1) for name in names}
    for name in names[: max(n - sum(dealt.values()), 0)]:  # what rounding down left
        dealt[name] += 1
    return dealt


def main(words: list[str]) -> int:
    """Print a table of kinds, inputs and faults; the first of each sort of fault in full."""
    n, first, names = int(words[0]), 0, words[1:]
    if names and names[0].startswith("from="):
        first = int(names.pop(0)[5:])
    heads = ("kind", "inputs", "read", "refused", RAW, "hangs", MEMORY, "slowest s", "cpu s")
    sys.stdout.write(f"{heads[0]:<20}" + "".join(f"{head:>10}" for head in heads[1:]) + "\n")
    total = [0.0] * (len(heads) - 1)
    for name, many in shares(n, names or list(KINDS)).items():
        began, tally = time.process_time(), Tally()
        faults = list(inputs(name, first, many, tally))
        sorts = [sum(f.sort == sort for f in faults) for sort in (RAW, HANG, MEMORY)]
        row = [many, tally.read, tally.refused, *sorts, tally.slowest, time.process_time() - began]
        _line(name, row)
        slowest = max(total[6], row[6])
        total = [t + v for t, v in zip(total, row, strict=True)]
        total[6] = slowest
        _shown(faults)
    _line("all", total)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(f"most memory held by the process: {grown / 1e6:.2f} GB\n")
    return int(sum(total[3:6]) > 0)


def _line(name: str, row: Sequence[float]) -> None:
    numbers = "".join(f"{v:>10,.1f}" if i > 5 else f"{int(v):>10,}" for i, v in enumerate(row))
    sys.stdout.write(f"{name:<20}{numbers}\n")
    sys.stdout.flush()


def _shown(faults: list[Fault]) -> None:
    seen = set()
    for fault in faults:
        kind = fault.what.strip().splitlines()[-1][:60] + fault.what[-200:-100]
        if kind not in seen and len(seen) < 12:
            seen.add(kind)
            sys.stdout.write(f"  {fault.seed}: {fault.what}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
