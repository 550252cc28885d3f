"""The command that makes a thing again, into another folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from saekit.core.errors import FormatError
from saekit.core.files import write_json
from saekit.core.registry import studies, used_files
from saekit.evals.base import registry
from saekit.models.model_files import pinned
from saekit.report.origin import Origin, results_in
from saekit.report.reproduction.environment import begun

# Commands that make something of settings alone. Others send, change or serve.
MAKES = (
    "train",
    "sweep",
    "fit",
    "eval",
    "compare",
    "index",
    "analyse",
    "verify",
    "cache",
    "query",
    "twins",
)
GO_ON = ("--resume", "--repair")  # of a command that writes into what is there
# What else a command would write.
ELSEWHERE = ("--out", "--figure", "--csv", "--payloads", "--export")
FLAGS = ("--quiet", "--json", "--bos", "--no-bos", "--fold", "--codes", "--fresh")
# Of `saekit eval`: what its settings do not hold.
KEPT = (
    *("--corpus", "--site", "--from", "--model", "--read", "--write", "--architecture", "--k"),
    *("--input-scale", "--bos", "--no-bos", "--n-ctx", "--dtype", "--processing"),
)
ROOM = "made"  # what the command makes, in the folder of the reproduction


class Again(NamedTuple):
    """How something is made again.

    Attributes:
        words: of the command line, after `saekit`.
        cwd: where it runs: what relative paths of the words are relative to.
        made: the file or folder that it will make.
        part: of that, what is compared: the command may make more than what was named.
    """

    words: list[str]
    cwd: Path
    made: Path
    part: Path = Path()


def again(origin: Origin, out: Path, *, write: bool = True) -> Again:
    """Return the command that makes something again.

    A run is made of its recorded settings, the result of one SAE of those of its evaluation, and
    all else by the words of the command that made it, with another `--out`.

    Args:
        origin: of what was made.
        out: the folder of the reproduction.
        write: write the settings of a run there, which the command reads.

    Raises:
        FormatError: a field that this needs was not recorded, or the command is not one that can be
            run again.
    """
    cwd = Path(begun(origin).get("cwd", Path.cwd()))
    cwd = cwd if cwd.is_dir() else Path.cwd()
    own = [word for file in used_files() for word in ("--use", str(file))]
    if origin.kind == "run":
        is_sae = origin.file == origin.folder / "card.json"
        words = [*own, *_train(origin, out, write)]
        return Again(words, cwd, out / ROOM, Path("sae" if is_sae else ""))
    if origin.kind == "result" and (found := _eval(origin, out)) is not None:
        return Again([*own, *found], cwd, out / ROOM / origin.file.name)
    if origin.kind == "index" and not _names_one(_recorded(origin), origin):
        return Again([*own, *_index(origin, out)], cwd, out / ROOM)
    words = _checked(_recorded(origin), origin)
    target, part = out / ROOM, _part(words, origin)
    if _is_file(words, origin):
        target, part = target / origin.file.name, Path()
    return Again([*own, *without(words, ELSEWHERE), "--out", str(target)], cwd, target, part)


def _part(words: list[str], origin: Origin) -> Path:
    """Return where what was named lies in the folder that its command made."""
    made = Path(_value(words, "--out")).name
    above = origin.folder.absolute().parts
    if not made or made not in above:
        return Path()
    last = len(above) - 1 - above[::-1].index(made)
    return Path(*above[last + 1 :])


def _value(words: Sequence[str], option: str) -> str:
    """Return the value of an option; "" where it is not among the words."""
    for i, word in enumerate(words):
        if word == option and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""


def without(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return the words of a command line without some options and their values."""
    found, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in options:
            skip = word not in FLAGS
        elif word.partition("=")[0] not in options:
            found.append(word)
    return found


def named(words: Sequence[str]) -> list[str]:
    """Return the words of a command that are no options and no values of them."""
    found, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("--"):
            skip = "=" not in word and word not in FLAGS
        else:
            found.append(word)
    return found


def _recorded(origin: Origin) -> list[str]:
    """Return the words of the command that made it, without files of the user's own parts."""
    words = origin.provenance.get("command")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return []
    rest = words[1:] if words and words[0] == "saekit" else []
    while rest and rest[0].partition("=")[0] == "--use":
        rest = rest[1 if "=" in rest[0] else 2 :]
    return rest


def _is_ours(words: Sequence[str], commands: Sequence[str]) -> bool:
    return bool(words) and words[0] in commands


def _checked(words: list[str], origin: Origin) -> list[str]:
    said = origin.provenance.get("command")
    if not words:
        raise FormatError(
            f"`command` in the provenance of {origin.file} is {_short(said)}, which is no command "
            f"of saekit: it was made from Python, or by an early version, and its settings alone "
            f"do not make it. Make it with a command, and reproduce that."
        )
    makes = (*MAKES, *(study.rpartition(".")[2] for study in studies()))
    if words[0] not in makes:
        raise FormatError(
            f"{origin.file} was made by `saekit {words[0]}`, which is not run again; those that "
            f"are: {', '.join(makes)}. Name a run or a result in it."
        )
    if "push" in words[:2] or "--" in words:
        raise FormatError(
            f"{origin.file} was made by `{_short(said)}`, which is not run again: it sends, or its "
            f"words do not say what is an option. Name a run or a result in it."
        )
    if going := [word for word in words if word.partition("=")[0] in GO_ON]:
        raise FormatError(
            f"{origin.file} was made with {going[0]}, which writes into what is there. Name the "
            f"run that was begun."
        )
    return words


def _short(said: Any) -> str:
    if not said:
        return "missing"
    return repr(" ".join(map(str, said)) if isinstance(said, list) else said)[:80]


def _is_file(words: list[str], origin: Origin) -> bool:
    """Tell whether the command makes a file and not a folder."""
    if out := _value(words, "--out"):
        return bool(Path(out).suffix)
    return origin.path.is_file() and origin.file.parent.name == "eval"


def _train(origin: Origin, out: Path, write: bool) -> list[str]:
    """Return the words that train a run anew, whose settings go into a file of their own."""
    from saekit.training import record

    settings = origin.settings
    lacking = [key for key in ("model", "pair", "corpus", "sae") if key not in settings]
    if lacking:
        raise FormatError(
            f"{origin.file} has no `{lacking[0]}` in the settings of its run, so that it cannot be "
            f"trained again. An SAE that was not trained by saekit, or by an early version of it, "
            f"has none."
        )
    if origin.record.get("status", "done") != "done":
        raise FormatError(
            f"The run in {origin.folder} is not finished. Go on with it: saekit train --resume "
            f"{origin.folder}"
        )
    settings = record.found_again(settings, origin.folder, begun(origin))
    file = out / "run.json"
    if write:
        write_json(file, settings)
    words = ["train", "--config", str(file), "--out", str(out / ROOM), "--quiet"]
    if (cache := (origin.record.get("cache") or {}).get("folder")) is not None:
        return [*words, "--cache", str(cache)]
    revision = pinned(settings.get("revision"), origin.model)
    words += [] if revision is None else ["--revision", revision]
    dtype = origin.model.get("dtype")
    return [*words, "--dtype", dtype] if dtype in ("float32", "bfloat16") else words


def _eval(origin: Origin, out: Path) -> list[str] | None:
    """Return the words that measure one SAE again; None where its own command has to say.

    A command that measured several SAEs wrote each result next to its SAE, and would again.
    """
    said, result = origin.provenance, next(results_in(origin))
    words, run = _recorded(origin), origin.file.parent.parent.absolute()
    is_eval = _is_ours(words, ("eval",)) and "--suite" not in words
    if "sae" not in said or result.name not in registry.names():
        return None
    there = any((run / one).is_file() for one in ("sae/card.json", "card.json", "config.json"))
    if origin.file.parent.name != "eval" or not there:
        if is_eval and len(named(words)) == 2:
            return None
        raise FormatError(
            f"{origin.file} does not lie in the folder `eval` of its SAE, and `command` in its "
            f"provenance does not name the SAE alone. Put it back, or measure anew: saekit eval "
            f"RUN --eval {result.name}"
        )
    target = out / ROOM / origin.file.name
    found = ["eval", str(run), "--eval", result.name, "--out", str(target), "--quiet"]
    found += ["--seed", str(said.get("seed") or 0)]
    found += ["--split", str(said["split"])] if said.get("split") else []
    for key, value in _flat({k: v for k, v in result.config.items() if k != "name"}):
        found += ["--set", f"{key}={json.dumps(value)}"]
    kept = _options(words[1:], KEPT) if is_eval else []
    if "--site" not in kept and isinstance(said.get("read"), str) and "+" not in said["read"]:
        kept += ["--site", said["read"]]
    return found + kept


def _options(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return some options of a command line with their values."""
    found: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        value = [rest.pop(0)] if word in names and word not in FLAGS and rest else []
        found += [word, *value] if word.partition("=")[0] in names else []
    return found


def _flat(raw: dict[str, Any], at: str = "") -> list[tuple[str, Any]]:
    """Return settings by their dotted paths; a name within is its group's, and stays."""
    found: list[tuple[str, Any]] = []
    for key, value in raw.items():
        if isinstance(value, dict):
            found += _flat({k: v for k, v in value.items() if k != "name"}, f"{at}{key}.")
        else:
            found.append((f"{at}{key}", value))
    return found


def _names_one(words: list[str], origin: Origin) -> bool:
    """Tell whether a command indexed one SAE into a folder that it named, as nowhere else."""
    return _is_ours(words, ("index",)) and len(named(words)) == 2 and _next_to(origin) is None


def _next_to(origin: Origin) -> Path | None:
    """Return the run that an index lies in, or that an index of one of its sites does."""
    above = origin.folder.absolute().parents[:2]
    return next((one for one in above if (one / "sae" / "card.json").is_file()), None)


def _index(origin: Origin, out: Path) -> list[str]:
    """Return the words that make an index again, which lies in the folder of its SAE."""
    made, run, words = origin.record, _next_to(origin), _recorded(origin)
    tokens = (made.get("settings") or {}).get("tokens", made.get("tokens"))
    if not isinstance(tokens, int) or run is None:
        lacks = "the SAE next to it" if run is None else "settings.tokens"
        raise FormatError(
            f"{origin.file} lacks {lacks}, so that the index cannot be made again. Make it anew: "
            f"saekit index RUN"
        )
    found = ["index", str(run), "--tokens", str(tokens), "--split", made.get("split", "train")]
    found += ["--site", str(made["at"])] if made.get("at") else []
    kept = [name for name in (*KEPT, "--codes") if name != "--site"]
    found += _options(words[1:], kept) if _is_ours(words, ("index",)) else []
    return [*found, "--out", str(out / ROOM), "--quiet"]
