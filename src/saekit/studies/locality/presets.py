"""Models with published SAEs, by name: which files, and how the published runs read them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, UnknownNameError, nearest
from saekit.models.sites import Site


@dataclass(frozen=True, kw_only=True)
class Preset(Config):
    """A model, its SAEs, and how the published runs read them.

    Args:
        key: the preset's name.
        model: by the name it is loaded under.
        n_layers: of the model.
        d_model: of the model.
        sae_format: layout of the SAE files, as `saekit list formats` names it.
        architecture: of the SAEs, in saekit's terms.
        repo: where the files are, on the hub; empty for SAEs of one's own.
        folder: of one layer's files, below the root that the repo was fetched to; ``{layer}``
            stands for the layer, ``{l0}`` for its number in `l0`.
        l0: by layer, what the release's folders are told apart by.
        sae_id: what SAELens calls one layer's files, where that is another name; a folder of
            that name below the root is read too.
        release: the name under which SAELens lists them; empty where it does not.
        site_name: what the published files call the site; ``{layer}`` stands for the layer.
        layers: that the published runs read.
        threshold: activation above which a latent counts there, act units.
        n_ctx_max: longest context of the published sweep.
        n_ctx_step: its step.
        d_sae: latents; 0 where layers differ or it is not known here.
        forgets: what the published encode leaves out of these SAEs: reproduced by
            `legacy_encode`.
    """

    name: ClassVar[str] = "locality_preset"
    key: str
    model: str
    n_layers: int = setting(least=1)
    d_model: int = setting(least=1)
    sae_format: str
    architecture: str
    repo: str
    folder: str
    l0: tuple[int, ...] = setting((), least=0)
    sae_id: str = ""
    release: str = ""
    site_name: str
    layers: tuple[int, ...] = setting(least=0)
    threshold: float = setting(least=0)
    n_ctx_max: int = setting(2048, least=2, unit="tokens")
    n_ctx_step: int = setting(128, least=1)
    d_sae: int = setting(least=0)
    forgets: tuple[str, ...] = ()

    def site(self, layer: int) -> Site:
        """Return the site of a layer: the stream after the block.

        Raises:
            ConfigError: the model has no such layer.
        """
        if not 0 <= layer < self.n_layers:
            raise ConfigError(
                f"{self.key} has layers 0..{self.n_layers - 1}; got {layer}. Published runs read "
                f"{', '.join(map(str, self.layers))}."
            )
        return Site(layer, "resid_post")

    def place(self, layer: int) -> str:
        """Return where a layer's SAE is in the release."""
        return self.folder.format(layer=layer, l0=self.l0[layer] if self.l0 else "")

    def sae_folder(self, root: Path, layer: int) -> Path:
        """Return where a layer's SAE is, below the folder that holds the release's files."""
        named = root / self.sae_id.format(layer=layer)
        return named if self.sae_id and named.is_dir() else root / self.place(layer)

    def published_site(self, layer: int) -> str:
        """Return what the published files call the site of a layer."""
        return self.site_name.format(layer=layer)


# One of each published release, and the embedded model.
_ALL = (
    # Pythia 70M (deduped) with the dictionaries of Marks and others.
    Preset(
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
    ),
    # GPT-2 small with the residual SAEs of OpenAI's size 32k, release v5.
    Preset(
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
        forgets=("b_dec", "layer_norm"),
    ),
    # Gemma 2 2B with Gemma Scope's residual SAEs of 16k latents.
    Preset(
        key="gemma-2-2b",
        model="google/gemma-2-2b",
        n_layers=26,
        d_model=2304,
        sae_format="gemma_scope",
        architecture="jumprelu",
        repo="google/gemma-scope-2b-pt-res",
        folder="layer_{layer}/width_16k/average_l0_{l0}",
        l0=(
            105,
            102,
            141,
            59,
            124,
            68,
            70,
            69,
            71,
            73,
            77,
            80,
            82,
            84,
            84,
            78,
            78,
            77,
            74,
            73,
            71,
            70,
            72,
            75,
            73,
            116,
        ),
        sae_id="layer_{layer}/width_16k/canonical",
        release="gemma-scope-2b-pt-res-canonical",
        site_name="resid_layer{layer}",
        layers=tuple(range(26)),
        threshold=0.0,
        d_sae=16384,
    ),
    # Llama 3.2 1B with JumpReLU SAEs of its lower half.
    Preset(
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
    ),
    # Llama 3 8B with TopK SAEs of 32 times its width.
    Preset(
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
    ),
    # Qwen2 0.5B with JumpReLU SAEs of its lower half.
    Preset(
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
    ),
    # SmolLM2-135M-Instruct unpacked from 4 bits, the embedded model, with SAEs of one's own.
    Preset(
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
    ),
)
PRESETS = {one.key: one for one in sorted(_ALL, key=lambda one: one.key)}


def preset(name: str) -> Preset:
    """Return a preset.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in PRESETS:
        raise UnknownNameError(
            f"There is no preset `{name}`; there are {', '.join(PRESETS)}.{nearest(name, PRESETS)}"
        )
    return PRESETS[name]
