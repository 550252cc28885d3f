"""GPT-NeoX (Pythia): attention and MLP read the same stream and are added together."""

from typing import Any, final

from typing_extensions import override

from saekit.models.family import Family, Tap, registry


@final
@registry.register
class GPTNeoX(Family):
    """Pythia and GPT-NeoX; there is no `resid_mid` where the residual is parallel."""

    name = "gpt_neox"
    model_types = ("gpt_neox",)
    embed = "embed_in"
    final_norm = "final_layer_norm"

    @staticmethod
    @override
    def points(config: Any) -> dict[str, Tap]:
        norm = "layers.{i}.post_attention_layernorm"
        points = {
            "resid_pre": Tap("layers.{i}", "input"),
            "z": Tap("layers.{i}.attention.dense", "input"),
            "attn_out": Tap("layers.{i}.attention", "output"),
            "resid_mid": Tap(norm, "input", shared=True),
            "mlp_normalized": Tap("layers.{i}.mlp", "input", norm=norm),
            "mlp_in": Tap("layers.{i}.mlp", "input"),
            "mlp_acts": Tap("layers.{i}.mlp.dense_4h_to_h", "input"),
            "mlp_out": Tap("layers.{i}.mlp", "output"),
            "resid_post": Tap("layers.{i}", "output"),
        }
        if config.use_parallel_residual:
            del points["resid_mid"]
        return points
