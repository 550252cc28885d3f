"""Qwen 2 and 3: blocks laid out as Llama's, with biases or norms inside attention."""

from typing import Any, final

from typing_extensions import override

from saekit.models.families.llama import Llama
from saekit.models.family import Family, Tap, registry


@final
@registry.register
class Qwen(Family):
    """Qwen 2, 2.5 and 3, dense models."""

    name = "qwen"
    model_types = ("qwen2", "qwen3")
    tiny_type = "qwen3"
    embed = Llama.embed
    final_norm = Llama.final_norm

    @staticmethod
    @override
    def points(config: Any) -> dict[str, Tap]:
        return Llama.points(config)

    @staticmethod
    @override
    def tiny(model_type: str, sizes: dict[str, Any]) -> dict[str, Any]:
        return Llama.tiny(model_type, sizes)
