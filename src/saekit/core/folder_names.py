"""What several folders are called: as much of the end of each path as tells it from the others."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from saekit.core.errors import ConfigError


def distinct_names(folders: Sequence[Path | None]) -> list[str]:
    """Return a name for each of several folders: its last part, or more where others have that.

    Only those that agree get longer names. What lies in no folder is an SAE by its place: `SAE 2`.

    Raises:
        ConfigError: a folder comes twice.
    """
    paths = [None if folder is None else folder.resolve() for folder in folders]
    known = Counter(path for path in paths if path is not None)
    if twice := [str(path) for path, n in known.items() if n > 1]:
        raise ConfigError(f"{', '.join(twice)} is named twice. Name each SAE once.")
    parts = [
        [f"SAE {i + 1}"] if path is None else [path.anchor.strip("/\\") or "/", *path.parts[1:]]
        for i, path in enumerate(paths)
    ]
    depths = [1] * len(parts)
    while True:
        names = ["/".join(one[-n:]) for one, n in zip(parts, depths, strict=True)]
        alike = {name for name, n in Counter(names).items() if n > 1}
        if not alike:
            return names
        depths = [n + (name in alike) for name, n in zip(names, depths, strict=True)]
