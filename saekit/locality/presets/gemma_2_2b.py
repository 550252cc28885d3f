"""Gemma 2 2B with Gemma Scope's residual SAEs of 16k latents."""

from saekit.locality.presets.base import Preset

PRESET = Preset(
    key="gemma-2-2b",
    model="google/gemma-2-2b",
    n_layers=26,
    d_model=2304,
    sae_format="gemma_scope",
    architecture="jumprelu",
    repo="google/gemma-scope-2b-pt-res",
    folder="layer_{layer}/width_16k/canonical",
    release="gemma-scope-2b-pt-res-canonical",
    site_name="resid_layer{layer}",
    layers=tuple(range(26)),
    threshold=0.0,
    d_sae=16384,
)
