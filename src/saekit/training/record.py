"""Record: what a run, a sweep or a fit writes of itself first, and is compared with on resume.

The file (run.json, fit.json, sweep.json) holds the settings, the version of its format, and what
else decides the weights: the model as it was loaded, dtype included, and the text. It is written
before anything is computed, so that whenever a run is killed it goes on as it was begun.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from saekit.core import provenance
from saekit.core.border import reading
from saekit.core.config import Config
from saekit.core.errors import ConfigError, FormatError, Interrupted, SaekitError
from saekit.core.files import digest, read_json, read_object, write_json
from saekit.data.base import Corpus
from saekit.models.embedded.unpacking import MODELS
from saekit.models.together import named
from saekit.training.checkpoint import run_digest
from saekit.training.standing import DONE as DONE
from saekit.training.standing import FAILED, INTERRUPTED, MANIFEST, RUNNING
from saekit.training.standing import is_done as is_done
from saekit.training.standing import status as status

VERSION = 1
VERSION_KEY, BEGUN_KEY = "format_version", "begun_with"
PATHS = "paths"  # the field of every corpus that reads files of the user
# May differ: where things lie, and which version goes on with them.
_FREE = ("name", "saekit", "folder", "cwd", "cache_folder")


class Record(NamedTuple):
    """What a file of settings says.

    Attributes:
        settings: as they were written; what checkpoints belong to.
        begun_with: what else decides the weights; empty where an early version wrote the file.
        version: of the format; 0: before there was one.
    """

    settings: dict[str, Any]
    begun_with: dict[str, Any]
    version: int = VERSION

    @property
    def identity(self) -> str:
        """What checkpoints of this run are marked with."""
        return run_digest(self.settings)


def begin(path: Path, settings: Mapping[str, Any], begun_with: dict[str, Any]) -> Record:
    """Write the file of a new run."""
    head = {VERSION_KEY: VERSION, BEGUN_KEY: begun_with}
    write_json(path, dict(settings) | head)
    return Record(dict(settings), begun_with)


def read(path: Path) -> Record:
    """Read the file of a run.

    Raises:
        FormatError: there is none, or a later version of saekit wrote it.
    """
    raw = read_object(path)
    settings, begun = settings_of(raw, path), _begun_of(raw, path)
    return Record(settings, begun, raw.get(VERSION_KEY, 0))


def _begun_of(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    begun = raw.get(BEGUN_KEY) or {}
    if not isinstance(begun, dict):
        raise FormatError(f"`{BEGUN_KEY}` of {path} must be an object; got {begun!r:.80}.")
    return begun


def settings_of(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the settings alone of what a file of a run holds.

    Raises:
        FormatError: a later version of saekit wrote it.
    """
    version = raw.get(VERSION_KEY, 0)
    if not isinstance(version, int) or version > VERSION:
        by = _begun_of(raw, path).get("saekit", "a later one")
        raise FormatError(
            f"{path} has format_version {version!r} and was written by saekit {by}; this saekit "
            f"reads up to {VERSION}. Upgrade saekit."
        )
    return {k: v for k, v in raw.items() if k not in (VERSION_KEY, BEGUN_KEY)}


def begun_with(
    model: Mapping[str, Any] | None, corpus: Corpus | None, out: Path, **more: Any
) -> dict[str, Any]:
    """Return what decides the weights beside the settings, and where things lay.

    Args:
        model: what the language model says of itself.
        corpus: the text, where it is read; None where a cache of activations stands for it.
        out: the folder of the run.
        more: of the kind of run, as the identity of a cache.
    """
    return {
        "saekit": provenance.collect()["saekit"],
        "folder": str(out.absolute()),
        "cwd": str(Path.cwd()),
        "model": None if model is None else dict(model),
        "text": None if corpus is None else fingerprint(corpus),
        **more,
    }


def fingerprint(corpus: Corpus) -> str:
    """Return a digest of a text and how it is split, wherever its files lie."""
    parts = (without_places(corpus.to_dict()), corpus.provenance())
    return digest(json.dumps(part, sort_keys=True) for part in parts)


def without_places(raw: Any) -> Any:
    """Return settings without the paths of corpora and the folder of a model."""
    if isinstance(raw, Mapping):
        kept = {k: without_places(v) for k, v in raw.items() if k != PATHS}
        if isinstance(kept.get("model"), str):
            kept["model"] = Path(kept["model"]).name
        return kept
    return [without_places(v) for v in raw] if isinstance(raw, list) else raw


def compare(before: Record, now: Record, out: Path) -> None:
    """Refuse to go on with a run with anything else than it was begun with.

    Raises:
        ConfigError: it names what differs.
    """
    old, new = without_places(before.settings), without_places(now.settings)
    if changed := _changed(old, new):
        raise ConfigError(
            f"{out} holds a run with other settings ({', '.join(changed)}); resume it as it was."
        )
    for key, was in before.begun_with.items():
        is_now = now.begun_with.get(key)
        if isinstance(was, dict) and isinstance(is_now, dict):
            pairs = {k: (was[k], is_now.get(k)) for k in was if k not in _FREE}
        else:
            pairs = {} if key in _FREE else {"": (was, is_now)}
        for part, (a, b) in pairs.items():
            if a != b:
                raise ConfigError(_differs(f"{key}.{part}" if part else key, a, b, out))


def _differs(name: str, was: Any, now: Any, out: Path) -> str:
    if name == "text":
        return (
            f"The text of `corpus` is not what it was when the run in {out} was begun: it would "
            f"go on with other tokens. Put the text back, or train anew into another folder."
        )
    if name.startswith("parts"):
        return (
            f"The run in {out} was begun with {name.removeprefix('parts.')} of a user's own, from "
            f"{was!r}; got {now!r}. Name the file as it was: saekit --use FILE."
        )
    if name.startswith("vectors"):
        return (
            f"The run in {out} was begun on other vectors ({name} {was!r}; got {now!r}). Put "
            f"them back, or train anew into another folder."
        )
    return (
        f"The run in {out} was begun with {name} {was!r}; got {now!r}. Resume it with the same "
        f"model, revision, dtype and activations."
    )


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(str(k) for k in {*old, *new} if old.get(k) != new.get(k) and k != "streams")


def completed(settings: Mapping[str, Any], config: type[Config]) -> dict[str, Any]:
    """Return settings with the defaults of what an earlier version did not have."""
    return config.from_dict(dict(settings)).to_dict()


def absolute(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a raw run in which a model's folder is named so that it is found from anywhere."""
    name = raw.get("model")
    if not isinstance(name, str):
        return raw
    several = {} if Path(name).expanduser().is_dir() else named(name)
    if several:
        parts = (f"{short}={_absolute(one)}" for short, one in several.items())
        return raw | {"model": ",".join(parts)}
    return raw | {"model": _absolute(name)}


def _absolute(name: str) -> str:
    folder = Path(name).expanduser()
    is_folder = folder.is_dir() and (folder / "config.json").is_file()
    return str(folder.absolute()) if is_folder else name


def found_again(raw: dict[str, Any], out: Path, made: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw run with the places of model and text where they are now.

    What is not where it was is looked for next to the run: where it would be if everything had
    been moved together, and by its name in the folders above.

    Args:
        raw: settings, as they were recorded.
        out: the folder of the run now.
        made: what the run was begun with, which says where; may be empty.

    Raises:
        FormatError: a folder or a file is nowhere to be found, and says what was where; or the
            settings are none.
    """
    with reading(out, "a run"):
        if isinstance(raw.get("model"), str) and _is_place(raw["model"], made):
            raw = raw | {"model": _place(raw["model"], out, made, "model")}
        if isinstance(raw.get("corpus"), dict):
            raw = raw | {"corpus": _corpus_found(raw["corpus"], out, made)}
        return raw


def _corpus_found(raw: dict[str, Any], out: Path, made: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(raw)
    if PATHS in raw:
        found[PATHS] = [_place(path, out, made, "text") for path in raw[PATHS]]
    if "parts" in raw:
        found["parts"] = [_corpus_found(part, out, made) for part in raw["parts"]]
    return found


def _is_place(name: str, made: Mapping[str, Any]) -> bool:
    """Return whether a model's name was that of a folder, as far as the record says."""
    if Path(name).is_absolute() or name.startswith((".", "~")):
        return True
    revision = str((made.get("model") or {}).get("revision") or "")
    return len(revision) == 64 and name not in MODELS  # a digest of files; hub commits have 40


def _place(path: str, out: Path, made: Mapping[str, Any], what: str) -> str:
    from saekit.data.corpora.files import matches

    was = Path(path).expanduser()
    if was.exists() or matches(str(was)):
        return str(was.absolute())
    before = Path(made.get("cwd", "")) / was
    here, tried = out.absolute(), [before]
    if made.get("folder"):
        moved = here / os.path.relpath(before, made["folder"])
        tried.append(Path(os.path.normpath(moved)))
    for folder in (here, here.parent):
        tried += [folder / was.name] + ([] if was.is_absolute() else [folder / was])
    for candidate in tried:
        if candidate.exists() or matches(str(candidate)):
            return str(candidate)
    where = f" of {made['cwd']}" if made.get("cwd") and not was.is_absolute() else ""
    raise FormatError(
        f"The run in {out} was made with the {what} {path}{where}, which is not there now, nor "
        f"next to the run. Put it back where it was or next to the run"
        + (", or name it with --model." if what == "model" else ", or name a text with --corpus.")
    )


def note(out: Path, status: str, reason: str | None = None) -> None:
    """Write into a run's manifest how it stands."""
    path = out / MANIFEST
    if path.exists():
        told = {"status": status} | ({} if reason is None else {"reason": reason})
        write_json(path, {k: v for k, v in read_json(path).items() if k != "reason"} | told)


def note_end(out: Path, error: BaseException) -> None:
    """Write into the manifest of a run under way that it ended, and why."""
    is_stop = isinstance(error, Interrupted | KeyboardInterrupt)
    reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    # The error under way says more than one about saying it, as where the disk is full.
    with contextlib.suppress(SaekitError, OSError, KeyError):
        if read_json(out / MANIFEST)["status"] == RUNNING:
            note(out, INTERRUPTED if is_stop else FAILED, reason or type(error).__name__)
