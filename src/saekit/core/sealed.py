"""Records that notice their own damage: JSON with a checksum of itself, and of files next to it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from saekit.core.errors import FormatError
from saekit.core.files import digest, read_json, sha256_of, to_json_line, write_json

SEAL, FILES = "seal", "sha256_of_files"


def write_sealed(path: Path, value: dict[str, Any], files: Iterable[Path] = ()) -> None:
    """Write an object as JSON with the checksum of its values, and of finished files.

    Args:
        path: the file.
        value: JSON-ready.
        files: in the folder of `path`; `read_sealed` compares them.
    """
    sums = {file.name: sha256_of(file) for file in files}
    whole = value | ({FILES: sums} if sums else {})
    write_json(path, whole | {SEAL: _seal(whole)})


def read_sealed(path: Path, *, unsealed: bool = False) -> dict[str, Any]:
    """Return what `write_sealed` wrote, without its checksums.

    Args:
        path: the file.
        unsealed: take a file without a seal, as earlier versions wrote it.

    Raises:
        FormatError: the file, or one that it has the checksum of, is missing or not what was
            written.
    """
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise FormatError(f"{path} must hold an object; got {type(raw).__name__}.")
    if SEAL not in raw:
        if unsealed:
            return raw
        raise FormatError(f"{path} has no checksum: it is damaged, or an earlier version's.")
    seal = raw.pop(SEAL)
    if seal != _seal(raw):
        raise FormatError(f"{path} is damaged: its values do not match their checksum.")
    for name, expected in raw.pop(FILES, {}).items():
        file = path.parent / Path(name).name
        if not file.is_file() or sha256_of(file) != expected:
            raise FormatError(f"{file} is missing or damaged: its SHA-256 is not the recorded one.")
    return raw


def _seal(value: dict[str, Any]) -> str:
    """Return a digest of values as they come back from JSON, whatever the order of keys."""
    return digest([to_json_line(_sorted(value))])


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _sorted(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [_sorted(v) for v in value]
    return value
