"""The record at the head of an index: which files it has, and of which SAE and text it is.

The folder is made and read by `saekit.analysis`; steering reads a number of it from here.
"""

import shlex
from pathlib import Path
from typing import Any

from saekit.core.border import bordered, inside
from saekit.core.errors import FormatError
from saekit.core.files import read_json, sha256_of
from saekit.core.sealed import read_sealed

FORMAT, VERSION = "saekit.index", 2  # version 1 held every code, and one file of contexts
MANIFEST = "index.json"
LATENTS, EXAMPLES, DETAILS = "latents.parquet", "examples.parquet", "details.parquet"
CONTEXTS, VOCAB = "contexts.parquet", "vocab.parquet"
FILES = (LATENTS, EXAMPLES, DETAILS, CONTEXTS, VOCAB)
CODES = "codes"
INSIDE = "index"  # what `saekit index` calls the folder that it makes in a run
OLD = ("manifest.json", "totals.safetensors", "latents.csv", "contexts.json")


def command(folder: Path) -> str:
    """Return the command that makes an index again."""
    named = folder.parent if folder.name == INSIDE else folder
    if folder.parent.name == INSIDE:  # one site of an SAE that several share
        named = folder.parent.parent
    if named == folder:
        return f"saekit index RUN --out {shlex.quote(str(folder))}"
    return f"saekit index {shlex.quote(str(named))}"


def is_index(folder: Path) -> bool:
    """Return whether a folder holds an index of this version or an earlier one, by its files."""
    return (folder / MANIFEST).is_file()


def sites_in(folder: Path) -> list[str]:
    """Return the sites of a folder that holds an index for each of several."""
    if not folder.is_dir() or is_index(folder):
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and is_index(p))


@bordered("an index")
def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an index.

    Raises:
        FormatError: the folder holds none, one of an earlier version, or a damaged one; the text
            says which command makes it.
    """
    path, again = folder / MANIFEST, command(folder)
    if not path.is_file():
        if sites := sites_in(folder):
            raise FormatError(
                f"{folder} holds an index for each of {len(sites)} sites: {', '.join(sites)}. Name "
                f"one: {folder / sites[0]}"
            )
        if (folder / OLD[0]).is_file():
            raise FormatError(_old(folder, again))
        raise FormatError(f"There is no index in {folder}. Make one: {again}")
    try:
        raw = read_json(path)
        found = read_sealed(path) if isinstance(raw, dict) and "format" in raw else raw
    except FormatError as error:
        raise FormatError(f"{error} Make it again: {again}") from error
    if not isinstance(found, dict) or "format" not in found:
        raise FormatError(_old(folder, again))
    if found.get("format") != FORMAT or found.get("version") != VERSION:
        raise FormatError(
            f"{path} is `{found.get('format')}` version {found.get('version')}; this saekit reads "
            f"`{FORMAT}` version {VERSION}. Make it again: {again}"
        )
    for name in FILES:
        size = found["files"][name]["bytes"]
        file = inside(folder, name)
        if not file.is_file() or file.stat().st_size != size:
            came = f"has {file.stat().st_size:,} bytes" if file.is_file() else "is missing"
            raise FormatError(
                f"{file} {came}; the manifest says {size:,} bytes. Make it again: {again}"
            )
    return found


def checked_file(folder: Path, manifest: dict[str, Any], name: str) -> Path:
    """Return a file of an index whose SHA-256 is that of the manifest.

    Raises:
        FormatError: it is another.
    """
    path = inside(folder, name)
    if not path.is_file() or sha256_of(path) != manifest["files"][name]["sha256"]:
        raise FormatError(
            f"{path} is missing or damaged: its SHA-256 is not the recorded one. Make it again: "
            f"{command(folder)}"
        )
    return path


def check_weights(folder: Path, manifest: dict[str, Any], digest: str) -> None:
    """Refuse an index of other weights.

    Args:
        folder: of the index, for the message.
        manifest: its manifest.
        digest: of the weights at hand, from `saekit.hub.trained.weights_digest`.

    Raises:
        FormatError: it was made of others.
    """
    if manifest["weights"] != digest:
        raise FormatError(
            f"The index in {folder} was made of other weights than those of this SAE. Make it "
            f"again: {command(folder)}"
        )


def _old(folder: Path, again: str) -> str:
    return f"The index in {folder} was made by an earlier version; make it again: {again}"
