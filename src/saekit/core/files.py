"""Files that are whole or absent: written as a part, flushed, then renamed."""

import contextlib
import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saekit.core import parts
from saekit.core.border import JSON_BYTES, JSON_DEPTH, ordinary, parsed_json, reading
from saekit.core.errors import FormatError, ResourceError

if TYPE_CHECKING:
    from torch import Tensor

YAML_BYTES, YAML_MENTIONS = 2**20, 20
_WRITE_BYTES = 2**24  # of one call


def cache_folder() -> Path:
    """Return the folder of things that can be made again: ``$SAEKIT_CACHE`` or the user's."""
    if given := os.environ.get("SAEKIT_CACHE"):
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "saekit"


def replace_with(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the new, never a part.

    Raises:
        ResourceError: the disk is full or refuses the file; `path` is as it was.
    """

    def write(part: Path) -> Path:
        fd, left = parts.new_file(part), memoryview(data)
        try:
            while left:
                left = left[os.write(fd, left[:_WRITE_BYTES]) :]
        finally:
            os.close(fd)
        return part

    _replace(path, write, len(data))


def _replace(path: Path, write: Callable[[Path], Path], n_bytes: int) -> None:
    """Have `write` write a file next to `path`, then put it there.

    Args:
        path: where it goes.
        write: given the name of a part, returns the file it wrote, which is that or in it.
        n_bytes: its size, for the message.
    """
    part = parts.part_of(path)
    try:
        parts.make_folder(path.parent)
        whole = write(part)
        parts.sync(whole)
        whole.replace(path)
        if whole != part:  # the folder it was in
            parts.remove(part)
        parts.sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            parts.remove(part)
        if not isinstance(error, OSError):
            raise
        raise ResourceError(
            f"Could not write {path} ({n_bytes:,} bytes): {error.strerror or error}. "
            f"Free some space or choose another folder."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    replace_with(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinities become null, for JSON has no word for them."""
    write_text(path, json.dumps(_finite(value), indent=1, ensure_ascii=False) + "\n")


def to_json_line(value: Any) -> str:
    """Return one line of JSON, with NaN and infinities as null."""
    return json.dumps(_finite(value), ensure_ascii=False)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FormatError: it is missing, is not JSON, or is larger or nested deeper than is read.
    """
    ordinary(path, JSON_BYTES)
    with reading(path, "JSON"):
        return parsed_json(path.read_bytes(), str(path))


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FormatError: it is missing, is not JSON, or holds something else.
    """
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise FormatError(f"{path} must hold an object; it holds {type(raw).__name__}.")
    return raw


def read_settings(path: Path) -> Any:
    """Read a file of settings that a user wrote: YAML by its ending, or else JSON.

    Raises:
        FormatError: it is missing or is neither, is nested deeply, or has values that JSON has
            no word for.
    """
    if path.suffix not in (".yaml", ".yml"):
        return read_json(path)
    import yaml

    ordinary(path, YAML_BYTES)
    with reading(path, "YAML"):
        text = path.read_text(encoding="utf-8")
        # Each mention of an anchor repeats what it stands for, and mentions multiply.
        mentions = sum(isinstance(t, yaml.AliasToken) for t in yaml.scan(text, yaml.SafeLoader))
        if mentions > YAML_MENTIONS:
            raise FormatError(
                f"{path} mentions anchors {mentions} times; at most {YAML_MENTIONS} are read."
            )
        value = yaml.safe_load(text)
        return parsed_json(json.dumps(_only_json(value, path)), str(path))


def _only_json(value: Any, path: Path, depth: int = 0) -> Any:
    """Return a value of YAML as it is, refused where JSON has no word for it."""
    if depth > JSON_DEPTH:
        raise FormatError(f"{path} has settings nested more than {JSON_DEPTH} deep.")
    if isinstance(value, dict):
        if odd := [k for k in value if not isinstance(k, str)]:
            raise FormatError(f"{path} has a setting named {odd[0]!r}; a name is text.")
        return {k: _only_json(v, path, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [_only_json(v, path, depth + 1) for v in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise FormatError(
        f"{path} has the value {str(value)[:60]!r}, a {type(value).__name__}; settings are text, "
        f"numbers, true, false, null and lists of them. Put it in quotes."
    )


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; a torn last line (a killed writer) is left out.

    Raises:
        FormatError: a line is not an object, or is longer or nested deeper than is read.
    """
    ordinary(path)
    with path.open("rb") as file:
        for number in itertools.count(1):
            line = file.readline(JSON_BYTES)
            place = f"{path}, line {number:,}"
            if len(line) == JSON_BYTES:
                raise FormatError(f"{place} is longer than {JSON_BYTES:,} bytes.")
            if not line.endswith(b"\n"):
                return
            found = parsed_json(line, place)
            if not isinstance(found, dict):
                raise FormatError(f"{place} must be an object; it is {type(found).__name__}.")
            yield found


def write_tensors(
    path: Path, tensors: "Mapping[str, Tensor]", metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors, atomically, contiguous and on the CPU.

    They are written from where they are: as bytes first, all of them would be held twice.

    Raises:
        ResourceError: the disk is full or refuses the file; `path` is as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    whole = {k: v.detach().to("cpu").contiguous() for k, v in tensors.items()}

    def write(part: Path) -> Path:
        # The library writes a file of a random name first and makes it readable to its owner
        # alone: in a folder of its own it is found when it is left, and gets the usual mode.
        file = parts.new_folder(part) / path.name
        os.close(parts.new_file(file))
        mode = file.stat().st_mode
        try:
            save_file(whole, file, metadata)
        except SafetensorError as error:  # its word for a refusal of the disk
            raise OSError(str(error)) from error
        file.chmod(mode)
        return file

    _replace(path, write, sum(v.nbytes for v in whole.values()))


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Read a safetensors file.

    Raises:
        FormatError: it is missing or damaged.
    """
    from safetensors.torch import load_file

    ordinary(path)
    with reading(path, "safetensors"):  # which compares what its head claims with the file
        return load_file(path)


def tensor_names(path: Path) -> list[str]:
    """Return the names of the tensors in a safetensors file, from its header alone.

    Raises:
        FormatError: it is missing or damaged.
    """
    return _some_tensors(path, lambda name: False)[0]


def read_tensors_under(path: Path, prefix: str) -> "dict[str, Tensor]":
    """Read the tensors whose names begin with `prefix`, and name them by the rest.

    The others are not loaded.

    Raises:
        FormatError: the file is missing or damaged.
    """
    found = _some_tensors(path, lambda name: name.startswith(prefix))[1]
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def _some_tensors(
    path: Path, wanted: Callable[[str], bool]
) -> "tuple[list[str], dict[str, Tensor]]":
    """Return all names in a safetensors file, and the tensors that are wanted."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return names, {n: file.get_tensor(n) for n in names if wanted(n)}
    except FileNotFoundError as error:
        raise FormatError(f"There is no file {path}.") from error
    except SafetensorError as error:
        raise FormatError(f"{path} is damaged or is not safetensors: {error}.") from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises:
        FormatError: it is missing, or is no ordinary file.
    """
    ordinary(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(parts: Iterable[str | bytes]) -> str:
    """Return the SHA-256 of a sequence of strings, unambiguous about where each ends."""
    out = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        out.update(len(data).to_bytes(8, "big") + data)
    return out.hexdigest()


def need_space(folder: Path, n_bytes: int) -> None:
    """Refuse a job that would not fit on disk, before it starts.

    Raises:
        ResourceError: fewer than `n_bytes` are free where `folder` is or will be.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < n_bytes:
        raise ResourceError(
            f"{folder} needs about {n_bytes / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free. "
            f"Free some space or choose another folder."
        )


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return value
