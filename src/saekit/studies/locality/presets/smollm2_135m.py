"""SmolLM2-135M-Instruct unpacked from 4 bits, the embedded model, with SAEs of one's own."""

from saekit.studies.locality.presets.base import Preset

PRESET = Preset(
    key="smollm2-135m",
    model="smollm2-135m",
    n_layers=30,
    d_model=576,
    sae_format="saekit",
    architecture="topk",
    repo="",
    folder="",
    site_name="resid_post_layer{layer}",
    layers=tuple(range(30)),
    threshold=0.0,
    d_sae=4096,
)
