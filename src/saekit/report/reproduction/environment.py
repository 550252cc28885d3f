"""What was different when something was made: versions, machine, code, model and text."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from saekit.core import provenance
from saekit.core.errors import SaekitError
from saekit.report.origin import Origin

CHANGED = "+changes"  # of a commit: the source was edited
UNKNOWN = "not recorded"
# Of a machine: what does not decide a bit of any number.
_FREE = ("system", "cores", "memory_kept")


class Fact(NamedTuple):
    """One fact of an environment, then and now.

    Attributes:
        what: it is.
        then: when the thing was made.
        now: on this machine.
        same: whether both are known to be equal.
        decides: whether numbers may have other bits where it differs.
    """

    what: str
    then: str
    now: str
    same: bool
    decides: bool


def environment(origin: Origin) -> list[Fact]:
    """Return what of the environment was recorded, next to what is here.

    Model and text are read as far as that needs no pass: the files of a model in a folder, the
    documents of a text. A commit of the hub stands for itself.

    Args:
        origin: of what was made.
    """
    then, now = origin.provenance, provenance.collect()
    found = [_fact(key, then.get(key), now[key]) for key in ("saekit", "commit", "python")]
    for part in ("libraries", "machine"):
        said = then.get(part)
        before = said if isinstance(said, dict) else {}
        for key in dict.fromkeys([*before, *now[part]]):
            is_free = part == "machine" and key in _FREE
            here = threads(origin) if key == "threads" else now[part].get(key)
            found.append(_fact(key, before.get(key, UNKNOWN), here, decides=not is_free))
    for name, file in (then.get("parts") or {}).items():
        found.append(_fact(name, file, (now.get("parts") or {}).get(name)))
    return [*found, *_model(origin), *_text(origin)]


def threads(origin: Origin) -> int | None:
    """Return how many threads the command will have: OMP_NUM_THREADS, or as many as it had."""
    if "OMP_NUM_THREADS" in os.environ:
        asked = os.environ["OMP_NUM_THREADS"]
        return int(asked) if asked.isdigit() else None
    before = (origin.provenance.get("machine") or {}).get("threads")
    return before if isinstance(before, int) else None


def exact(facts: list[Fact]) -> bool:
    """Tell whether the same bits are promised: all that decides is the same, on a CPU."""
    gpu = next((one for one in facts if one.what == "gpu"), None)
    return (
        all(one.same for one in facts if one.decides) and gpu is not None and gpu.now == _said(None)
    )


def _fact(what: str, then: Any, now: Any, decides: bool = True) -> Fact:
    same = then == now and CHANGED not in str(then)
    edited = " (of which nothing is recorded)" if CHANGED in str(then) else ""
    return Fact(what, _said(then) + edited, _said(now), same, decides)


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(str(one) for one in value.values())
    return "none" if value is None else str(value)


def _model(origin: Origin) -> Iterator[Fact]:
    said = origin.model
    if not said:
        return
    name, revision = said.get("name"), said.get("revision")
    try:
        now = _revision(str(name), revision, Path(begun(origin).get("cwd", "")))
    except (SaekitError, OSError) as error:
        now = f"cannot be read: {error}"
    yield _fact(f"model {name}", revision or UNKNOWN, now or "known when it is loaded")


def _revision(name: str, before: Any, cwd: Path) -> str | None:
    """Return the revision that a model would be loaded with; None where only loading tells."""
    from saekit.models.embedded.unpacking import MODELS
    from saekit.models.hf import weights_revision
    from saekit.models.model_files import is_commit

    if name in MODELS:
        return MODELS[name].sha256
    if (folder := cwd / Path(name).expanduser()).is_dir():
        return weights_revision(folder)
    return before if isinstance(before, str) and is_commit(before) else None


def _text(origin: Origin) -> Iterator[Fact]:
    """Yield whether the text is what it was, by what identifies its documents."""
    from saekit.core.files import digest, to_json_line
    from saekit.data.base import registry

    said = origin.record.get("corpus")
    if not isinstance(said, dict) or not isinstance(said.get("corpus"), dict):
        return
    settings, then = said["corpus"], said.get("text")
    try:
        corpus = registry.get(settings["name"]).from_dict(located(origin, settings))
        now = digest([to_json_line(corpus.provenance())])[:16]
    except (SaekitError, OSError, KeyError) as error:
        now = f"cannot be read: {error}"
    before = UNKNOWN if then is None else digest([to_json_line(then)])[:16]
    yield _fact(f"text {settings.get('name')}", before, now)


def located(origin: Origin, corpus: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a text with its files where they are now.

    Raises:
        FormatError: a file is nowhere to be found.
    """
    from saekit.training import record

    return record.found_again({"corpus": corpus}, origin.folder, begun(origin))["corpus"]


def begun(origin: Origin) -> dict[str, Any]:
    """Return where a run was begun, and where its command ran: what paths are relative to."""
    from saekit.core.files import read_object

    file = origin.folder / "run.json"
    said = read_object(file).get("begun_with") if file.is_file() else {}
    folder = origin.provenance.get("folder")
    cwd = {"cwd": str(Path(folder).expanduser())} if isinstance(folder, str) else {}
    return cwd | (said if isinstance(said, dict) else {})
