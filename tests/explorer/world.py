"""What tests of the explorer stand on: a folder with a plain SAE and one of two layers."""

from pathlib import Path

import saekit
from saekit.activations.pairs import Pair
from saekit.models.tiny import save_tiny
from tests import world

FOLDED = ("L0.resid_post", "L1.resid_post")


def make(folder: Path) -> Path:
    """Train two SAEs of seconds on a tiny model that lies in a folder, and measure one."""
    lm = saekit.load_model(str(save_tiny(folder / "llama", n_layers=2)))
    own = {"model": str(folder / "llama")}
    saekit.train(lm, run=world.run(folder, **own), out=folder / "plain", shown=False)
    folded = world.run(folder, pair=Pair(read=FOLDED, fold=True), **own)
    saekit.train(lm, run=folded, out=folder / "sub" / "folded", shown=False)
    scores = saekit.evaluate(saekit.load(folder / "plain"), lm, n_tokens=1500, ce_tokens=600)
    scores.write(folder / "plain" / "eval" / "core.json")
    saekit.index(folder / "plain", lm, tokens=3000, shown=False)
    saekit.index(folder / "sub" / "folded", lm, tokens=3000, shown=False)
    return folder
