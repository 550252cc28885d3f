"""`saekit.convert`: an SAE written in another format, in which it gives the same results."""

from pathlib import Path

from saekit.core.errors import ConfigError
from saekit.hub.formats.base import registry
from saekit.hub.native import load
from saekit.hub.trained import TrainedSAE


def convert(
    sae: TrainedSAE | Path | str,
    out: Path | str,
    *,
    format: str = "saekit",
    overwrite: bool = False,
) -> Path:
    """Write an SAE in a format, for another library or for saekit; return the folder.

    Args:
        sae: the SAE, its folder in any format, or a published SAE's name. What its files do not
            say is given to `load`.
        out: the folder to make.
        format: which (`saekit list formats`).
        overwrite: write into a folder that is not empty.

    Raises:
        ConfigError: the folder is not empty, or the format cannot hold this SAE.
        UnknownNameError: there is no such format.
        FormatError: the SAE cannot be read.
    """
    if not isinstance(out, Path | str) or out == "":
        raise ConfigError(f"`out` is the folder to make, as text or a Path; got {out!r:.80}.")
    folder = Path(out)
    check_place(folder, format, overwrite=overwrite)
    loaded = sae if isinstance(sae, TrainedSAE) else load(sae, scaled=True)
    registry.get(format)().write(loaded.sae, loaded.card, folder)
    return folder


def check_place(folder: Path, format: str, *, overwrite: bool) -> None:
    """Refuse a folder that holds something, and a format that there is not.

    Raises: as `convert`.
    """
    layout = registry.get(format)()
    if folder.is_file():
        raise ConfigError(f"{folder} is a file; an SAE is written to a folder. Name another.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise ConfigError(
            f"{folder} is not empty. Name another folder, or write into it: overwrite=True, on a "
            f"command line --overwrite."
        )
    there = [name for name in registry.names() if registry.get(name)().detect(folder)]
    if there and not layout.detect(folder):
        raise ConfigError(
            f"{folder} holds an SAE in the format {there[0]}; with one in {format} next to it "
            f"nothing would say which it is. Name another folder."
        )
