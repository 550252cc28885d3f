"""Pythia 70M (deduped) with the dictionaries of Marks and others."""

from saekit.studies.locality.presets.base import Preset

PRESET = Preset(
    key="pythia-70m",
    model="EleutherAI/pythia-70m-deduped",
    n_layers=6,
    d_model=512,
    sae_format="dictionary_learning",
    architecture="relu",
    repo="saprmarks/pythia-70m-deduped-saes",
    folder="dictionaries/pythia-70m-deduped/resid_out_layer{layer}/10_32768",
    site_name="resid_out_layer{layer}",
    layers=tuple(range(6)),
    threshold=0.2,
    d_sae=32768,
    forgets=("b_dec",),
)
