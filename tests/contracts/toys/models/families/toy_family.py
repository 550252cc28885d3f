"""Toy: a family of models in one file: StarCoder 2, whose blocks are laid out as Llama's."""

from typing import final

from saekit.models.families.llama import Llama
from saekit.models.family import Family, Tap, registry


@final
@registry.register
class ToyFamily(Family):
    """StarCoder 2."""

    name = "toy_family"
    model_types = ("starcoder2",)
    embed = "embed_tokens"
    final_norm = "norm"

    @staticmethod
    def points(config):
        return Llama.points(config) | {"mlp_acts": Tap("layers.{i}.mlp.c_proj", "input")}

    @staticmethod
    def tiny(model_type, sizes):
        return sizes | {"num_key_value_heads": 2}
