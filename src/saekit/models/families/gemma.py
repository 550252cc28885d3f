"""Gemma: scaled embeddings; from 2 on, norms after attention and MLP too."""

from typing import Any, final

from typing_extensions import override

from saekit.models.families.llama import Llama
from saekit.models.family import Family, Tap, registry


@final
@registry.register
class Gemma(Family):
    """Gemma 1, 2 and 3 (text); `embed` holds the embedding times sqrt(d_model).

    In Gemma 2 and 3 what attention and MLP add to the stream has passed a norm of its own,
    and `attn_out` and `mlp_out` are taken after it.
    """

    name = "gemma"
    model_types = ("gemma", "gemma2", "gemma3", "gemma3_text")
    embed = "embed_tokens"
    final_norm = "norm"
    tiny_type = "gemma2"

    @staticmethod
    @override
    def points(config: Any) -> dict[str, Tap]:
        if config.model_type == "gemma":
            return Llama.points(config)
        norm = "layers.{i}.pre_feedforward_layernorm"
        return {
            "resid_pre": Tap("layers.{i}", "input"),
            "z": Tap("layers.{i}.self_attn.o_proj", "input"),
            "attn_out": Tap("layers.{i}.post_attention_layernorm", "output"),
            "resid_mid": Tap(norm, "input", shared=True),
            "mlp_normalized": Tap("layers.{i}.mlp", "input", norm=norm),
            "mlp_in": Tap("layers.{i}.mlp", "input"),
            "mlp_acts": Tap("layers.{i}.mlp.down_proj", "input"),
            "mlp_out": Tap("layers.{i}.post_feedforward_layernorm", "output"),
            "resid_post": Tap("layers.{i}", "output"),
        }

    @staticmethod
    @override
    def tiny(model_type: str, sizes: dict[str, Any]) -> dict[str, Any]:
        found = Llama.tiny(model_type, sizes)
        # The attention scale of Gemma is its own setting, made for heads of 256.
        found |= {"query_pre_attn_scalar": found["head_dim"], "sliding_window": 64}
        if model_type != "gemma3":
            return found
        seeing = {
            name: sizes[name]
            for name in ("hidden_size", "num_attention_heads", "intermediate_size")
        }
        seeing |= {"num_hidden_layers": 1, "image_size": 28, "patch_size": 14}
        return {"text_config": found, "vision_config": seeing, "mm_tokens_per_image": 1}
