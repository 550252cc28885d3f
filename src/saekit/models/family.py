"""Family: where the points of a block are, for models that share a layout."""

import abc
from typing import Any, ClassVar, Literal, NamedTuple

import saekit.models.families as package
from saekit.core.errors import UnknownNameError, nearest
from saekit.core.registry import Registry


class Tap(NamedTuple):
    """The input or the output of a module: an activation a hook can see and change.

    Args:
        module: path below the decoder; ``{i}`` stands for the layer.
        side: which end of the module.
        shared: the block goes on to use the very tensor that is the module's input (as its
            residual branch), so a replacement is written into that tensor.
    """

    module: str
    side: Literal["input", "output"]
    shared: bool = False


class Family(abc.ABC):
    """A layout of decoder blocks, known to transformers under some model types.

    Paths start below the decoder (what ``get_decoder`` of the transformers model returns).
    A new family is one file in `saekit/models/families`; `selfcheck` proves it right.
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    embed: ClassVar[str]  # path of the token embedding
    final_norm: ClassVar[str]  # path of the norm before the unembedding
    gain_offset: ClassVar[float] = 0.0  # the norm multiplies by weight + gain_offset
    tiny_type: ClassVar[str] = ""  # what `tiny` makes for the family's name; "": the first type

    @staticmethod
    @abc.abstractmethod
    def points(config: Any) -> dict[str, Tap]:
        """Return the points of a block, in the order a forward pass meets them.

        Args:
            config: the text part of the transformers configuration.
        """

    @staticmethod
    def tiny(model_type: str, sizes: dict[str, Any]) -> dict[str, Any]:
        """Return settings of a small model of one of the family's types.

        `saekit.models.tiny` and the contract of families make it, with random weights.

        Args:
            model_type: one of `model_types`.
            sizes: of the model, under the names that most of transformers' configurations share:
                ``hidden_size``, ``num_hidden_layers``, ``num_attention_heads`` and so on.
        """
        del model_type
        return sizes


registry = Registry[Family]("model family", package)


def family_of(model_type: str) -> type[Family]:
    """Return the family of a transformers model type.

    Raises:
        UnknownNameError: no family has this layout.
    """
    families = [registry.get(name) for name in registry.names()]
    for family in families:
        if model_type in family.model_types:
            return family
    known = sorted(t for family in families for t in family.model_types)
    raise UnknownNameError(
        f"Models of type `{model_type}` have no map of sites; there are maps for "
        f"{', '.join(known)}.{nearest(model_type, known)} A map for another type is one file "
        f"in saekit/models/families."
    )
