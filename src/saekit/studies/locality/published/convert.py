"""Published locality files, one or a whole tree, as saekit's own: no pickle left."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from saekit.core.errors import ConfigError, FormatError, SaekitError
from saekit.core.files import read_json, replace_with, sha256_of, write_json
from saekit.core.npz import read_npz
from saekit.studies.locality.published import dataset
from saekit.studies.locality.published import reading as published
from saekit.studies.locality.published._flat import MACHINE

MANIFEST = "manifest.saekit.json"
COPIED = {".png", ".html", ".md", ".txt", ".pdf", ".svg"}


def convert(path: Path, out: Path) -> dict[str, Any]:
    """Write published files in saekit's own layout, in the same places.

    ``.pt`` files become .npz or .safetensors with a .json beside them. JSON is kept without the
    fields that describe the machine; CSV and .npz are checked and copied; figures, pages and text
    are copied. Links are not followed. One file that fails does not stop the others.

    Args:
        path: a file, or a folder with any of them below it.
        out: folder to make, empty or absent.

    Returns:
        The manifest, also in ``manifest.saekit.json``: ``files`` with their kinds, sources and
        SHA-256, ``failed`` with reasons, ``skipped``.

    Raises:
        FormatError: there is nothing at `path`.
        ConfigError: `out` is not empty, or within `path`.
    """
    if not path.exists():
        raise FormatError(f"There is nothing at {path}. Name a published file or folder.")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty. Name another folder.")
    if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise ConfigError(f"{out} is within {path}. Name a folder outside it.")
    found = list(_below(path)) if path.is_dir() else [path]
    root = path if path.is_dir() else path.parent
    manifest: dict[str, Any] = {"format": dataset.FORMAT, "version": dataset.VERSION}
    manifest |= {"left_out": list(MACHINE), "files": [], "failed": [], "skipped": []}
    for source in found:
        name = source.relative_to(root).as_posix()
        job = WAYS.get(source.suffix.lower())
        if source.is_symlink() or job is None:
            why = "a link" if source.is_symlink() else "of no kind that the layout has"
            manifest["skipped"].append({"source": name, "why": why})
            continue
        try:
            made = job(source, out / name)
        except SaekitError as error:
            manifest["failed"].append({"source": name, "why": str(error)})
            continue
        except Exception as error:  # a file of others may fail its reader in any way
            why = f"{source} is damaged: {type(error).__name__}: {str(error)[:300]}"
            manifest["failed"].append({"source": name, "why": why})
            continue
        for entry in made:
            where = entry.pop("at")
            entry["path"] = where.relative_to(out).as_posix()
            manifest["files"].append(
                entry
                | {"source": name, "source_sha256": sha256_of(source), "sha256": sha256_of(where)}
            )
    write_json(out / MANIFEST, manifest)
    return manifest


def _below(folder: Path) -> Iterator[Path]:
    """Yield files and links in a folder and those in it; what links lead to is left out."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _below(path)
        else:
            yield path


def _torch(source: Path, target: Path) -> list[dict[str, Any]]:
    result = published.read(source)
    head = {"kind": result.kind, "generation": result.generation, "notes": list(result.notes)}
    return [{"at": path, **head} for path in dataset.write(target.with_suffix(""), result)]


def _json(source: Path, target: Path) -> list[dict[str, Any]]:
    raw = read_json(source)
    if isinstance(raw, dict):
        raw = {k: v for k, v in raw.items() if k not in MACHINE}
    write_json(target, raw)
    return [{"at": target, "kind": "json"}]


def _csv(source: Path, target: Path) -> list[dict[str, Any]]:
    try:
        with source.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, strict=True)
            head = next(rows, [])
            n = 0
            for n, cells in enumerate(rows, start=1):
                if len(cells) != len(head):
                    raise FormatError(
                        f"{source}, line {n + 1}: {len(cells)} cells under {len(head)} names."
                    )
    except (csv.Error, UnicodeDecodeError) as error:
        raise FormatError(f"{source} is not CSV: {error}.") from error
    replace_with(target, source.read_bytes())
    return [{"at": target, "kind": "csv", "columns": head, "rows": n}]


def _npz(source: Path, target: Path) -> list[dict[str, Any]]:
    arrays = read_npz(source, kinds="fiubU")  # text is no object
    replace_with(target, source.read_bytes())
    return [{"at": target, "kind": "npz", "arrays": len(arrays)}]


def _copy(source: Path, target: Path) -> list[dict[str, Any]]:
    replace_with(target, source.read_bytes())
    return [{"at": target, "kind": "copy"}]


WAYS: dict[str, Callable[[Path, Path], list[dict[str, Any]]]] = {
    ".pt": _torch,
    ".json": _json,
    ".csv": _csv,
    ".npz": _npz,
    **dict.fromkeys(sorted(COPIED), _copy),
}
