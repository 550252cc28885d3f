"""Files of a truth: our own layout, which holds everything that was drawn."""

from pathlib import Path

from saekit.core.errors import FormatError
from saekit.core.files import read_json, read_tensors, write_json, write_tensors
from saekit.data.truth.base import Truth, TruthConfig

CONFIG, TENSORS = "truth.json", "truth.safetensors"
VERSION = 1


def save(truth: Truth, folder: Path) -> None:
    """Write config and tensors."""
    write_tensors(folder / TENSORS, truth.tensors)
    write_json(folder / CONFIG, {
        "format_version": VERSION, "truth": truth.cfg.to_dict(), "notes": truth.notes,
    })  # fmt: skip


def load(folder: Path) -> Truth:
    """Read what `save` wrote.

    Raises:
        FormatError: a file is missing, damaged, or of a later version.
    """
    raw = read_json(folder / CONFIG)
    if raw.get("format_version") != VERSION:
        raise FormatError(
            f"{folder / CONFIG} has format_version {raw.get('format_version')!r}; "
            f"this saekit reads {VERSION}. Update saekit."
        )
    tensors = read_tensors(folder / TENSORS)
    return Truth(TruthConfig.from_dict(raw["truth"]), tensors, raw["notes"])
