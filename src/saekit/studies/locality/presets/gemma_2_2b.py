"""Gemma 2 2B with Gemma Scope's residual SAEs of 16k latents."""

from saekit.studies.locality.presets.base import Preset

PRESET = Preset(
    key="gemma-2-2b",
    model="google/gemma-2-2b",
    n_layers=26,
    d_model=2304,
    sae_format="gemma_scope",
    architecture="jumprelu",
    repo="google/gemma-scope-2b-pt-res",
    folder="layer_{layer}/width_16k/average_l0_{l0}",
    l0=(105, 102, 141, 59, 124, 68, 70, 69, 71, 73, 77, 80, 82, 84, 84, 78, 78, 77, 74, 73, 71, 70,
        72, 75, 73, 116),
    sae_id="layer_{layer}/width_16k/canonical",
    release="gemma-scope-2b-pt-res-canonical",
    site_name="resid_layer{layer}",
    layers=tuple(range(26)),
    threshold=0.0,
    d_sae=16384,
)
