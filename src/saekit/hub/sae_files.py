"""What tells the files of an SAE from those of another, found without loading weights.

An index records it, so that whoever shows the index can say that the SAE is another now.
"""

import functools
from pathlib import Path

from saekit.core.files import digest, read_object, sha256_of

SUMS = ("weights_sha256", "scalings_sha256")
SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".bin")


def fingerprint(folder: Path) -> str | None:
    """Return a digest of the weights in a folder, or of the run that it is; None: there are none.

    Of saekit's own files it is of the checksums that they record; of others of the files.

    Raises:
        FormatError: a file of it is damaged.
    """
    place = folder / "sae" if (folder / "sae" / "config.json").is_file() else folder
    if place.is_file():
        return _of_file(place, *_stamp(place))
    config = place / "config.json"
    if config.is_file():
        raw = read_object(config)
        if raw.get("format") == "saekit":
            shared = raw.get("shared")
            others = [str(shared.get("sha256"))] if isinstance(shared, dict) else []
            return digest([*(str(raw.get(name)) for name in SUMS), *others])
    files = sorted(p for p in place.iterdir() if p.suffix in SUFFIXES and p.is_file())
    if not files:
        return None
    return digest(part for p in files for part in (p.name, _of_file(p, *_stamp(p))))


def _stamp(path: Path) -> tuple[int, int, int]:
    there = path.stat()
    return there.st_mtime_ns, there.st_size, there.st_ino


@functools.lru_cache(maxsize=1024)
def _of_file(path: Path, *stamp: int) -> str:
    return sha256_of(path)
