"""Cells of a suite: one evaluation of one SAE, kept under a hash of all that it depends on."""

import dataclasses
import json
import time
import traceback
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from saekit.core.border import reading
from saekit.core.errors import ConfigError, FormatError, Interrupted, SaekitError
from saekit.core.files import digest, replace_with
from saekit.core.registry import own_parts
from saekit.core.result import Result, Table
from saekit.core.sealed import read_sealed, write_sealed
from saekit.data import table_files
from saekit.evals.base import Eval, JointEval, Subject, Tools
from saekit.hub.trained import weights_digest
from saekit.metrics.base import registry as metrics

FORMAT = 1  # of a key: raised where the same words stand for something else
FOLDER = "cells"
AT_ONCE = 16  # SAEs and floors that one call of an evaluation measures, for memory
KEY = 32  # characters of a hash


class Failed(NamedTuple):
    """Why there is no result."""

    reason: str
    trace: str = ""  # of an error that no user can mend
    skipped: bool = False  # the evaluation measures no such SAE, so nothing went wrong


Outcome = Result | Failed


def failure_of(error: Exception) -> Failed:
    """Return what a table says of an error; one that ends the command is raised again."""
    if isinstance(error, Interrupted):
        raise error
    if isinstance(error, SaekitError):
        return Failed(str(error))
    return Failed(
        f"{type(error).__name__}: {error}",
        "".join(traceback.format_exception(type(error), error, error.__traceback__)),
    )


def identity(subject: Subject) -> str:
    """Return a hash of all that numbers of a subject depend on; its name is not part of it."""
    made_of = {
        "weights": weights_digest(subject.sae),
        "sae": subject.sae.cfg.to_dict(),
        "model": subject.lm.provenance() if subject.lm else None,
        "ways": [
            [
                str(way.read),
                str(way.write),
                way.rule.to_dict(),
                way.write_rule and way.write_rule.to_dict(),
            ]
            for way in subject.ways
        ],
        "window": subject.window,
        "trained": dict(subject.trained),
    }
    return digest([_json(made_of)])


class Member:
    """What is measured: an SAE, or a floor that is made when it is first needed.

    Args:
        name: what it is called.
        identity: see `identity`.
        make: returns it.
    """

    def __init__(self, name: str, identity: str, make: Callable[[], Subject]):
        self.name, self.identity = name, identity
        self._make, self._made = make, None

    @property
    def subject(self) -> Subject:
        """The SAE or floor, made once."""
        if self._made is None:
            self._made = self._make()
        return self._made


class Cells:
    """Results by key, in a folder, or in memory alone.

    A file holds its key and a checksum. One that was damaged or edited, that is a copy of another,
    or that an earlier version wrote without them, does not count: its cell is measured again, and
    the file replaced.

    Args:
        folder: of the suite; None: nothing outlives this object.
    """

    def __init__(self, folder: Path | None):
        self._folder = None if folder is None else folder / FOLDER
        self._held: dict[str, Result] = {}
        self._tables: dict[tuple[str, int], dict[str, Table]] = {}  # by key and place
        self.n_measured = 0  # since this object was made; all others were there

    def find(self, key: str) -> Result | None:
        """Return the result of a key; None where there is none, or its file is damaged."""
        if key not in self._held and isinstance(found := self._read(key, key), Result):
            self._held[key] = found
        return self._held.get(key)

    def keep(self, key: str, result: Result, tables: Sequence[Mapping[str, Table]] = ()) -> None:
        """Keep the result of a key.

        Args:
            key: of the cell.
            result: what was measured.
            tables: a row a latent, by name, of each SAE that was measured.
        """
        self._held[key] = result
        self.n_measured += 1
        for place, some in enumerate(tables):
            self._tables[key, place] = dict(some)
            if self._folder is not None:
                for name, table in some.items():
                    table_files.write(table, self._folder / f"{key}.{place}.{name}")
        self._write(key, key, dataclasses.asdict(result))

    def put_tables(self, key: str, place: int, to: Path) -> None:
        """Write the tables of latents of a cell to a folder, as the evaluation alone does.

        Args:
            key: of the cell.
            place: which of several SAEs that were measured together; of one alone 0.
            to: the folder.
        """
        for name, table in self._tables.get((key, place), {}).items():
            table_files.write(table, to / name)
        if (key, place) not in self._tables and self._folder is not None:
            for path in sorted(self._folder.glob(f"{key}.{place}.*.csv")):
                name = path.name.split(".")[2]
                replace_with(to / f"{name}.csv", path.read_bytes())
                (to / f"{name}.parquet").unlink(missing_ok=True)  # never two of a name

    def floor(self, key: str) -> str | None:
        """Return the identity of a floor that was made before, so that it need not be made."""
        found = self._read(f"floor-{key}", key)
        return found if isinstance(found, str) else None

    def keep_floor(self, key: str, identity: str) -> None:
        """Keep the identity of a floor."""
        self._write(f"floor-{key}", key, identity)

    def _read(self, name: str, key: str) -> Any:
        """Return what a file holds for a key; None where it cannot be relied on."""
        path = None if self._folder is None else self._folder / f"{name}.json"
        if path is None or not path.exists():
            return None
        try:
            with reading(path, "a cell"):
                found = read_sealed(path)
                held = found["holds"] if found["key"] == key else None
                return Result.from_dict(held) if isinstance(held, dict) else held
        except FormatError:
            return None

    def _write(self, name: str, key: str, holds: Any) -> None:
        if self._folder is not None:
            write_sealed(self._folder / f"{name}.json", {"key": key, "holds": holds})


def key_of(config: Eval, text: str, seed: int, *members: str) -> str:
    """Return the key of a cell.

    Args:
        config: the evaluation.
        text: hash of the rows that are read.
        seed: of what it draws.
        members: identities of what is measured: one, or several together.
    """
    parts = {
        "format": FORMAT,
        "members": list(members),
        "text": text,
        "seed": seed,
        "eval": config.name,
        "version": config.version,
        "config": config.to_dict(),
        "metrics": {name: metrics.get(name).version for name in metrics.names()},
        "own": own_parts(),
    }
    return digest([_json(parts)])[:KEY]


def floor_key(name: str, version: int, text: str, seed: int, base: str) -> str:
    """Return the key of a floor of an SAE, whose identity is `base`."""
    return digest([str(FORMAT), name, str(version), text, str(seed), base])[:KEY]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def measure_each(
    config: Eval, members: Mapping[str, Member], own: Container[str], tools: Tools, cells: Cells
) -> dict[str, Outcome]:
    """Measure what has no result yet; an error belongs to its own cell and stops no other.

    Args:
        config: the evaluation.
        members: what is measured, by key.
        own: keys whose tables of latents are kept; nobody looks at those of floors.
        tools: of the evaluation.
        cells: where results are, and go.

    Returns:
        an outcome by key.
    """
    found: dict[str, Outcome] = {}
    wanted: dict[str, Member] = {}
    for key, member in members.items():
        if (known := cells.find(key)) is not None:
            found[key] = known
        else:
            wanted[key] = member
    by_model: dict[int, dict[str, Subject]] = {}
    for key, member in wanted.items():
        try:
            subject = member.subject
            if why := _not_measured(config, subject):
                found[key] = Failed(why, skipped=True)
            else:
                by_model.setdefault(id(subject.lm), {})[key] = subject
        except Exception as error:  # of a floor that cannot be made, whatever it is
            found[key] = failure_of(error)
    for subjects in by_model.values():
        keys = list(subjects)
        for first in range(0, len(keys), AT_ONCE):
            some = {key: subjects[key] for key in keys[first : first + AT_ONCE]}
            found |= _measured(config, some, own, tools, cells)
    return found


def _not_measured(config: Eval, subject: Subject) -> str:
    """Return why an evaluation does not measure SAEs of this kind; nothing where it does."""
    site_fits = not config.one_site or subject.read == subject.write
    if config.events.issuperset(subject.sae.cfg.event) and site_fits:
        return ""
    try:
        config.check(subject)
    except ConfigError as error:
        return str(error)
    return ""


def _measured(
    config: Eval, subjects: Mapping[str, Subject], own: Container[str], tools: Tools, cells: Cells
) -> dict[str, Outcome]:
    """Measure in one call; where that fails, each by itself tells which it was."""
    began = time.monotonic()
    tools, tables = _collecting(tools, list(subjects.values()))
    try:
        results = config.run_all(list(subjects.values()), tools)
    except Exception as error:  # whatever it is, the others are measured
        failed = failure_of(error)
        if len(subjects) == 1:
            return dict.fromkeys(subjects, failed)
        found: dict[str, Outcome] = {}
        for key, subject in subjects.items():
            found |= _measured(config, {key: subject}, own, tools, cells)
        return found
    seconds = (time.monotonic() - began) / len(subjects)
    done = {k: _timed(result, seconds) for k, result in zip(subjects, results, strict=True)}
    for (key, result), mine in zip(done.items(), tables, strict=True):
        cells.keep(key, result, [mine] if key in own else ())
    return dict(done)


def measure_together(
    config: JointEval, key: str, subjects: Sequence[Subject], tools: Tools, cells: Cells
) -> Outcome:
    """Measure SAEs together, where there is no result of them yet."""
    if (known := cells.find(key)) is not None:
        return known
    began = time.monotonic()
    tools, tables = _collecting(tools, subjects)
    try:
        result = config.run_together(subjects, tools)
    except Exception as error:  # whatever it is, the others are measured
        return failure_of(error)
    result = _timed(result, time.monotonic() - began)
    cells.keep(key, result, tables)
    return result


def _collecting(tools: Tools, subjects: Sequence[Subject]) -> tuple[Tools, list[dict[str, Table]]]:
    """Return tools that keep tables of latents in what is returned with them, one a subject."""
    found: list[dict[str, Table]] = [{} for _ in subjects]

    def keep(subject: Subject, name: str, table: Table) -> None:
        place = next(i for i, one in enumerate(subjects) if one is subject)
        found[place][name] = table

    return tools._replace(keep=keep), found


def _timed(result: Result, seconds: float) -> Result:
    """Return a result that says how long it took, its part of what was shared."""
    return replace(result, provenance=result.provenance | {"seconds_each": round(seconds, 3)})
