"""Llama and the models with its blocks: attention, then MLP, each after an RMS norm."""

from typing import Any, final

from typing_extensions import override

from saekit.models.family import Family, Tap, registry


@final
@registry.register
class Llama(Family):
    """Llama, Mistral, SmolLM and others with the same block."""

    name = "llama"
    model_types = ("llama", "mistral", "phi3", "smollm3")
    embed = "embed_tokens"
    final_norm = "norm"

    @staticmethod
    @override
    def points(config: Any) -> dict[str, Tap]:
        norm = "layers.{i}.post_attention_layernorm"
        return {
            "resid_pre": Tap("layers.{i}", "input"),
            "z": Tap("layers.{i}.self_attn.o_proj", "input"),
            "attn_out": Tap("layers.{i}.self_attn", "output"),
            "resid_mid": Tap(norm, "input", shared=True),
            "mlp_normalized": Tap("layers.{i}.mlp", "input", norm=norm),
            "mlp_in": Tap("layers.{i}.mlp", "input"),
            "mlp_acts": Tap("layers.{i}.mlp.down_proj", "input"),
            "mlp_out": Tap("layers.{i}.mlp", "output"),
            "resid_post": Tap("layers.{i}", "output"),
        }

    @staticmethod
    @override
    def tiny(model_type: str, sizes: dict[str, Any]) -> dict[str, Any]:
        heads = sizes["num_attention_heads"]
        # Keys and values that heads share, as in most of these models.
        shared = {"num_key_value_heads": heads // 2, "head_dim": sizes["hidden_size"] // heads}
        return sizes | shared
