"""GPT-2 small with the residual SAEs of OpenAI's size 32k, release v5."""

from saekit.studies.locality.presets.base import Preset

PRESET = Preset(
    key="gpt2-small",
    model="openai-community/gpt2",
    n_layers=12,
    d_model=768,
    sae_format="sae_lens",
    architecture="topk",
    repo="jbloom/GPT2-Small-OAI-v5-32k-resid-post-SAEs",
    folder="v5_32k_layer_{layer}.pt",
    sae_id="blocks.{layer}.hook_resid_post",
    release="gpt2-small-resid-post-v5-32k",
    site_name="resid_post_layer{layer}",
    layers=tuple(range(12)),
    threshold=0.2,
    n_ctx_max=1024,
    n_ctx_step=64,
    d_sae=32768,
    forgets=("b_dec", "layer_norm",),
)
