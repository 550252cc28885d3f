"""Two files or folders that a command made, number by number: same, within rounding, differs."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from saekit.core.files import read_json, read_json_lines, read_tensors
from saekit.core.result import Table
from saekit.data import table_files

Verdict = Literal["same", "within rounding", "differs"]
VERDICTS: tuple[Verdict, ...] = ("same", "within rounding", "differs")
READ = (".json", ".jsonl", ".csv", ".parquet", ".safetensors")
# What no number depends on: where and when, how long it took, what ran.
FREE = {
    *("provenance", "environment", "made_from", "begun_with", "command", "folder", "cwd", "out"),
    *("time", "seconds", "tokens_per_second", "elapsed", "path", "sae_files", "bytes", "memory"),
    *(
        "peak_memory",
        "memory_bytes",
        "seal",
        "cache",
        "cache_folder",
        "sae",
        "saes",
        "made_at",
        "status",
        "session",
    ),
}
# Digests of files whose contents are compared themselves.
_OF_FILES = ("weights_sha256", "sha256_of_files", "files", "sha256")


class Quantity(NamedTuple):
    """What was compared: all numbers of one name in one file.

    Attributes:
        file: it is in.
        name: its path in the file; `[]` stands for the places of a list.
        n: how many there are.
        then: the one that differs most, or the first.
        now: the same one of the new file.
        off: the largest difference, as a share of the largest number of this name.
        verdict: what that is called.
    """

    file: str
    name: str
    n: int
    then: Any
    now: Any
    off: float | None
    verdict: Verdict


class Compared(NamedTuple):
    """Two folders, compared.

    Attributes:
        quantities: of the files that both have.
        only_then: files that were not made again.
        only_now: files that were not there before.
    """

    quantities: list[Quantity]
    only_then: list[str]
    only_now: list[str]

    def table(self) -> Table:
        """Return a row for each quantity."""
        rows = [one._asdict() for one in self.quantities]
        return Table(columns={name: [row[name] for row in rows] for name in Quantity._fields})


def compared(then: Path, now: Path, tolerance: float) -> Compared:
    """Compare what two files, or the files of two folders, hold.

    Times, places and versions are left out, and pictures and pages, which are drawn of the numbers.

    Args:
        then: a file or a folder.
        now: made again: of the same kind.
        tolerance: a share of the largest number of a name, within which a difference is rounding.

    Raises:
        FormatError: a file is damaged.
    """
    if now.is_file():
        return Compared(list(_of_file(then, now, now.name, tolerance)), [], [])
    before, after = _files(then), _files(now)
    both = sorted(before.keys() & after.keys())
    found = [q for name in both for q in _of_file(before[name], after[name], name, tolerance)]
    return Compared(found, sorted(before.keys() - after.keys()), sorted(after.keys() - before))


def _files(folder: Path) -> dict[str, Path]:
    """Return the files with numbers in a folder by their paths in it, hidden ones left out."""
    found = (path for path in folder.rglob("*") if path.suffix in READ and path.is_file())
    names = {str(path.relative_to(folder)): path for path in found}
    return {n: p for n, p in names.items() if not any(x.startswith(".") for x in Path(n).parts)}


def _of_file(then: Path, now: Path, name: str, tolerance: float) -> Iterator[Quantity]:
    if then.suffix == ".safetensors":
        yield from _of_tensors(then, now, name, tolerance)
        return
    before, after = _values(then), _values(now)
    for key in dict.fromkeys([*before, *after]):
        a, b = before.get(key), after.get(key)
        if a is None or b is None:
            here, there = (_shown(one) for one in (a, b))
            yield Quantity(name, key, len(a or b or []), here, there, None, "differs")
        else:
            yield judged(name, key, a, b, tolerance)


def judged(file: str, name: str, then: list[Any], now: list[Any], tolerance: float) -> Quantity:
    """Compare two lists of values of one name; see `Quantity`."""
    if len(then) != len(now):
        said = (f"{len(then):,} values", f"{len(now):,} values")
        return Quantity(file, name, len(then), *said, None, "differs")
    largest = max((abs(v) for v in then if _is_number(v) and math.isfinite(v)), default=0.0)
    worst, at = 0.0, 0
    for i, (a, b) in enumerate(zip(then, now, strict=True)):
        off = _off(a, b, largest)
        if off is None:
            return Quantity(file, name, len(then), a, b, None, "differs")
        if off > worst:
            worst, at = off, i
    verdict: Verdict = "same" if not worst else "differs"
    if 0 < worst <= tolerance:
        verdict = "within rounding"
    pair = (then[at], now[at]) if then else (None, None)
    return Quantity(file, name, len(then), *pair, worst, verdict)


def _off(a: Any, b: Any, largest: float) -> float | None:
    """Return how far two values are apart; None where they are no numbers and not equal."""
    if _is_number(a) and _is_number(b):
        if a == b or (a != a and b != b):
            return 0.0
        scale = max(largest, abs(b))
        return abs(a - b) / scale if math.isfinite(scale) and math.isfinite(a - b) else None
    if isinstance(a, str) and isinstance(b, str) and "/" in (a[:1], b[:1]):
        return 0.0 if Path(a).name == Path(b).name else None  # where a file lies decides nothing
    return 0.0 if type(a) is type(b) and a == b else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(values: list[Any] | None) -> Any:
    return "missing" if values is None else values[0] if values else None


def _values(path: Path) -> dict[str, list[Any]]:
    """Return the values of a file by name."""
    found: dict[str, list[Any]] = {}
    if path.suffix == ".json":
        leaves = _leaves(read_json(path))
    elif path.suffix == ".jsonl":
        leaves = (leaf for one in read_json_lines(path) for leaf in _leaves(one))
    else:
        columns = table_files.columns(path)
        return {name: cells for name, cells in columns.items() if name not in FREE}
    for name, value in leaves:
        found.setdefault(name, []).append(value)
    return found


def _leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, one in value.items():
            if key not in FREE and key not in _OF_FILES:
                yield from _leaves(one, f"{at}.{key}" if at else key)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one, f"{at}[]")
    else:
        yield at, value


def _of_tensors(then: Path, now: Path, name: str, tolerance: float) -> Iterator[Quantity]:
    """Yield each tensor: the number that differs most, without a list of all of them."""
    import torch

    before, after = read_tensors(then), read_tensors(now)
    for key in dict.fromkeys([*before, *after]):
        if key not in before or key not in after or before[key].shape != after[key].shape:
            said = [str(list(x[key].shape)) if key in x else "missing" for x in (before, after)]
            yield Quantity(name, key, 0, said[0], said[1], None, "differs")
            continue
        a, b = before[key].double().flatten(), after[key].double().flatten()
        apart = (a - b).abs().nan_to_num(torch.inf, torch.inf)
        apart[(a == b) | (a.isnan() & b.isnan())] = 0.0
        if not apart.any():
            yield Quantity(name, key, len(a), None, None, 0.0, "same")
            continue
        at = int(apart.argmax())
        off = _off(float(a[at]), float(b[at]), float(a.abs().max()))
        verdict: Verdict = "differs" if off is None or off > tolerance else "within rounding"
        yield Quantity(name, key, len(a), float(a[at]), float(b[at]), off, verdict)
