"""Names of published SAEs: what they look like, and where results of one go.

``saelens:RELEASE/ID`` is an entry of SAELens' registry, or of a catalogue of your own;
``hf:OWNER/REPO[@REVISION]/PATH`` a folder or a file of a repository; ``py_4k_topk_s0`` one of
SAEBench's, and ``gscope_16k_l0_82`` one of Gemma Scope's of gemma-2-2b.

This file imports nothing that takes time: every `load` asks it.
"""

import re
from pathlib import Path

PREFIXES = ("saelens:", "hf:")
RESULTS = Path("saes")
_SHORT = re.compile(r"(?:py|gem)_[^/_]+_[^/]+|gscope_[^/]+")


def is_name(place: Path | str) -> bool:
    """Return whether a place is the name of a published SAE; a file or folder of it comes first."""
    text = str(place)
    if text.startswith(PREFIXES):
        return True
    return _SHORT.fullmatch(text) is not None and not Path(text).exists()


def results_folder(place: Path | str) -> Path:
    """Return where results of an SAE go: in its own folder, and of a published one in `saes`.

    Of an SAE that is one file of a folder, it is a folder next to it that is named as the file is.
    """
    if not is_name(place):
        there = Path(place)
        return there.with_suffix("") if there.is_file() else there
    parts = re.split(r"[:/]+", str(place))
    return RESULTS.joinpath(*(part for part in parts if part not in ("", ".", "..")))
