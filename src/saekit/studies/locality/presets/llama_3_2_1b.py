"""Llama 3.2 1B with JumpReLU SAEs of its lower half."""

from saekit.studies.locality.presets.base import Preset

PRESET = Preset(
    key="llama-3.2-1b",
    model="unsloth/Llama-3.2-1B",
    n_layers=16,
    d_model=2048,
    sae_format="sae_lens",
    architecture="jumprelu",
    repo="chanind/sae-llama-3.2-1b-res",
    folder="blocks.{layer}.hook_resid_post",
    release="chanind/sae-llama-3.2-1b-res",
    site_name="resid_layer{layer}",
    layers=tuple(range(9)),
    threshold=0.0,
    d_sae=0,
)
