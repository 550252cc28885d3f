"""Qwen2 0.5B with JumpReLU SAEs of its lower half."""

from saekit.studies.locality.presets.base import Preset

PRESET = Preset(
    key="qwen2-0.5b",
    model="Qwen/Qwen2-0.5B",
    n_layers=24,
    d_model=896,
    sae_format="sae_lens",
    architecture="jumprelu",
    repo="chanind/sae-qwen2-0.5b-res",
    folder="blocks.{layer}.hook_resid_post",
    release="chanind/sae-qwen2-0.5b-res",
    site_name="resid_post_layer{layer}",
    layers=tuple(range(12)),
    threshold=0.0,
    d_sae=0,
)
