"""Gemma: scaled embeddings, norms that multiply by 1 + weight; from 2 on, norms after too."""

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
    gain_offset = 1.0

    @staticmethod
    @override
    def points(config: Any) -> dict[str, Tap]:
        if config.model_type == "gemma":
            return Llama.points(config)
        return {
            "resid_pre": Tap("layers.{i}", "input"),
            "attn_out": Tap("layers.{i}.post_attention_layernorm", "output"),
            "resid_mid": Tap("layers.{i}.pre_feedforward_layernorm", "input", shared=True),
            "mlp_in": Tap("layers.{i}.mlp", "input"),
            "mlp_out": Tap("layers.{i}.post_feedforward_layernorm", "output"),
            "resid_post": Tap("layers.{i}", "output"),
        }
