"""Feed hurt inputs to what reads them, and keep a list of what ended otherwise than it should.

From the command line: ``python -m tests.fuzz.run INPUTS [KIND ...]`` prints a table.
"""

import contextlib
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from saekit.core.errors import SaekitError
from tests.fuzz.kinds import KINDS, Kind
from tests.fuzz.mutations import hurt, lay

SECONDS = 20.0  # of processor time for one input; and as many times 6 of waiting
GROWTH_KB = 1_000_000  # of the process' largest memory, by one input


class Fault(NamedTuple):
    """An input that ended otherwise than in a value or a sentence."""

    kind: str
    seed: int
    what: str


class Slow(BaseException):
    """An input took too long; not an Exception, so that no border takes it for damage."""


def inputs(name: str, first: int, n: int) -> Iterator[Fault]:
    """Yield the faults among inputs ``first`` to ``first + n`` of a kind."""
    kind = KINDS[name]
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
            if (what := _ends(kind, folder)) is not None:
                yield Fault(name, seed, what)
            shutil.rmtree(folder)


def _ends(kind: Kind, folder: Path) -> str | None:
    """Return what is wrong with how reading ends, or None."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 6 * SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.load(folder)
    except SaekitError as error:
        try:
            str(error).encode()
        except UnicodeEncodeError:
            return f"a message that cannot be printed: {str(error)!r}"
    except Slow:
        return f"took more than {SECONDS} s: {traceback.format_exc(limit=-3)}"
    except Exception as error:
        return f"{type(error).__name__}: {traceback.format_exc(limit=-4)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return f"took {grown / 1e6:.1f} GB of memory" if grown > GROWTH_KB else None


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


def main(words: list[str]) -> int:
    """Print a table of kinds, inputs and faults; the first of each sort of fault in full."""
    import time

    n, first = int(words[0]), 0
    names = words[1:] or list(KINDS)
    if names and names[0].startswith("from="):
        first = int(names.pop(0)[5:])
        names = names or list(KINDS)
    faults: list[Fault] = []
    for name in names:
        began = time.process_time()
        mine = list(inputs(name, first, max(n // KINDS[name].cost, 1)))
        sys.stdout.write(f"{name:<20} {max(n // KINDS[name].cost, 1):>8,} {len(mine):>6} "
                         f"{time.process_time() - began:>8.1f} s\n")
        sys.stdout.flush()
        faults += mine
        seen = set()
        for fault in mine:
            sort = fault.what.strip().splitlines()[-1][:60] + fault.what[-200:-100]
            if sort not in seen and len(seen) < 12:
                seen.add(sort)
                sys.stdout.write(f"  {fault.seed}: {fault.what}\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
