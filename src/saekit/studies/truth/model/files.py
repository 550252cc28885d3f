"""Files of a truth: our own layout, which holds everything that was drawn."""

from pathlib import Path

from saekit.core.border import bordered
from saekit.core.errors import FormatError
from saekit.core.files import read_object, read_tensors, write_json, write_tensors
from saekit.studies.truth.model import published
from saekit.studies.truth.model.base import Truth, TruthConfig

CONFIG, TENSORS = "truth.json", "truth.safetensors"
VERSION = 1
NUMBERS = ("probabilities", "mean", "std", "average", "coins", "rates")  # one a feature


def save(truth: Truth, folder: Path) -> None:
    """Write config and tensors."""
    apart = {key: tensor.clone() for key, tensor in truth.tensors.items()}  # some are views
    write_tensors(folder / TENSORS, apart)
    write_json(
        folder / CONFIG,
        {"format_version": VERSION, "truth": truth.cfg.to_dict(), "notes": truth.notes},
    )


@bordered("a truth")
def load(folder: Path) -> Truth:
    """Read what `save` wrote, or the published layout.

    Raises:
        FormatError: a file is missing, damaged, or of a later version.
    """
    if published.is_published(folder):
        return published.load(folder)
    raw = read_object(folder / CONFIG)
    if raw.get("format_version") != VERSION:
        raise FormatError(
            f"{folder / CONFIG} has format_version {raw.get('format_version')!r}; "
            f"this saekit reads {VERSION}. Update saekit."
        )
    tensors = read_tensors(folder / TENSORS)
    cfg = TruthConfig.from_dict(raw["truth"])
    shapes = dict.fromkeys(NUMBERS, (cfg.n_features,)) | {
        "features": (cfg.n_features, cfg.d_model),
        "bias": (cfg.d_model,),
    }
    for key, shape in shapes.items():
        if key not in tensors or tuple(tensors[key].shape) != shape:
            has = list(tensors[key].shape) if key in tensors else "missing"
            raise FormatError(f"{folder / TENSORS}: `{key}` must be {list(shape)}; it is {has}.")
    return Truth(cfg, tensors, raw["notes"])
