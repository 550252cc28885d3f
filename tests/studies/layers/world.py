"""A shared SAE on the tiny model, and codes whose sums can be written down."""

import functools
import tempfile
from pathlib import Path

import torch

from saekit.activations.pairs import Pair
from saekit.data.tokenise import TokenStream
from saekit.hub.native import load
from saekit.hub.shared import SharedSAE
from saekit.models.tiny import tiny
from saekit.saes.standardised import Standardised
from saekit.saes.topk import TopK
from saekit.studies.layers.sums import LayerCodes
from saekit.training.loop import train
from tests import world

SITES = ("L0.resid_pre", "L0.resid_post", "L1.resid_post")


@functools.cache
def trained(arch="standardised"):
    """Return the folder of a run over three sites of the tiny model, its model and its run."""
    folder = Path(tempfile.mkdtemp(prefix="saekit-layers-"))
    sizes = {"d_in": 32, "d_out": 32, "d_sae": 64}
    sae = TopK(**sizes, k=4)
    if arch == "standardised":
        sae = Standardised(**sizes, inner=sae)
    run = world.run(folder, pair=Pair(read=SITES, fold=True), sae=sae)
    train(run, tiny(), folder / "run", shown=False)
    return folder / "run", tiny(), run


def opened(arch="standardised", sites=None):
    """Return a shared SAE, its model, and held-out text."""
    folder, lm, run = trained(arch)
    loaded = load(folder, scaled=True)
    stream = TokenStream(run.corpus, "test", lm.tokenizer, n_ctx=run.n_ctx, bos_each_row=run.bos)
    return SharedSAE(loaded.sae, loaded.card, sites), lm, stream


def codes(acts):
    """Return LayerCodes of a dense array ``[layers, tokens, d_sae]``: tests may write one."""
    found = []
    for layer in acts:
        place, latent = layer.nonzero(as_tuple=True)
        found.append(LayerCodes(place, latent, layer[place, latent].float(), len(layer)))
    return found


def some_acts(n_layers=3, n_tokens=40, d_sae=7, seed=0, on=0.3):
    g = torch.Generator().manual_seed(seed)
    shape = (n_layers, n_tokens, d_sae)
    return torch.rand(shape, generator=g) * (torch.rand(shape, generator=g) < on)
