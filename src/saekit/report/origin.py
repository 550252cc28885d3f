"""What a file or folder was made from: the record of it, its provenance and its kind.

Every command writes where its numbers came from (`saekit.core.provenance`). Reports for a paper,
citations and reproductions find it here, wherever a kind of file keeps it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from saekit.core.border import reading
from saekit.core.errors import FormatError
from saekit.core.files import read_object
from saekit.core.result import Result

Kind = Literal["run", "result", "index", "comparison", "other"]
FIRST = ("index.json", "manifest.json", "comparison.json", "suite.json", "result.json")
CARDS = ("card.json", "sae/card.json")  # of an SAE without the record of its run
_KEYS = ("provenance", "environment", "made_from")  # looked at before the other fields
_DEEP = 3
MOST_CARDS = 50  # of the SAEs of a study that are read


class Origin(NamedTuple):
    """What was found of a file or folder.

    Attributes:
        path: as it was named.
        file: the JSON file that says where it came from.
        record: what that file holds.
        provenance: the part of it that `saekit.core.provenance.collect` gave.
        kind: what it is.
    """

    path: Path
    file: Path
    record: dict[str, Any]
    provenance: dict[str, Any]
    kind: Kind

    @property
    def folder(self) -> Path:
        """The folder that it lies in, or that it is."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def model(self) -> dict[str, Any]:
        """What the language model said of itself; empty where the record does not say."""
        places = (self.record.get("model"), self.provenance.get("model"))
        card = self.record.get("card")
        places += (card.get("model") if isinstance(card, dict) else None,)
        wrote = self.record.get("made_by")  # of a text that a model wrote
        if isinstance(wrote, dict) and isinstance(wrote.get("model"), str):
            places += ({"name": wrote["model"]} | {k: wrote.get(k) for k in ("revision", "dtype")},)
        return next((one for one in places if isinstance(one, dict)), {})

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decided it; empty where the record does not say."""
        places = (self.record.get(name) for name in ("config", "run", "settings"))
        found = (*places, self.provenance.get("settings"))
        return next((one for one in found if isinstance(one, dict)), {})


def origin_of(path: Path | str) -> Origin:
    """Return where a run, a result, a comparison, an index or a study came from.

    Args:
        path: a folder, or a JSON file in one.

    Raises:
        FormatError: nothing there says where it came from.
    """
    place = Path(path)
    if not place.exists():
        raise FormatError(
            f"There is no file or folder {path}. Name a run, a result (RUN/eval/core.json), a "
            f"comparison, an index or the folder of a study."
        )
    for file in _files(place):
        with reading(file, "a record of what was made"):
            record = read_object(file) if file.stat().st_size else {}
            if (made := _provenance(record)) is not None:
                return Origin(place, file, record, made, _kind(file, record))
    raise FormatError(
        f"{path} does not say where it came from: no JSON file there has a `provenance` with "
        f"`saekit` and `command`. Name what a command of saekit made, as a run or a result."
    )


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    others = sorted(p.name for p in place.glob("*.json"))
    names = dict.fromkeys([*FIRST, *others, *CARDS])
    return [place / name for name in names if (place / name).is_file()]


def _provenance(value: Any, deep: int = 0) -> dict[str, Any] | None:
    """Return the first part of a record that `collect` gave."""
    if not isinstance(value, dict) or deep > _DEEP:
        return None
    if isinstance(value.get("saekit"), str) and "command" in value:
        return value
    parts = [value.get(key) for key in _KEYS] + list(value.values())
    found = (_provenance(part, deep + 1) for part in parts)
    return next((one for one in found if one is not None), None)


def _kind(file: Path, record: dict[str, Any]) -> Kind:
    if record.get("kind") == "train" or {"run", "pair", "rules"} <= record.keys():
        return "run"
    if Result.is_record(record):
        return "result"
    if file.name == "index.json":
        return "index"
    return "comparison" if record.get("kind") == "comparison" else "other"


def results_in(origin: Origin) -> Iterator[Result]:
    """Yield what was measured: the result itself, or those of a run or of the SAEs of a study."""
    if origin.kind == "result":
        yield Result.read(origin.file)
    elif origin.kind in ("run", "other"):
        yield from results_of(origin.folder, "eval" if origin.kind == "run" else "**/eval")


def results_of(folder: Path, where: str = "eval") -> list[Result]:
    """Return the results in a run's folder; other files there, as a verdict of verify, are none.

    Args:
        folder: of the run.
        where: the folder of results in it, or a pattern.

    Raises:
        FormatError: one is damaged.
    """
    paths = sorted(folder.glob(f"{where}/*.json"))
    return [Result.read(path) for path in paths if is_result(path)]


def is_result(file: Path) -> bool:
    """Return whether a JSON file is a result of an evaluation.

    Raises:
        FormatError: it is damaged.
    """
    return _kind(file, read_object(file)) == "result"


def below(origin: Origin) -> Iterator[Origin]:
    """Yield where the SAEs came from that a result or a study is of, as far as they lie with it."""
    if origin.kind == "run":
        return
    is_result = origin.kind == "result" and origin.file.parent.name == "eval"
    folder = origin.folder.parent if is_result else origin.folder
    for path in sorted(folder.rglob("card.json"))[:MOST_CARDS]:
        raw = read_object(path)
        if _kind(path, raw) == "run" and (made := _provenance(raw)) is not None:
            yield Origin(path.parent, path, raw, made, "run")
