"""GPT-2: attention, then MLP, each after a LayerNorm; learned positions."""

from typing import Any, final

from typing_extensions import override

from saekit.models.family import Family, Tap, registry


@final
@registry.register
class GPT2(Family):
    """GPT-2; `embed` is the token embedding, before positions are added."""

    name = "gpt2"
    model_types = ("gpt2",)
    embed = "wte"
    final_norm = "ln_f"

    @staticmethod
    @override
    def points(config: Any) -> dict[str, Tap]:
        return {
            "resid_pre": Tap("h.{i}", "input"),
            "z": Tap("h.{i}.attn.c_proj", "input"),
            "attn_out": Tap("h.{i}.attn", "output"),
            "resid_mid": Tap("h.{i}.ln_2", "input", shared=True),
            "mlp_normalized": Tap("h.{i}.mlp", "input", norm="h.{i}.ln_2"),
            "mlp_in": Tap("h.{i}.mlp", "input"),
            "mlp_acts": Tap("h.{i}.mlp.c_proj", "input"),
            "mlp_out": Tap("h.{i}.mlp", "output"),
            "resid_post": Tap("h.{i}", "output"),
        }
