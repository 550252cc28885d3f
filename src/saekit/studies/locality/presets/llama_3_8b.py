"""Llama 3 8B with TopK SAEs of 32 times its width."""

from saekit.studies.locality.presets.base import Preset

PRESET = Preset(
    key="llama-3-8b",
    model="meta-llama/Meta-Llama-3-8B",
    n_layers=32,
    d_model=4096,
    sae_format="sparsify",
    architecture="topk",
    repo="EleutherAI/sae-llama-3-8b-32x",
    folder="layers.{layer}",
    site_name="resid_layer{layer}",
    layers=tuple(range(0, 32, 3)),
    threshold=0.0,
    d_sae=131072,
    forgets=("b_dec",),
)
